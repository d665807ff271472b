"""What a user of `paceline profile` turns."""

import math
from dataclasses import dataclass

from paceline.errors import ProfileError
from paceline.models.block_importance import IMPORTANCE_METHODS
from paceline.outcomes.feature_sets import KEPT

FIXED_PLANS = ("full", "balanced", "lhs")
"""Plans whose configurations are known before anything is measured."""
ADAPTIVE_PLANS = ("stratified", "boundary", "successive")
"""Plans that measure some configurations on scouting samples before they choose others."""
PLANS = (*FIXED_PLANS, *ADAPTIVE_PLANS)
RANKING_SAMPLES = 32
DEFAULT_TIMED_SAMPLES = 96
DEFAULT_SCOUT_SAMPLES = 240
DEFAULT_BOUND = 0.05
LEAST_SCOUTS = 8
"""Fewest scouting samples, and fewest of them that are timed: a median of less says little."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileOptions:
    """Options of one sweep, saved with its outcomes.

    Raises:
        ProfileError: a value out of range.
    """

    plan: str = "lhs"  # "full", "balanced" (an even grid), "lhs" (Latin hypercube) or an adaptive one
    configurations: int | None = (
        None  # to test, at most under "successive"; None: 48, or all under plan "full"
    )
    bound: float | None = None  # plan "successive" stops when no step of the frontier is higher; None: 0.05
    scout_samples: int | None = (
        None  # training and validation samples on which an adaptive plan chooses; None: up to 240
    )
    samples: int = 400  # questions in all three splits together
    splits: tuple[float, float, float] = (0.60, 0.15, 0.25)  # shares of train, validation and test
    timed_samples: int | None = (
        None  # of the samples, how many also run at batch 1 for latency; None: up to 96
    )
    repeats: int = 1  # timed calls of each of their cells; the table keeps the median, which hides tails
    warmup: int = 3  # untimed rounds over all configurations before the first timed call of a process
    importance_samples: int | None = (
        None  # training samples on which blocks are ranked; 0: keep the model's order;
    )
    # None: 32, or 0 if the model comes with a measured order
    importance: str = (
        "loss"  # blocks are ranked by the rise of the "loss" or by "similarity" of input and output
    )
    shard_samples: int = 48  # samples per shard: what a kill can lose
    batch: int = 48  # samples answered at once when only their accuracy is measured
    batch_threads: int | None = None  # threads of batched answers; latency keeps the process's own number
    max_new_tokens: int | None = None  # None: what the task needs
    features_kept: str = "stored"  # or "pooled", "all" (tokens too): feature sets beside the stored features
    seed: int = 0  # of the samples, the plan and the order of timed calls

    def __post_init__(self) -> None:
        if self.plan not in PLANS:
            raise ProfileError(f"plan: got {self.plan!r}, expected one of {list(PLANS)}")
        if self.importance not in IMPORTANCE_METHODS:
            raise ProfileError(
                f"importance: got {self.importance!r}, expected one of {list(IMPORTANCE_METHODS)}"
            )
        if self.features_kept not in KEPT:
            raise ProfileError(f"features_kept: got {self.features_kept!r}, expected one of {list(KEPT)}")
        least = {"samples": 1, "repeats": 1, "warmup": 0}
        least |= {"shard_samples": 1, "batch": 1, "seed": 0}
        optional = {"configurations": 1, "max_new_tokens": 1, "timed_samples": 0, "batch_threads": 1}
        optional |= {"importance_samples": 0, "scout_samples": LEAST_SCOUTS}
        least |= {name: minimum for name, minimum in optional.items() if getattr(self, name) is not None}
        for name, minimum in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
                raise ProfileError(f"{name}: got {value!r}, expected an integer from {minimum} on")
        if self.timed > self.samples:
            raise ProfileError(
                f"timed_samples: got {self.timed_samples}, expected at most the {self.samples} samples; "
                "profile more samples or time fewer"
            )
        self._check_splits()
        self._check_plan()

    def _check_splits(self) -> None:
        shares = self.splits
        if len(shares) != 3 or not all(math.isfinite(share) and share >= 0 for share in shares):
            raise ProfileError(f"splits: got {shares}, expected shares of train, validation and test")
        if abs(sum(shares) - 1) > 1e-6:
            raise ProfileError(f"splits: shares {shares} add up to {sum(shares):g}, expected 1")

    def _check_plan(self) -> None:
        if self.bound is not None:
            if self.plan != "successive":
                raise ProfileError(f"bound: plan {self.plan} has none, leave it out or use plan successive")
            number = isinstance(self.bound, int | float) and not isinstance(self.bound, bool)
            if not (number and 0 < self.bound < 1):
                raise ProfileError(
                    f"bound: got {self.bound!r}, expected a difference in accuracy, above 0 and below 1"
                )
        if not self.adaptive:
            if self.scout_samples is not None:
                raise ProfileError(
                    f"scout_samples: plan {self.plan} needs none, leave it out or use one of {list(ADAPTIVE_PLANS)}"
                )
        elif self.timed < LEAST_SCOUTS:
            raise ProfileError(
                f"timed_samples: got {self.timed}, expected {LEAST_SCOUTS} or more: plan {self.plan} chooses by "
                "measured latency; time more samples or use plan lhs"
            )

    @property
    def adaptive(self) -> bool:
        """Whether the plan measures before it chooses."""
        return self.plan in ADAPTIVE_PLANS

    @property
    def timed(self) -> int:
        """How many samples are timed."""
        default = min(DEFAULT_TIMED_SAMPLES, self.samples)
        return default if self.timed_samples is None else self.timed_samples
