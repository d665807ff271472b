"""The budgets at which contenders are compared, fixed by rule so that nobody picks them afterwards."""

from collections.abc import Sequence

import numpy as np

from paceline.budgets import checked_ms
from paceline.errors import BudgetError
from paceline.learning.deadlines import runtime_quantiles
from paceline.learning.problem import Problem

QUANTILES = (0.10, 0.25, 0.50, 0.75, 0.90)
"""Of the mean latencies of the tested configurations; the full configuration's mean is one more budget."""


DEADLINES = (0.25, 0.50, 0.75)
"""Of the runtimes of the single best configuration (lowest mean PAR10)."""


def budget_grid(configuration_mean_ms: np.ndarray, full_ms: float) -> tuple[list[float], list[float | None]]:
    """Budgets in ms, ascending, and the quantiles they stand for (1.0 for the full configuration's mean latency).

    >>> budget_grid(np.array([1.0, 9.0, 5.0]), 4.0)
    ([1.8, 3.0, 4.0, 5.0, 7.0, 8.2], [0.1, 0.25, 1.0, 0.5, 0.75, 0.9])
    """
    budgets = [float(value) for value in np.quantile(configuration_mean_ms, QUANTILES)]
    named = sorted(zip([*budgets, float(full_ms)], [*QUANTILES, 1.0], strict=True), key=lambda pair: pair[0])
    return [budget for budget, _ in named], [quantile for _, quantile in named]


def deadline_grid(problem: Problem) -> tuple[list[float], list[float | None]]:
    """Deadlines in ms for times known only afterwards, and the quantiles they stand for."""
    return runtime_quantiles(problem, DEADLINES), [*DEADLINES]


def fixed_grid(name: str, budgets_ms: Sequence[float]) -> tuple[list[float], list[float | None]]:
    """The caller's own budgets, ascending, each once; BudgetError unless each is a positive, finite time."""
    if not budgets_ms:
        raise BudgetError(f"{name}: got none, expected at least one time in milliseconds")
    budgets = sorted({checked_ms(name, value) for value in budgets_ms})
    return budgets, [None] * len(budgets)


def parse_budgets(name: str, text: str | None) -> tuple[float, ...] | None:
    """Budgets separated by commas, in the words of the command line; None stays None.

    >>> parse_budgets("budgets_ms", "20, 40.5")
    (20.0, 40.5)
    """
    if text is None:
        return None
    try:
        values = tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise BudgetError(
            f"{name}: got {text!r}, expected numbers of milliseconds separated by commas, such as 20,40,80"
        ) from error
    return tuple(checked_ms(name, value) for value in values)


def check_hard(budgets_ms: Sequence[float], fit: Problem) -> None:
    """Raise BudgetError where no sample has a configuration that any of the hard budgets allows for."""
    if fit.cutoff_ms is not None:
        solved = np.where(fit.accuracy > 0, fit.measured_ms, np.inf)
        least, what = float(np.nanmin(solved)), "the shortest runtime of a solved sample is"
    else:
        least, what = float(fit.upper_ms.min()), "the lowest upper latency of any configuration is"
    if max(budgets_ms) < least:
        unit = _unit(fit)
        raise BudgetError(
            f"budgets_ms: got {_listed(budgets_ms)}{unit}, under which nothing is feasible: {what} {least:.4g}{unit}; "
            "give at least one budget above that"
        )


def check_average(budgets_ms: Sequence[float], fit: Problem) -> None:
    """Raise BudgetError where no choice meets any of the average budgets, or where times are runtimes."""
    if fit.cutoff_ms is not None:
        raise BudgetError(
            f"average_budgets_ms: got {_listed(budgets_ms)} ms, but the times of these outcomes are known only "
            "afterwards and no mean can be promised; give budgets_ms alone, which are deadlines"
        )
    least = float(fit.mean_ms.min(axis=1).mean())
    if max(budgets_ms) < least:
        unit = _unit(fit)
        raise BudgetError(
            f"average_budgets_ms: got {_listed(budgets_ms)}{unit}, which nothing meets: the cheapest choices take "
            f"{least:.4g}{unit} on the mean; give at least one budget above that"
        )


def _unit(fit: Problem) -> str:
    """Of times, after a blank; costs are in the unit of their outcomes, which a problem does not know."""
    return "" if fit.priced else " ms"


def _listed(budgets_ms: Sequence[float]) -> str:
    return ", ".join(f"{budget:g}" for budget in budgets_ms)
