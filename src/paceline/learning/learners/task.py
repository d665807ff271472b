"""What every learner is given, the same for all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from paceline.errors import TrainError
from paceline.latency.estimate import LatencyEstimator
from paceline.learning.input_options import parse_reduction
from paceline.learning.inputs import FittedInputs, fit_inputs, input_spec
from paceline.learning.options import TrainOptions
from paceline.learning.preparation import TrainPreparation, train_preparation
from paceline.learning.problem import Problem, problem_of
from paceline.learning.progress import Progress, SilentProgress
from paceline.outcomes.table import OutcomeTable
from paceline.policies.inputs import InputSpec


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LearnerTask:
    """Samples to learn from, samples to stop and to find prices on, and what will be asked."""

    table: OutcomeTable  # train and validation samples
    latency: LatencyEstimator
    fit: Problem  # all of them: what static configurations and lookups are chosen on
    train: Problem
    validation: Problem
    asked: Sequence[Problem]  # features of these will be judged; their outcomes are not to be looked at
    deadlines_ms: Sequence[float]  # that will be asked for where times are known only afterwards
    options: TrainOptions
    inputs: FittedInputs  # of features, fitted on `train`
    input_spec: InputSpec
    preparation: TrainPreparation  # of `train`
    progress: Progress = field(default_factory=SilentProgress)

    @property
    def seed(self) -> int:
        """Of everything random."""
        return self.options.seed

    @property
    def channels(self) -> list[float | None]:
        """Budgets under which outcomes are worth something different: None alone where times are known in advance."""
        return [None] if self.train.cutoff_ms is None else [None, *self.deadlines_ms]


def make_task(
    fit_table: OutcomeTable,
    test: Problem,
    latency: LatencyEstimator,
    options: TrainOptions,
    deadlines_ms: Sequence[float],
    progress: Progress,
) -> LearnerTask:
    """The task of learning from `fit_table` (train and validation samples, all complete) to choose for `test`.

    Prices of time are found on validation samples, so nobody may train on them; where times are runtimes there are no
    prices and everybody may. Raises TrainError without samples in either split.
    """
    fit = problem_of(fit_table, latency)
    fit = fit.with_unit(fit.unit_ms)
    held = fit_table.split == "validation"
    if held.all() or not held.any():
        raise TrainError(
            f"outcomes: {int((~held).sum())} complete train and {int(held.sum())} complete validation samples, "
            "expected some of both; profile more samples or split again"
        )
    validation = fit.select(held)
    train = fit if fit.cutoff_ms is not None else fit.select(~held)
    spec = input_spec(fit_table, train.configuration_mean_ms, options)
    reduction, reduced = parse_reduction(options.reduce)
    return LearnerTask(
        table=fit_table,
        latency=latency,
        fit=fit,
        train=train,
        validation=validation,
        asked=(validation, test.with_unit(fit.unit_ms)),
        deadlines_ms=tuple(deadlines_ms) if fit.cutoff_ms is not None else (),
        options=options,
        inputs=fit_inputs(
            train.features,
            fit_table.image_width,
            fit_table.feature_choice,
            method=spec.feature_scaling,
            components=reduced if reduction == "pca" else None,
        ),
        input_spec=spec,
        preparation=train_preparation(_trained_on(fit_table, fit.cutoff_ms is not None), options),
        progress=progress,
    )


def _trained_on(table: OutcomeTable, validation_too: bool) -> OutcomeTable:
    return table if validation_too else table.select(table.split != "validation")


Model: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(raw features, prepared features) -> values (k, m)."""


def by_channel(
    task: LearnerTask, fit: Callable[[Problem, float | None], Model]
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
    raise ValueError(
        f"budget {budget_ms} ms: expected one of {list(channels)}, which the learner was fitted for"
    )
