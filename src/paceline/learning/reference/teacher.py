"""The teacher: a stacked reference policy, optimised group-relatively by a residual.

Where an outcome is worth the same under every budget there is one channel; where times are known only afterwards, one
per deadline and one without (PAR10), since what an outcome is worth depends on it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from paceline.errors import TrainError
from paceline.learning.inputs import FittedInputs
from paceline.learning.problem import PENALTY, Problem
from paceline.learning.progress import Progress, SilentProgress
from paceline.learning.reference.contexts import ContextSource
from paceline.learning.reference.crossfit import CrossFit, cross_fit, mean_of, scene_folds
from paceline.learning.reference.options import ReferenceOptions
from paceline.learning.reference.outcome_models import fit_forest, fit_lightgbm, fit_network
from paceline.learning.reference.prediction_store import PredictionStore
from paceline.learning.reference.residual import ResidualPolicy, fit_residual
from paceline.learning.reference.stack import Stack, centred, stack

MODELS = ("lightgbm", "forest", "network")
SEEDS_APART = 1000
"""Seeds of models are this far apart from one set of folds to the next."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TaughtChannel:
    """What the teacher knows about one channel, for the samples it was fitted on and for those it was asked about."""

    budget_ms: float | None  # the deadline; None: without one, or for all budgets alike
    fold: np.ndarray  # int64 (n,)
    stack: Stack
    policy: ResidualPolicy
    held_out: (
        np.ndarray
    )  # float64 (n, m): values of the optimised policy by the network that did not see the sample
    share: float  # of the optimised policy in the teacher's values
    curve: list[float]  # expected reward of held-out folds by epoch, in standard deviations of the reward

    def stacked_values(self, part: int) -> np.ndarray:
        """Values of plain stacking for the asked samples number `part`, (k, m)."""
        return self.stack.asked[part]

    def values(self, part: int, prepared: np.ndarray, budget_ms: float | None) -> np.ndarray:
        """Values of the teacher for the asked samples number `part`, whose prepared features are (k, columns)."""
        reference = self.stack.asked[part]
        optimised = self.policy.mean_values(prepared, reference, budget_ms)
        return self.share * optimised + (1.0 - self.share) * reference


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Teacher:
    """Channels and what they share."""

    channels: list[TaughtChannel]
    inputs: FittedInputs
    prepared: np.ndarray  # float32 (n, columns): features of the fitted samples
    decision_us: float  # of one sample under one budget, by all its models
    seconds: dict[str, float]  # of "stacking" and of "residual"

    def channel(self, budget_ms: float | None) -> TaughtChannel:
        """The channel of a deadline; the only one where there is one."""
        if len(self.channels) == 1:
            return self.channels[0]
        for channel in self.channels:
            if channel.budget_ms == budget_ms or (
                channel.budget_ms is not None
                and budget_ms is not None
                and np.isclose(channel.budget_ms, budget_ms)
            ):
                return channel
        known = [channel.budget_ms for channel in self.channels]
        raise TrainError(
            f"teacher: got a deadline of {budget_ms} ms, expected one it was fitted for: {known}"
        )


def targets_of(problem: Problem, budget_ms: float | None) -> tuple[np.ndarray, np.ndarray]:
    """What outcome models regress, and what policies earn, (n, m) each, under a budget.

    Both are the accuracy, except for runtimes without a deadline: runtimes span decades and a few unsolved samples
    would drown all others, so that models regress 1 - log PAR10 / log(10 cutoff), and policies earn the mean of this
    and 1 - PAR10 / (10 cutoff), each in its own spread.
    """
    worth = problem.under(budget_ms).accuracy
    if problem.cutoff_ms is None or budget_ms is not None:
        return worth, worth
    longest = PENALTY * problem.cutoff_ms
    shortest = max(float(problem.measured_ms.min()), longest * 1e-7)
    times = np.clip(problem.par10_ms, shortest, None)
    smooth = np.log(longest / times) / np.log(longest / shortest)
    spreads = [max(float(centred(values).std()), 1e-12) for values in (worth, smooth)]
    return smooth, 0.5 * (centred(worth) / spreads[0] + centred(smooth) / spreads[1])


