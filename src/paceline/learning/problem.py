"""What a chooser is judged on: accuracy, expected and upper latency of every sample under every configuration."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np

from paceline.errors import OutcomesError
from paceline.knobs import KnobSpace
from paceline.latency.estimate import LatencyEstimator
from paceline.latency.quantity import COST, Quantity
from paceline.latency.spending import spent_costs
from paceline.outcomes.table import OutcomeTable

PENALTY = 10.0
"""Of PAR10: a sample that is not solved counts as this many cutoffs (Bischl et al. 2016, ASlib)."""

PER_SAMPLE = (
    "accuracy",
    "mean_ms",
    "upper_ms",
    "measured_ms",
    "kind",
    "scene",
    "dataset",
    "image_features",
    "question_features",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """n samples, m configurations; every configuration was tested on every sample.

    Of a table of runtimes (`cutoff_ms` is set) the time of a choice is known only afterwards: nothing is infeasible,
    expected times are the configuration's mean, and what an outcome is worth depends on the deadline: see `under`.
    """

    space: KnobSpace
    actions: np.ndarray  # int64 (m,)
    accuracy: np.ndarray  # float64 (n, m) in [0, 1]
    mean_ms: np.ndarray  # float64 (n, m): expected latency, or cost
    upper_ms: np.ndarray  # float64 (n, m): calibrated upper latency
    measured_ms: np.ndarray  # float64 (n, m); NaN = not timed
    kind: np.ndarray  # str (n,)
    scene: np.ndarray  # str (n,): equal for equal images
    dataset: np.ndarray  # str (n,)
    image_features: np.ndarray  # float32 (n, image_width)
    question_features: np.ndarray  # float32 (n, question_width)
    cutoff_ms: float | None = None  # of a table of runtimes: when a run was stopped
    priced: bool = False  # whether expected times are costs
    full_ms: float | None = None  # unit of prices; None: the full configuration's mean latency here

    def __post_init__(self) -> None:
        if np.isnan(self.accuracy).any() or not len(self.accuracy):
            raise OutcomesError(
                "evaluation: expected at least one sample and an outcome in every cell; select complete samples"
            )

    @property
    def samples(self) -> int:
        """Number of samples, n."""
        return len(self.accuracy)

    @cached_property
    def features(self) -> np.ndarray:
        """float32 (n, f): image features, then question features."""
        return np.concatenate([self.image_features, self.question_features], axis=1)

    @cached_property
    def configuration_mean_ms(self) -> np.ndarray:
        """Mean expected latency per configuration, (m,)."""
        return self.mean_ms.mean(axis=0)

    @cached_property
    def spent_ms(self) -> np.ndarray:
        """What counts against a mean budget, (n, m): costs as they were, where known; expected latencies.

        A cost may differ from sample to sample and is expected at its configuration's mean. A latency that was timed
        once is noisier than what is expected of it.
        """
        return spent_costs(self.measured_ms, self.mean_ms) if self.priced else self.mean_ms

    @property
    def cheapest(self) -> int:
        """Column of the configuration with the lowest mean latency."""
        return int(np.argmin(self.configuration_mean_ms))

    @property
    def full(self) -> int:
        """Column of the space's full configuration; of the slowest if the full one was not tested."""
        found = np.flatnonzero(self.actions == self.space.action(self.space.full))
        return int(found[0]) if len(found) else int(np.argmax(self.configuration_mean_ms))

    @cached_property
    def unit_ms(self) -> float:
        """Mean latency of the full configuration: what a price of time is charged per.

        A problem that belongs to another takes that one's with `with_unit`, so that prices mean the same in both.
        """
        return self.full_ms if self.full_ms is not None else float(self.configuration_mean_ms[self.full])

    @cached_property
    def sample_full_ms(self) -> np.ndarray:
        """What the full configuration is expected to take on each sample, (n,); the slowest if it was not tested."""
        full = self.actions == self.space.action(self.space.full)
        return self.mean_ms[:, full][:, 0] if full.any() else self.mean_ms.max(axis=1)

    def digest(self) -> str:
        """Hash of the contents, so that a checkpoint is never resumed on other data."""
        state = hashlib.sha256(
            repr((self.space.to_json(), self.cutoff_ms, self.priced, self.full_ms)).encode()
        )
        for name in ("actions", *PER_SAMPLE):
            array = getattr(self, name)
            if array.dtype.kind not in "iufb":  # texts, of which arrays may hold the places alone
                state.update(repr(array.tolist()).encode())
                continue
            state.update(repr((array.dtype.str, array.shape)).encode())
            state.update(np.ascontiguousarray(array).data)
        return state.hexdigest()

    def with_unit(self, unit_ms: float) -> "Problem":
        """The same problem with a given unit of prices; itself if it has this one."""
        return self if self.full_ms == unit_ms else replace(self, full_ms=unit_ms)

    def feasible(self, budget_ms: float) -> np.ndarray:
        """bool (n, m): upper latency within the budget."""
        return self.upper_ms <= budget_ms

    def under(self, budget_ms: float | None) -> "Problem":
        """The problem whose accuracies are what outcomes are worth under a budget; itself unless times are runtimes.

        With a deadline, answers that came too late count 0. Without one, the worth is 1 - PAR10 / (10 cutoff), in
        [0, 1]: closed gaps of its mean are closed gaps of PAR10.
        """
        if self.cutoff_ms is None:
            return self
        if budget_ms is None or math.isinf(budget_ms):
            return replace(self, accuracy=1.0 - self.par10_ms / (PENALTY * self.cutoff_ms))
        return replace(self, accuracy=np.where(self.measured_ms <= budget_ms, self.accuracy, 0.0))

    @property
    def par10_ms(self) -> np.ndarray:
        """Runtime, or ten times the cutoff where the sample was not solved, float64 (n, m)."""
        if self.cutoff_ms is None:
            raise OutcomesError(
                "PAR10: the table's times are known in advance; import it with --latency-unknown"
            )
        solved = self.accuracy > 0
        return np.where(solved, np.minimum(self.measured_ms, self.cutoff_ms), PENALTY * self.cutoff_ms)

    def select(self, rows: np.ndarray) -> "Problem":
        """The problem of some samples. `rows`: boolean mask (n,) or integer indices."""
        return replace(self, **{name: getattr(self, name)[rows] for name in PER_SAMPLE})


