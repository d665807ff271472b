"""Who is compared: something that chooses a configuration per sample under a budget and a price of time."""

from typing import Protocol

import numpy as np

from paceline.learning.problem import Problem, Scorer


class Contender(Protocol):
    """Chooses columns of a problem."""

    def choose(self, problem: Problem, budget_ms: float | None, price: float) -> np.ndarray:
        """A column per sample, int64 (n,).

        budget_ms: hard limit per sample, or None. price: accuracy per latency of the full configuration. Only
        configurations whose upper latency fits the budget are taken; where none does, the one with the lowest mean.
        """
        ...


class ValueContender:
    """Chooses the highest value on the accuracy scale, less the price of the time it takes.

    Scores are kept for the problems and budgets that were asked last: a price is found by asking often.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self._kept: list[tuple[Problem, float | None, np.ndarray]] = []

    def values(self, problem: Problem, budget_ms: float | None) -> np.ndarray:
        """Values on the accuracy scale, (n, m)."""
        for known, budget, values in self._kept:
            if known is problem and budget == budget_ms:
                return values
        values = self.scorer(problem, budget_ms)
        self._kept = [*self._kept[-3:], (problem, budget_ms, values)]
        return values

    def choose(self, problem: Problem, budget_ms: float | None, price: float) -> np.ndarray:
        """See `Contender.choose`."""
        values = self.values(problem, budget_ms) - price * problem.mean_ms / problem.unit_ms
        return pick(values, problem.mean_ms, allowed(problem, budget_ms))


def allowed(problem: Problem, budget_ms: float | None) -> np.ndarray:
    """bool (n, m): what the guard leaves under a hard budget."""
    if budget_ms is None:
        return np.ones(problem.accuracy.shape, dtype=bool)
    return problem.feasible(budget_ms)


def pick(values: np.ndarray, mean_ms: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Column of the highest value among the allowed, per row: (n, m) each -> int64 (n,).

    Ties go to the cheaper. Where nothing is allowed, the cheapest; columns of value -inf are never taken.
    """
    known = ~np.isneginf(values)
    allowed = allowed & known
    stuck = np.logical_not(np.any(allowed, axis=1, keepdims=True))
    masked = np.where(allowed, values, -np.inf)
    best = masked.max(axis=1, keepdims=True)
    ties = np.where(stuck, known, allowed & (masked >= best - 1e-12))
    return np.where(ties, mean_ms, np.inf).argmin(axis=1)
