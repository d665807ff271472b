"""Numbers about one contender's choices. Choices are shares (n, m): probabilities over configurations per sample."""

import numpy as np

from paceline.knobs import KnobSpace
from paceline.learning.problem import Problem


def sample_accuracy(problem: Problem, shares: np.ndarray) -> np.ndarray:
    """Expected accuracy per sample, (n,)."""
    return (shares * problem.accuracy).sum(axis=1)


def sample_latency(problem: Problem, shares: np.ndarray) -> np.ndarray:
    """Expected latency per sample in ms, or what was spent, (n,)."""
    return (shares * problem.spent_ms).sum(axis=1)


def latency_quantiles(problem: Problem, shares: np.ndarray, levels: tuple[float, ...]) -> list[float]:
    """Quantiles of what the requests are expected to take: the smallest time that `level` of them do not exceed."""
    chosen = shares > 0
    latency, weights = problem.spent_ms[chosen], shares[chosen]
    order = np.argsort(latency, kind="stable")
    mass = np.cumsum(weights[order])
    positions = np.searchsorted(mass, np.array(levels) * mass[-1] - 1e-9)
    return [float(latency[order[min(position, len(order) - 1)]]) for position in positions]


def violation_rate(problem: Problem, shares: np.ndarray, budget_ms: float) -> float | None:
    """Share of requests whose MEASURED latency is over the budget, on timed samples; None if none was timed."""
    weights = np.where(np.isfinite(problem.measured_ms), shares, 0.0)
    if weights.sum() == 0:
        return None
    return float(weights[problem.measured_ms > budget_ms].sum() / weights.sum())


def configuration_shares(problem: Problem, shares: np.ndarray) -> dict[str, float]:
    """How often each configuration is chosen: action id as text -> share, those never chosen left out."""
    means = shares.mean(axis=0)
    return {str(int(problem.actions[column])): float(means[column]) for column in np.flatnonzero(means > 0)}


def option_values(space: KnobSpace, actions: np.ndarray) -> np.ndarray:
    """Option of each knob as a number, float64 (m, knobs): its value, or its position if a knob has other options."""
    indices = space.option_indices(actions)
    values = indices.astype(np.float64)
    for position, knob in enumerate(space.knobs):
        if all(isinstance(option, int | float) for option in knob.options):
            values[:, position] = np.array(knob.options, dtype=np.float64)[indices[:, position]]
    return values


def knob_use(problem: Problem, shares: np.ndarray) -> np.ndarray:
    """Mean option of each knob, (knobs,)."""
    return shares.mean(axis=0) @ option_values(problem.space, problem.actions)