def problem_of(table: OutcomeTable, latency: LatencyEstimator) -> Problem:
    """The judged arrays of a table; expected and upper latencies come from the estimate for all contenders alike."""
    work = (table.tiles, table.vision_tokens, table.prompt_tokens)
    mean, upper = latency.mean_and_upper(table.actions, *work)
    return Problem(
        space=table.space,
        actions=table.actions,
        accuracy=table.accuracy.astype(np.float64),
        mean_ms=mean,
        upper_ms=upper,
        measured_ms=table.latency_ms.astype(np.float64),
        kind=table.kind,
        scene=table.image_hash,
        dataset=table.dataset,
        image_features=table.image_features,
        question_features=table.question_features,
        cutoff_ms=latency.facts.get("cutoff_ms"),
        priced=Quantity.of(latency.facts).kind == COST,
    )


def joined(problems: list[Problem]) -> Problem:
    """One problem of the samples of several that have the same configurations."""
    first = problems[0]
    if any(not np.array_equal(other.actions, first.actions) for other in problems):
        raise OutcomesError("evaluation: the folds tested different configurations, expected the same ones")
    parts = {name: np.concatenate([getattr(item, name) for item in problems]) for name in PER_SAMPLE}
    return replace(first, **parts)


Scorer: TypeAlias = Callable[[Problem, float | None], np.ndarray]
"""(problem, budget in ms or None) -> values on the accuracy scale, (n, m); -inf where it never chooses."""
