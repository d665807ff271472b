"""Hard budgets as callers say them, as limits in milliseconds or in the unit of costs."""

from collections.abc import Mapping
from typing import SupportsFloat

from paceline.budgets import checked_ms, parse_budget
from paceline.errors import BudgetError
from paceline.latency.quantity import Quantity

KEPT_TEXTS = 256
"""Budgets said as texts whose meaning is kept."""


class HardBudgets:
    """Reads the budgets of requests. Immutable apart from what it keeps; any number of threads may use it at once."""

    def __init__(self, quantity: Quantity, classes: Mapping[str, float]) -> None:
        """`classes`: what "low" and its like mean, as shares of the full configuration's latency."""
        self.quantity, self.classes = quantity, classes
        self._texts: dict[str, tuple[float, float]] = {}

    def limits(
        self,
        budget_ms: SupportsFloat | None,
        first_token_budget_ms: SupportsFloat | None,
        budget: SupportsFloat | str | None,
        full_ms: float,
    ) -> tuple[float | None, float | None]:
        """Limits of the whole call and of the time to the first token; None for no limit.

        `full_ms`: the full configuration's expected latency on the request. The others are as in `Controller.decide`.

        Raises:
            BudgetError: a budget that is not positive and finite, in another unit, or two ways to say the same one.
        """
        self.quantity.check_milliseconds("budget_ms", budget_ms)
        self.quantity.check_first_token(first_token_budget_ms)
        whole = None if budget_ms is None else checked_ms("budget_ms", budget_ms)
        if budget is not None:
            if budget_ms is not None:
                raise BudgetError(
                    f"budget: got both budget_ms={budget_ms!r} and budget={budget!r}, expected one of them"
                )
            share, amount = self.meaning(budget)
            whole = checked_ms("budget", share * full_ms) if share else amount
        first = first_token_budget_ms
        return whole, None if first is None else checked_ms("first_token_budget_ms", first)

    def meaning(self, budget: SupportsFloat | str) -> tuple[float, float]:
        """A budget as a share of the full configuration's latency, or else (share 0) an amount.

        What texts mean is kept. BudgetError as of `limits`.
        """
        unit = self.quantity.unit
        if not isinstance(budget, str) or not self.quantity.known_before:
            return 0.0, parse_budget(budget, full_ms=None, unit=unit)
        kept = self._texts.get(budget)
        if kept is not None:
            return kept
        one, two = (
            parse_budget(
                budget,
                full_ms=full_ms,
                classes={name: share * full_ms for name, share in self.classes.items()},
                unit=unit,
            )
            for full_ms in (1.0, 2.0)
        )
        meaning = (one, 0.0) if one != two else (0.0, one)
        if len(self._texts) < KEPT_TEXTS:
            self._texts[budget] = meaning
        return meaning
