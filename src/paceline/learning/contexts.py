"""Contexts to train and validate under: a hard budget and no price, or no limit and a price of time."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paceline.learning.budget_parts import Parts, within_parts
from paceline.learning.dataset import DecisionProblem
from paceline.learning.price import price_range

GRID_POINTS = 8
"""Validation contexts of each kind."""
DEADLINE_QUANTILES = (0.05, 0.9)
"""Of all runtimes: between them deadlines are drawn."""
BUDGET_KNOTS = 65
"""Most quantiles of the configurations' latencies that balanced budgets are drawn between."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextRanges:
    """Log-uniform ranges that contexts are drawn from."""

    budget_low_ms: float
    budget_high_ms: float
    price_low: float  # accuracy per full latency
    price_high: float
    budget_knots_ms: tuple[float, ...] | None = (
        None  # evenly spaced quantiles to draw budgets from instead, ascending
    )
    budget_parts: Parts | None = None  # positions that budgets are drawn from, see `budget_parts`; None: all

    @classmethod
    def over(
        cls, budget_low_ms: float, budget_high_ms: float, price_low: float, price_high: float
    ) -> "ContextRanges":
        """Ranges whose budgets are never a single one, also where every configuration takes the same time."""
        return cls(
            budget_low_ms=budget_low_ms,
            budget_high_ms=max(budget_high_ms, 1.01 * budget_low_ms),
            price_low=price_low,
            price_high=price_high,
        )

    def budgets_at(self, position: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Budgets in ms of positions in [0, 1]: geometric between the ends, or between the knots around it.

        With `budget_parts`, 0 is where the first part begins and 1 where the last one ends.
        """
        position = within_parts(position, self.budget_parts)
        if not self.budget_knots_ms:
            return log_interpolate(position, self.budget_low_ms, self.budget_high_ms)
        knots = torch.tensor(self.budget_knots_ms).log()
        place = position * (len(knots) - 1)
        below = place.long().clamp(max=len(knots) - 2)
        return torch.lerp(knots[below], knots[below + 1], place - below).exp()


def context_ranges(problem: DecisionProblem) -> ContextRanges:
    """Ranges for a training split: budgets from where the cheapest fits to where all do; prices from its hull.

    Where times are known only afterwards, deadlines are from quantiles of the runtimes, and time has no price.
    """
    if problem.runtime_ms is not None:
        low, high = np.quantile(problem.runtime_ms[problem.tested], DEADLINE_QUANTILES)
        return ContextRanges.over(float(low), float(high), 0.0, 0.0)
    low, high = price_range(
        problem.configuration_means(problem.accuracy),
        problem.configuration_means(problem.mean_ms),
        problem.full_latency_ms,
    )
    upper = problem.configuration_means(problem.upper_ms)
    return ContextRanges.over(float(upper.min()), float(upper.max()), low, high)


def balanced_over_budgets(ranges: ContextRanges, problem: DecisionProblem) -> ContextRanges:
    """Ranges whose budgets fall equally often between any two neighbouring configurations' upper latencies.

    Log-uniform budgets are spent mostly where few configurations are; these where the choice changes.
    """
    return with_knots(ranges, problem.configuration_means(problem.upper_ms))


def with_knots(ranges: ContextRanges, upper: np.ndarray) -> ContextRanges:
    """Ranges that draw budgets between quantiles of the configurations' upper latencies (m,), in ms."""
    knots = np.quantile(upper, np.linspace(0.0, 1.0, min(len(upper), BUDGET_KNOTS)))
    return replace(ranges, budget_knots_ms=tuple(knots.tolist()))


def sample_contexts(
    shape: tuple[int, ...],
    ranges: ContextRanges,
    average_share: float,
    generator: torch.Generator,
    *,
    mixed_share: float = 0.0,
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """Budgets in ms (inf: no limit) and prices, one per entry of `shape`.

    A share `average_share` has no limit and a price, the others a budget and none. With a `mixed_share` that share
    of the former has no price either and that share of the latter has both: a policy that reads the price must
    have seen all four.
    """
    position, chance = torch.rand((2, *shape), generator=generator)
    average = chance < average_share
    budget = ranges.budgets_at(position)
    price = log_interpolate(position, ranges.price_low, ranges.price_high)
    priced = average
    if mixed_share > 0:
        place, chance = torch.rand((2, *shape), generator=generator)
        priced = average ^ (chance < mixed_share)
        price = torch.where(average, price, log_interpolate(place, ranges.price_low, ranges.price_high))
    return torch.where(average, math.inf, budget), torch.where(priced, price, 0.0)


def validation_contexts(ranges: ContextRanges) -> list[tuple[float, float]]:
    """A fixed grid of (budget in ms, price): hard budgets first, then prices without a limit."""
    steps = (np.arange(GRID_POINTS) + 0.5) / GRID_POINTS
    seen = within_parts(torch.from_numpy(steps), ranges.budget_parts)
    budgets = log_interpolate(seen, ranges.budget_low_ms, ranges.budget_high_ms)
    prices = log_interpolate(torch.from_numpy(steps), ranges.price_low, ranges.price_high)
    return [(budget, 0.0) for budget in budgets.tolist()] + [(math.inf, price) for price in prices.tolist()]


def log_interpolate(position: Tensor, low: float, high: float) -> Tensor:
    """low at 0, high at 1, geometric in between; 0 where both are."""
    if low == high == 0.0:
        return torch.zeros_like(position)
    return low * (high / low) ** position
