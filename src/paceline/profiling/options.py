"""What a user of `paceline profile` turns."""

import math
from dataclasses import dataclass

from paceline.errors import ProfileError

PLANS = ("full", "balanced", "lhs")
DEFAULT_TIMED_SAMPLES = 96


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileOptions:
    """Options of one sweep, saved with its outcomes.

    Raises:
        ProfileError: a value out of range.
    """

    plan: str = "lhs"  # "full", "balanced" (an even grid) or "lhs" (Latin hypercube)
    configurations: int | None = None  # to test; None: 48, or all under plan "full"
    samples: int = 400  # questions in all three splits together
    splits: tuple[float, float, float] = (0.60, 0.15, 0.25)  # shares of train, validation and test
    timed_samples: int | None = (
        None  # of the samples, how many also run at batch 1 for latency; None: up to 96
    )
    repeats: int = 1  # timed calls of each of their cells; the table keeps the median, which hides tails
    warmup: int = 3  # untimed rounds over all configurations before the first timed call of a process
    importance_samples: int = 32  # training samples on which blocks are ranked; 0: keep the model's own order
    shard_samples: int = 48  # samples per shard: what a kill can lose
    batch: int = 48  # samples answered at once when only their accuracy is measured
    batch_threads: int | None = None  # threads of batched answers; latency keeps the process's own number
    max_new_tokens: int | None = None  # None: what the task needs
    seed: int = 0  # of the samples, the plan and the order of timed calls

    def __post_init__(self) -> None:
        if self.plan not in PLANS:
            raise ProfileError(f"plan: got {self.plan!r}, expected one of {list(PLANS)}")
        least = {"samples": 1, "repeats": 1, "warmup": 0, "importance_samples": 0}
        least |= {"shard_samples": 1, "batch": 1, "seed": 0}
        optional = {"configurations": 1, "max_new_tokens": 1, "timed_samples": 0, "batch_threads": 1}
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
        shares = self.splits
        if len(shares) != 3 or not all(math.isfinite(share) and share >= 0 for share in shares):
            raise ProfileError(f"splits: got {shares}, expected shares of train, validation and test")
        if abs(sum(shares) - 1) > 1e-6:
            raise ProfileError(f"splits: shares {shares} add up to {sum(shares):g}, expected 1")

    @property
    def timed(self) -> int:
        """How many samples are timed."""
        default = min(DEFAULT_TIMED_SAMPLES, self.samples)
        return default if self.timed_samples is None else self.timed_samples
