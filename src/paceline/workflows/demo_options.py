"""How much work the demo does."""

from dataclasses import dataclass, field, replace

from paceline.errors import ProfileError
from paceline.learning.options import TrainOptions
from paceline.learning.reference.options import (
    ForestOptions,
    LightgbmOptions,
    OutcomeNetworkOptions,
    ReferenceOptions,
    ResidualOptions,
    StudentOptions,
)
from paceline.profiling.options import ProfileOptions

QUICK = ReferenceOptions(
    folds=2,
    repeats=1,
    lightgbm=LightgbmOptions(trees=20, learning_rate=0.2),
    forest=ForestOptions(trees=20),
    network=OutcomeNetworkOptions(members=1, epochs=20),
    residual=ResidualOptions(epochs=5),
    student=StudentOptions(members=1, steps=300, epochs=10),
)
"""Of a demo that only shows that everything runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoOptions:
    """Options of `run_demo`; the defaults take a few minutes on two cores."""

    model: str = "tiny"
    task: str = "digits"
    profile: ProfileOptions = field(
        default_factory=lambda: ProfileOptions(
            configurations=40,
            samples=800,
            timed_samples=72,  # what the calibration of the promised violation rate needs outside the test split
            splits=(0.6, 0.15, 0.25),
            batch_threads=2,
        )
    )
    train: TrainOptions = field(default_factory=TrainOptions)
    # Learners to compare with; teacher and stacking show what of the student's gain is not policy optimisation.
    rivals: tuple[str, ...] = ("grpo_teacher", "stacking", "supervised")
    replicates: int = 1000  # of the bootstrap
    requests: int = 200  # live, per kind of budget
    violation_rate: float = 0.05  # promised share of requests over a hard budget
    seed: int = 0

    def __post_init__(self) -> None:
        if self.requests < 1:
            raise ProfileError(f"requests: got {self.requests}, expected 1 or more")
        if self.profile.seed != self.seed or self.train.seed != self.seed:
            object.__setattr__(self, "profile", replace(self.profile, seed=self.seed))
            object.__setattr__(self, "train", replace(self.train, seed=self.seed))

    @classmethod
    def quick(cls, seed: int = 0) -> "DemoOptions":
        """A tenth of the work."""
        profile = ProfileOptions(
            configurations=12,
            samples=96,
            timed_samples=24,
            shard_samples=8,
            splits=(0.5, 0.25, 0.25),
        )
        train = TrainOptions(reference=QUICK)
        return cls(profile=profile, train=train, replicates=200, requests=20, seed=seed)
