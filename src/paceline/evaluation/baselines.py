"""The contenders that learn nothing from features: static configurations, mixes, lookup, random and oracle.

Each returns shares (n, m): the probability with which a sample gets a configuration. What is chosen is chosen on
`fit` (train and validation) and returned for `test`.
"""

from dataclasses import dataclass

import numpy as np

from paceline.evaluation.pricing import by_value, fit_price, one_hot
from paceline.learning.learners.contender import pick
from paceline.learning.problem import Problem


def static_shares(test: Problem, column: int) -> np.ndarray:
    """The same configuration for every sample."""
    return one_hot(column, *test.accuracy.shape)


def best_static(fit: Problem, budget_ms: float, violation_rate: float) -> int | None:
    """Column of the most accurate feasible configuration, the cheaper of equals; None if none is feasible.

    A configuration is feasible if at most `violation_rate` of the samples have an upper latency over the budget.
    """
    feasible = (~fit.feasible(budget_ms)).mean(axis=0) <= violation_rate
    if not feasible.any():
        return None
    return int(pick(fit.accuracy.mean(axis=0)[None], fit.configuration_mean_ms[None], feasible[None])[0])


def hard_static(fit: Problem, test: Problem, budget_ms: float, violation_rate: float) -> np.ndarray:
    """Best static; the cheapest configuration where none is feasible."""
    column = best_static(fit, budget_ms, violation_rate)
    return static_shares(test, fit.cheapest if column is None else column)


def hard_lookup(fit: Problem, test: Problem, budget_ms: float, violation_rate: float) -> np.ndarray:
    """Best static per kind of question; a kind never seen gets the overall best static."""
    shares = hard_static(fit, test, budget_ms, violation_rate)
    for kind in np.unique(fit.kind):
        seen = fit.select(fit.kind == kind)
        column = best_static(seen, budget_ms, violation_rate)
        shares[test.kind == kind] = np.eye(len(fit.actions))[seen.cheapest if column is None else column]
    return shares


def hard_random(test: Problem, budget_ms: float) -> np.ndarray:
    """Every feasible configuration of a sample with the same probability; the cheapest where none is."""
    feasible = test.feasible(budget_ms)
    fallback = one_hot(test.mean_ms.argmin(axis=1), *feasible.shape)
    allowed = np.where(feasible.any(axis=1, keepdims=True), feasible, fallback)
    return allowed / allowed.sum(axis=1, keepdims=True)


def hard_oracle(test: Problem, budget_ms: float) -> np.ndarray:
    """The most accurate feasible configuration of every sample, luck included."""
    return one_hot(pick(test.accuracy, test.mean_ms, test.feasible(budget_ms)), *test.accuracy.shape)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Hull:
    """The upper concave hull of accuracy over latency: the best mixes of two configurations."""

    columns: np.ndarray  # int64 (k,) from the cheapest to the most accurate
    mean_ms: np.ndarray  # float64 (k,) ascending
    accuracy: np.ndarray  # float64 (k,) ascending

    def shares(self, average_budget_ms: float, samples: int, configurations: int) -> np.ndarray:
        """The mix of two neighbours on the hull that meets the budget, the same for every sample."""
        row = np.zeros(configurations)
        position = int(np.searchsorted(self.mean_ms, average_budget_ms))
        if position == 0 or position == len(self.columns):
            row[self.columns[min(position, len(self.columns) - 1)]] = 1.0
        else:
            left, right = self.mean_ms[position - 1], self.mean_ms[position]
            part = (average_budget_ms - left) / (right - left)
            row[self.columns[position - 1]] = 1 - part
            row[self.columns[position]] = part
        return np.broadcast_to(row, (samples, configurations))


def concave_hull(mean_ms: np.ndarray, accuracy: np.ndarray) -> Hull:
    """The hull of configurations (m,), from the cheapest up to the first of highest accuracy."""
    kept: list[int] = []
    for column in np.lexsort((-accuracy, mean_ms)):
        if kept and accuracy[column] <= accuracy[kept[-1]]:
            continue
        while len(kept) >= 2:
            a, b = kept[-2], kept[-1]
            rise = (accuracy[b] - accuracy[a]) * (mean_ms[column] - mean_ms[a])
            if rise > (accuracy[column] - accuracy[a]) * (mean_ms[b] - mean_ms[a]):
                break
            kept.pop()
        if kept and mean_ms[column] == mean_ms[kept[-1]]:
            continue
        kept.append(int(column))
    columns = np.array(kept)
    return Hull(columns=columns, mean_ms=mean_ms[columns], accuracy=accuracy[columns])


def best_mix(fit: Problem) -> Hull:
    """The best mixes of two configurations, by mean latency and accuracy on `fit`."""
    return concave_hull(fit.configuration_mean_ms, fit.accuracy.mean(axis=0))


def average_lookup(fit: Problem, test: Problem, average_budget_ms: float, unit_ms: float) -> np.ndarray:
    """Per kind of question the best configuration at one price of time for all kinds."""
    overall = fit.accuracy.mean(axis=0)
    latency = fit.spent_ms.mean(axis=0)
    fit_values, fit_ms = np.empty(fit.accuracy.shape), np.empty(fit.accuracy.shape)
    test_values = np.tile(overall, (len(test.kind), 1))
    test_ms = np.tile(latency, (len(test.kind), 1))
    for kind in np.unique(fit.kind):
        rows = fit.kind == kind
        fit_values[rows] = test_values[test.kind == kind] = fit.accuracy[rows].mean(axis=0)
        fit_ms[rows] = test_ms[test.kind == kind] = fit.spent_ms[rows].mean(axis=0)
    mix = fit_price(by_value(fit_values, fit_ms, unit_ms), fit_ms, average_budget_ms)
    return mix.shares(by_value(test_values, test_ms, unit_ms), test_ms)


def average_random(fit: Problem, test: Problem, average_budget_ms: float) -> np.ndarray:
    """The most random choice whose mean latency is the budget: p(a) ~ exp(tilt * latency(a)), maximum entropy."""
    latency = fit.configuration_mean_ms
    scale = float(latency.max() - latency.min()) or 1.0
    low, high = -500.0, 500.0

    def weights(tilt: float) -> np.ndarray:
        exponent = tilt * (latency - latency.mean()) / scale
        raised = np.exp(exponent - exponent.max())
        return raised / raised.sum()

    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if weights(middle) @ latency < average_budget_ms else (low, middle)
    return np.broadcast_to(weights((low + high) / 2), test.accuracy.shape)


def average_oracle(test: Problem, average_budget_ms: float, unit_ms: float) -> np.ndarray:
    """The most accurate choice per sample at the price that meets the budget on these very samples."""
    at_price = by_value(test.accuracy, test.spent_ms, unit_ms)
    return fit_price(at_price, test.spent_ms, average_budget_ms).shares(at_price, test.spent_ms)
