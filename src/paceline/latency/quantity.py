"""What a controller's budgets are in: latencies, times that are known only afterwards, or costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paceline.errors import BudgetError, ControllerError

LATENCY, RUNTIME, COST = "latency", "runtime", "cost"
"""Kinds of `latency_ms` in an outcomes manifest: latencies, solver runtimes and prices."""
MILLISECONDS = "ms"
SMALLEST_SHOWN = 0.05
"""Milliseconds that a tenth shows as more than 0."""
ONLY_AFTERWARDS = "known only afterwards"


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantity:
    """The kind and the unit of what a choice takes.

    >>> Quantity(kind="cost", unit="usd").text(0.00123456)
    '0.001235 usd'
    >>> Quantity().text(61.25), Quantity().text(0.001)
    ('61.2 ms', '0.001 ms')
    """

    kind: str = LATENCY
    unit: str = MILLISECONDS

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Quantity":
        """That of a latency estimate, from its facts."""
        return cls(kind=facts.get("kind", LATENCY), unit=facts.get("unit", MILLISECONDS))

    @property
    def known_before(self) -> bool:
        """Whether what a choice takes can be told before it is made."""
        return self.kind != RUNTIME

    def text(self, value: float) -> str:
        """A value with its unit."""
        shown = self.unit == MILLISECONDS and not 0.0 < abs(value) < SMALLEST_SHOWN
        number = f"{value:.1f}" if shown else f"{value:.4g}"
        return f"{number} {self.unit}"

    def check_milliseconds(self, name: str, value: object) -> None:
        """Raise BudgetError for a budget in milliseconds where budgets are costs."""
        if value is not None and self.kind == COST:
            raise BudgetError(
                f"{name}: got {value!r}, but this controller's budgets are costs in {self.unit}; say "
                f"{name.removesuffix('_ms')} with its unit, such as '{value}{self.unit}'"
            )

    def check_first_token(self, first_token_budget_ms: object) -> None:
        """Raise BudgetError for a limit to the first token where there is none."""
        if first_token_budget_ms is not None and self.kind != LATENCY:
            raise BudgetError(
                f"first_token_budget_ms: got {first_token_budget_ms!r}, but this controller was trained on "
                f"{self.kind}s, which have no first token; limit the whole {self.kind}"
            )

    def check_average(self, average: object) -> None:
        """Raise BudgetError for a mean over times that are known only afterwards."""
        if average is not None and not self.known_before:
            raise BudgetError(
                f"average budget: got {average!r}, but this controller was trained on times that are "
                f"{ONLY_AFTERWARDS}, so no price can hold their mean; give a deadline per request"
            )

    def check_live(self) -> None:
        """Raise ControllerError unless a model's measured latencies can be held against the budgets."""
        if self.kind != LATENCY:
            raise ControllerError(
                f"controller: it was trained on {self.kind}s in {self.unit}, expected one trained on latencies to run "
                "or calibrate with a model; decide for recorded samples (paceline decide --outcomes), or train on "
                "outcomes with latencies"
            )
