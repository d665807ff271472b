"""What an importer reads from one file, before files are joined."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from paceline.knobs import Configuration

VALUES = (
    "accuracy",
    "latency_ms",
    "first_token_ms",
    "tiles",
    "vision_tokens",
    "prompt_tokens",
    "output_tokens",
)
"""What may be known of one sample under one configuration; NaN where it is not."""


@dataclass(frozen=True, slots=True)
class Detail:
    """What a file says of a sample besides its outcome; empty where it says nothing."""

    question_id: str = ""
    image: str = ""
    question: str = ""
    kind: str = ""
    split: str = ""  # only in files that Paceline wrote, whose question_id is the whole name of the sample
    truth: str = (
        ""  # which entries tell the expected answers, "|", and these as JSON: equal for equal samples
    )


@dataclass(kw_only=True, slots=True)
class Run:
    """The outcomes of one file: n samples under one configuration."""

    file: str
    folder: str
    family: str  # "exp5", "exp6", "core_exp" or "lmms-eval"
    configuration: Configuration
    blocks: tuple[int, ...] | None  # the active blocks, where the file lists them
    dataset: str
    source_split: str
    rank: int | None  # None: one process, or all ranks merged
    world_size: int | None  # None: not stated
    ids: np.ndarray  # int64 (n,): sample_id as in the file
    numbering: str  # what ids count: "batch", "rank" or "global"
    details: list[Detail]  # (n,)
    values: dict[str, np.ndarray]  # of VALUES, float32 (n,); what the format never holds is left out
    copied: np.ndarray  # bool (n,): the score is that of a whole batch
    model: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.values = {name: array.astype(np.float32) for name, array in self.values.items()}

    @property
    def batched(self) -> bool:
        """Whether scores come from batches, apart from any timing."""
        return self.family in ("exp5", "lmms-eval")

    @property
    def label(self) -> str:
        """The configuration in words."""
        return configuration_label(self.configuration)

    def keep(self, rows: np.ndarray) -> "Run":
        """The run of some samples. `rows`: integers."""
        changed = {
            "ids": self.ids[rows],
            "details": [self.details[row] for row in rows.tolist()],
            "values": {name: array[rows] for name, array in self.values.items()},
            "copied": self.copied[rows],
        }
        kept = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Run(**(kept | changed))


def configuration_label(configuration: Configuration) -> str:
    """A configuration in words.

    >>> configuration_label({"top_k": 4, "max_crops": 2})
    'top_k 4, max_crops 2'
    """
    return ", ".join(f"{name} {option}" for name, option in configuration.items())