def fit_teacher(
    problem: Problem,
    asked: Sequence[np.ndarray],
    budgets_ms: Sequence[float | None],
    options: ReferenceOptions,
    *,
    inputs: FittedInputs,
    average_share: float = 0.5,
    tie_break: float = 0.01,
    temperature: float = 0.05,
    balanced_budgets: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    store: PredictionStore | None = None,
) -> Teacher:
    """Fit the teacher on all samples of `problem`, by inner folds of its scenes.

    Args:
        asked: arrays of features (k, f) that its values are wanted for.
        temperature: accuracy per unit of logits, under budgets and prices.
        store: keeps predictions of an interrupted run.
        budgets_ms: the deadlines to be good at, where times are known only afterwards; None is without one.

    Raises:
        TrainError: a single scene.
    """
    progress = progress or SilentProgress()
    count = min(options.folds, len(np.unique(problem.scene)))
    if count < 2:
        raise TrainError(
            "reference policy: got 1 image or sample to train on, expected at least 2, one per inner fold; "
            "profile more samples"
        )
    if count < options.folds:
        progress.message(f"{count} inner folds: there are no more different images or samples to train on")
    deadlines: list[float | None] = [None] if problem.cutoff_ms is None else list(budgets_ms)
    repeats = options.repeats_for(problem.samples, len(problem.actions))
    fits = count * sum(_repeats(name, repeats) for name in MODELS)
    progress.start(len(deadlines) * fits, "reference policy")
    prepared = inputs.prepare(problem.features)
    prepared_asked = [inputs.prepare(part) for part in asked]
    folds = [scene_folds(problem.scene, count, seed + repeat) for repeat in range(repeats)]
    fold = folds[0]
    channels, decision_us, seconds = [], 0.0, {"stacking": 0.0, "residual": 0.0}
    for index, deadline in enumerate(deadlines):
        started = time.perf_counter()
        target, reward = targets_of(problem, deadline)
        predictions: dict[str, CrossFit] = {}
        for name in MODELS:
            parts = []
            for repeat, labels in enumerate(folds[: _repeats(name, repeats)]):
                key = f"{index}/{name}/{repeat}"
                known = store.get(key) if store is not None else None
                if known is not None:
                    progress.advance(count)
                else:
                    raw = name != "network"
                    known = cross_fit(
                        _fit_function(name, options),
                        problem.features if raw else prepared,
                        target,
                        labels,
                        asked if raw else prepared_asked,
                        seed + SEEDS_APART * repeat,
                        progress.advance,
                    )
                    if store is not None:
                        store.put(key, known)
                parts.append(known)
            predictions[name] = mean_of(parts)
        stacked = stack(list(predictions.values()), reward, options.learned_share)
        stacked_at = time.perf_counter()
        policy, held_out, curve = fit_residual(
            prepared,
            stacked.held_out,
            reward,
            fold,
            ContextSource(problem, average_share, tie_break, balanced=balanced_budgets),
            options.residual,
            temperature=_temperature(problem, stacked, options, temperature),
            seed=seed,
        )
        channels.append(
            TaughtChannel(
                budget_ms=deadline,
                fold=fold,
                stack=stacked,
                policy=policy,
                held_out=held_out,
                share=options.residual.share,
                curve=curve,
            )
        )
        seconds["stacking"] += stacked_at - started
        seconds["residual"] += time.perf_counter() - stacked_at
        decision_us = sum(model.sample_us for model in predictions.values())
    return Teacher(
        channels=channels, inputs=inputs, prepared=prepared, decision_us=decision_us, seconds=seconds
    )


def _repeats(name: str, repeats: int) -> int:
    """Networks are cross-fitted once: they are means of several already, and take longest."""
    return 1 if name == "network" else repeats


def _temperature(problem: Problem, stacked: Stack, options: ReferenceOptions, temperature: float) -> float:
    """Reward per unit of logits of the policies that are optimised.

    Under prices a soft policy would learn to lean to cheap configurations, which the greedy decision needs not; it is
    as sharp as all other policies then. Without any, it is as soft as the recipe has it.
    """
    return temperature if problem.cutoff_ms is None else stacked.spread / options.sharpness


def _fit_function(name: str, options: ReferenceOptions) -> Callable[[np.ndarray, np.ndarray, int], Callable]:
    functions = {
        "lightgbm": partial(fit_lightgbm, options=options.lightgbm),
        "forest": partial(fit_forest, options=options.forest),
        "network": partial(fit_network, options=options.network),
    }
    fit = functions[name]

    def fitted(features: np.ndarray, target: np.ndarray, seed: int) -> Callable:
        return fit(features, target, np.ones(target.shape, dtype=bool), seed=seed)

    return fitted
