"""Contexts that a reference policy is optimised and imitated under: budgets with their masks, prices with charges."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from paceline.learning.contexts import ContextRanges, sample_contexts, with_knots
from paceline.learning.price import price_range
from paceline.learning.problem import Problem


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DrawnContexts:
    """One context per row."""

    budget_ms: Float[Tensor, "*row"]  # inf: no limit
    feasible: Bool[Tensor, "*row action"]
    charge: Float[Tensor, "*row action"]  # accuracy that the time would cost


def ranges_of(problem: Problem) -> ContextRanges:
    """Budgets from where the cheapest configuration fits to where all do; prices from the hull of the means."""
    unit = float(problem.configuration_mean_ms[problem.full])
    low, high = price_range(problem.accuracy.mean(axis=0), problem.configuration_mean_ms, unit)
    upper = problem.upper_ms.mean(axis=0)
    return ContextRanges.over(float(upper.min()), float(upper.max()), low, high)


class ContextSource:
    """Draws contexts for the samples of a problem.

    Where times are known only afterwards there is one context: everything is feasible and time costs nothing.
    """

    def __init__(
        self, problem: Problem, average_share: float, tie_break: float, *, balanced: bool = False
    ) -> None:
        """`balanced`: draw budgets equally often between any two neighbouring configurations."""
        self.free = problem.cutoff_ms is not None
        self.average_share, self.tie_break = average_share, tie_break
        self.unit_ms = float(problem.configuration_mean_ms[problem.full])
        self.ranges = None if self.free else ranges_of(problem)
        if self.ranges is not None and balanced:
            self.ranges = with_knots(self.ranges, problem.upper_ms.mean(axis=0))
        self.share = torch.from_numpy((problem.mean_ms / self.unit_ms).astype(np.float32))
        self.upper_ms = torch.from_numpy(problem.upper_ms.astype(np.float32))

    def draw(self, rows: Int[Tensor, "*row"], generator: torch.Generator) -> DrawnContexts:
        """A context for each of the samples `rows`: a budget, or a price of time and no limit."""
        if self.ranges is None:
            shape = (*rows.shape, self.upper_ms.shape[1])
            return DrawnContexts(
                budget_ms=torch.full(rows.shape, math.inf),
                feasible=torch.ones(shape, dtype=torch.bool),
                charge=torch.zeros(shape),
            )
        budget, price = sample_contexts(tuple(rows.shape), self.ranges, self.average_share, generator)
        return DrawnContexts(
            budget_ms=budget,
            feasible=self.upper_ms[rows] <= budget.unsqueeze(-1),
            charge=(price.unsqueeze(-1) + self.tie_break) * self.share[rows],
        )
