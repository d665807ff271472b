"""The budgets at which contenders are compared, fixed by rule so that nobody picks them afterwards."""

from collections.abc import Sequence

import numpy as np

from paceline.budgets import checked_ms
from paceline.errors import BudgetError

QUANTILES = (0.10, 0.25, 0.50, 0.75, 0.90)
"""Of the mean latencies of the tested configurations; the full configuration's mean comes last."""


def budget_grid(configuration_mean_ms: np.ndarray, full_ms: float) -> tuple[list[float], list[float | None]]:
    """Budgets in ms and the quantiles they stand for (1.0 for the full configuration's mean latency)."""
    budgets = [float(value) for value in np.quantile(configuration_mean_ms, QUANTILES)]
    return [*budgets, float(full_ms)], [*QUANTILES, 1.0]


def fixed_grid(budgets_ms: Sequence[float]) -> tuple[list[float], list[float | None]]:
    """The caller's own budgets, ascending; BudgetError unless each is a positive, finite time."""
    if not budgets_ms:
        raise BudgetError("budgets: got none, expected at least one time in milliseconds")
    return sorted(checked_ms("budgets_ms", value) for value in budgets_ms), [None] * len(budgets_ms)
