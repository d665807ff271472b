"""The budgets at which contenders are compared, fixed by rule so that nobody picks them afterwards."""

from collections.abc import Sequence

import numpy as np

from paceline.budgets import checked_ms
from paceline.errors import BudgetError

QUANTILES = (0.10, 0.25, 0.50, 0.75, 0.90)
"""Of the mean latencies of the tested configurations; the full configuration's mean comes last."""


DEADLINES = (0.25, 0.50, 0.75)
"""Of the runtimes of the single best configuration (lowest mean PAR10)."""


def budget_grid(configuration_mean_ms: np.ndarray, full_ms: float) -> tuple[list[float], list[float | None]]:
    """Budgets in ms and the quantiles they stand for (1.0 for the full configuration's mean latency)."""
    budgets = [float(value) for value in np.quantile(configuration_mean_ms, QUANTILES)]
    return [*budgets, float(full_ms)], [*QUANTILES, 1.0]


def deadline_grid(par10_ms: np.ndarray, runtime_ms: np.ndarray) -> tuple[list[float], list[float | None]]:
    """Deadlines for times known only afterwards, (n, m) each: quantiles of the single best configuration's runtimes."""
    best = int(par10_ms.mean(axis=0).argmin())
    return [float(value) for value in np.quantile(runtime_ms[:, best], DEADLINES)], [*DEADLINES]


def fixed_grid(budgets_ms: Sequence[float]) -> tuple[list[float], list[float | None]]:
    """The caller's own budgets, ascending; BudgetError unless each is a positive, finite time."""
    if not budgets_ms:
        raise BudgetError("budgets: got none, expected at least one time in milliseconds")
    return sorted(checked_ms("budgets_ms", value) for value in budgets_ms), [None] * len(budgets_ms)
