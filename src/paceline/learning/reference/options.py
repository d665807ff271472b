"""What can be turned about the reference policy, the residual on it and the student."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from paceline.errors import TrainError
from paceline.learning.checks import check_number, check_whole


@dataclass(frozen=True, kw_only=True, slots=True)
class LightgbmOptions:
    """Of gradient-boosted trees per configuration."""

    trees: int = 100
    learning_rate: float = 0.05
    leaves: int = 15
    smallest_leaf: int = 10
    feature_share: float = 0.6  # of features that a tree sees
    sample_share: float = 0.8  # of samples that a tree sees
    l2: float = 1.0
    bins: int = 63  # that a feature's values are put into


@dataclass(frozen=True, kw_only=True, slots=True)
class ForestOptions:
    """Of the forest for all configurations at once."""

    trees: int = 100
    smallest_leaf: int = 2
    feature_share: float = 0.33  # of features that a split may use


@dataclass(frozen=True, kw_only=True, slots=True)
class OutcomeNetworkOptions:
    """Of the networks that predict accuracy; two hidden layers."""

    members: int = 3  # trained side by side; the mean of their predictions counts
    hidden: int = 128
    dropout: float = 0.4
    epochs: int = 60
    batch_size: int = 64
    learning_rate: float = 3e-3  # cosine to zero
    weight_decay: float = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class ResidualOptions:
    """Of the group-relative policy optimisation of a residual on the reference policy, one network per fold."""

    hidden: int = 64
    dropout: float = 0.25
    epochs: int = 40
    batch_size: int = 64  # groups per network and step
    learning_rate: float = 5e-3  # cosine to zero
    weight_decay: float = 0.02
    entropy_weight: float = 0.1  # standard deviations of the reward per nat
    kl_weight: float = 0.15  # likewise, from the reference policy
    share: float = 0.5  # of the optimised policy in the teacher; the rest is the reference itself


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentOptions:
    """Of the network that is distilled from the teacher and decides."""

    members: int = 3  # networks whose mean decides
    hidden: int = 128
    dropout: float = 0.2
    steps: int = 1000  # at least; more on tables where they would not cover the samples `epochs` times
    epochs: int = 40
    batch_size: int = 64  # real samples per step
    synthetic_batch_size: int = 128  # made-up samples per step
    synthetic_per_sample: int = 16
    most_synthetic: int = 50_000
    learning_rate: float = 4e-3  # cosine to zero
    weight_decay: float = 0.02
    sharpness: float = 3.0  # spread of the teacher's logits that are imitated, in standard deviations
    reward_weight: float = (
        1.0  # of the exact expected reward on real samples beside the imitation; less on noisy
    )
    # answers, see `student.trust`
    outcome_weight: float = 0.1  # of predicting accuracy, which keeps scores on its scale


MOST_REPEATS = 4
REPEATED_SAMPLES = 2000
"""Folds are repeated until as many samples were predicted."""
REPEATED_CONFIGURATIONS = 16
"""With more of them models are cross-fitted once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceOptions:
    """Of GRPO on a reference policy: stacked outcome models, a residual on them, and a student.

    >>> ReferenceOptions.from_json(ReferenceOptions(folds=4).to_json()).folds
    4
    """

    folds: int = 5  # outcome models are fitted on all but one, residual policies validated on that one
    repeats: int | None = None  # of the folds, each time others; None: as `repeats_for` says
    learned_share: float = (
        0.5  # of weights by non-negative least squares in the stack; the rest is the plain mean
    )
    # Spread of the reference policy's logits, in standard deviations, where there are neither budgets nor prices; else
    # logits are accuracy / `TrainOptions.temperature`.
    sharpness: float = 1.2
    lightgbm: LightgbmOptions = field(default_factory=LightgbmOptions)
    forest: ForestOptions = field(default_factory=ForestOptions)
    network: OutcomeNetworkOptions = field(default_factory=OutcomeNetworkOptions)
    residual: ResidualOptions = field(default_factory=ResidualOptions)
    student: StudentOptions = field(default_factory=StudentOptions)

    def __post_init__(self) -> None:
        check_whole("reference.folds", self.folds, 2)
        check_number("reference.learned_share", self.learned_share, at_most=1.0)
        check_number("reference.sharpness", self.sharpness, above=0.0)
        for part in PARTS:
            _check_part(part, getattr(self, part))
        if self.repeats is not None:
            check_whole("reference.repeats", self.repeats, 1)

    def repeats_for(self, samples: int, configurations: int) -> int:
        """How often models are cross-fitted: on few samples one set of folds is luck; many configurations cost time.

        >>> [ReferenceOptions().repeats_for(samples, 5) for samples in (100, 900, 5000)]
        [4, 3, 1]
        >>> ReferenceOptions().repeats_for(100, 64)
        1
        """
        if self.repeats is not None:
            return self.repeats
        if configurations > REPEATED_CONFIGURATIONS:
            return 1
        return min(MOST_REPEATS, max(1, math.ceil(REPEATED_SAMPLES / samples)))

    def to_json(self) -> dict[str, Any]:
        """A JSON value from which `from_json` makes equal options."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ReferenceOptions":
        """Options written by `to_json`; unknown keys are errors, missing ones take the default."""
        unknown = sorted(set(value) - {item.name for item in fields(cls)})
        for name, part in PARTS.items():
            unknown += sorted(set(value.get(name, {})) - {item.name for item in fields(part)})
        if unknown:
            raise TrainError(f"reference options: got unknown {unknown}, expected names of ReferenceOptions")
        return cls(
            **{name: PARTS[name](**given) if name in PARTS else given for name, given in value.items()}
        )


MAY_BE_ZERO = {"residual.epochs", "student.synthetic_per_sample", "student.most_synthetic"}
"""Whole numbers that may be 0; of all others there is at least one."""
SHARES = {"feature_share", "sample_share", "share"}
"""Numbers of at most 1."""
LEAST = {"lightgbm.leaves": 2, "lightgbm.bins": 2}


def _check_part(part: str, options: Any) -> None:
    """TrainError for a number that an option of a part cannot be."""
    for item in fields(options):
        name, value = f"{part}.{item.name}", getattr(options, item.name)
        if item.type in (int, "int"):
            check_whole(f"reference.{name}", value, 0 if name in MAY_BE_ZERO else LEAST.get(name, 1))
        elif item.name == "dropout":
            check_number(f"reference.{name}", value, below=1.0)
        elif name == "student.sharpness":
            check_number(f"reference.{name}", value, above=0.0)
        elif item.name in SHARES or item.name == "learning_rate":
            low = 0.0 if name != "residual.share" else None
            check_number(f"reference.{name}", value, above=low, at_most=1.0)
        elif item.type in (float, "float"):
            check_number(f"reference.{name}", value)


PARTS: dict[str, Any] = {
    "lightgbm": LightgbmOptions,
    "forest": ForestOptions,
    "network": OutcomeNetworkOptions,
    "residual": ResidualOptions,
    "student": StudentOptions,
}
