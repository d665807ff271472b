"""What a user can say about an import."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from paceline.errors import OutcomesError
from paceline.knobs import Option
from paceline.outcomes.preparation import Preparation

JOINS = ("auto", "question_id", "position")
LATENCY_UNITS = ("ms", "s")
QUALITY_UNITS = ("fraction", "percent")
LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class TableOptions:
    """Which column of a table means what. Measures are UNIT:COLUMN, or COLUMN where its name states the unit."""

    sample: str | None = None  # None: every row is a sample of its own, only for logged decisions
    knobs: tuple[str, ...] = ()
    quality: str | None = None
    latency: str | None = None
    cost: str | None = (
        None  # UNIT:COLUMN, or UNIT:OPTION=VALUE,... for one knob with a fixed price per option
    )
    features: tuple[str, ...] = ()  # names and ranges such as f0..f45
    features_table: str | None = None  # a second file, one row per sample
    split: str | None = None  # COLUMN, or COLUMN:test=1+2,validation=3 (all other values: train)
    kind: str | None = None
    dataset: str | None = None
    question: str | None = None
    image: str | None = None
    group: str | None = None  # in place of the image: samples of a group are never in two splits
    propensity: str | None = None  # of logged decisions


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportOptions:
    """How files are read and joined."""

    latency_unit: str | None = None  # of older exp6 files that do not state it: "ms" or "s"
    quality_unit: str = "fraction"  # of scores in JSON files
    join: str = "auto"  # by question id where every file has it, else by position
    configurations: Mapping[str, Mapping[str, Option]] = field(
        default_factory=dict
    )  # of lmms-eval, by folder
    metric: str | None = None  # of lmms-eval, where a log holds several
    latency_unknown: bool = False  # latency or cost is known only after the choice was made
    features_from: str | None = None  # an outcomes directory, whose features these are made like
    strict: bool = False
    seed: int = 0  # of splits and text features
    preparation: Preparation = field(default_factory=Preparation)  # what training does with the train samples
    table: TableOptions = field(default_factory=TableOptions)

    def __post_init__(self) -> None:
        choices = {
            "join": (self.join, JOINS),
            "latency unit": (self.latency_unit, (None, *LATENCY_UNITS)),
            "quality unit": (self.quality_unit, QUALITY_UNITS),
        }
        for name, (value, expected) in choices.items():
            if value not in expected:
                listed = [item for item in expected if item is not None]
                raise OutcomesError(f"{name}: got {value!r}, expected one of {listed}")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise OutcomesError(f"seed: got {self.seed}, expected 0 to {LARGEST_SEED}")
