"""What every learner is given, the same for all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from paceline.latency.estimate import LatencyEstimator
from paceline.learning.options import TrainOptions
from paceline.learning.problem import Problem
from paceline.learning.progress import Progress, SilentProgress
from paceline.outcomes.table import OutcomeTable
from paceline.policies.inputs import InputSpec
from paceline.learning.inputs import FittedInputs


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LearnerTask:
    """Samples to learn from, samples to stop and to find prices on, and what will be asked."""

    table: OutcomeTable  # train and validation samples
    latency: LatencyEstimator
    train: Problem
    validation: Problem
    asked: Sequence[Problem]  # features of these will be judged; their outcomes are not to be looked at
    deadlines_ms: Sequence[float]  # that will be asked for where times are known only afterwards
    options: TrainOptions
    inputs: FittedInputs  # of features, fitted on `train`
    input_spec: InputSpec
    progress: Progress = field(default_factory=SilentProgress)

    @property
    def seed(self) -> int:
        """Of everything random."""
        return self.options.seed

    @property
    def channels(self) -> list[float | None]:
        """Budgets under which outcomes are worth something different: None alone where times are known in advance."""
        return [None] if self.train.cutoff_ms is None else [None, *self.deadlines_ms]


def by_channel(
    task: LearnerTask, fit: Callable[[Problem, float | None], Callable[[np.ndarray, np.ndarray], np.ndarray]]
) -> Callable[[Problem, float | None], np.ndarray]:
    """A scorer made of one model per channel.

    `fit(problem, budget)`: a problem whose accuracies are those under the budget -> a function from raw and scaled
    features to values (k, m).
    """
    models = {budget: fit(task.train.under(budget), budget) for budget in task.channels}

    def score(problem: Problem, budget_ms: float | None) -> np.ndarray:
        model = models[channel_of(budget_ms, list(models))]
        return model(problem.features, task.inputs.prepare(problem.features))

    return score


def channel_of(budget_ms: float | None, channels: Sequence[float | None]) -> float | None:
    """The channel that a budget belongs to: itself, or the only one there is."""
    if len(channels) == 1:
        return channels[0]
    for channel in channels:
        if channel == budget_ms:
            return channel
    raise ValueError(f"budget {budget_ms} ms: expected one of {list(channels)}, which the learner was fitted for")
