"""Times known only afterwards, such as solver runtimes: what an outcome is worth depends on the deadline."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from paceline.learning.dataset import DecisionProblem
from paceline.learning.problem import PENALTY, Problem

QUANTILES = (0.10, 0.25, 0.50, 0.75, 0.90)
"""Of the runtimes of the single best configuration: the deadlines that a teacher is fitted for unasked."""


def runtime_quantiles(problem: Problem, quantiles: Sequence[float]) -> list[float]:
    """Quantiles, in ms, of the runtimes of the single best configuration, that of the lowest mean PAR10."""
    best = int(problem.par10_ms.mean(axis=0).argmin())
    return np.quantile(problem.measured_ms[:, best], quantiles).tolist()


def deadlines_of(problem: Problem) -> tuple[float, ...]:
    """Deadlines by rule, ascending, in ms."""
    return tuple(sorted(set(runtime_quantiles(problem, QUANTILES))))


class RuntimeWorth:
    """Worth of outcomes under deadlines, as `Problem.under` has it, for batches of groups."""

    def __init__(self, problem: DecisionProblem) -> None:
        self.runtime_ms = torch.from_numpy(np.asarray(problem.runtime_ms))
        self.cutoff_ms = problem.cutoff_ms

    def worth(
        self,
        accuracy: Float[Tensor, "*group action"],
        rows: Int[Tensor, "*group"],
        budget_ms: Float[Tensor, "*group 1"],
    ) -> Float[Tensor, "*group action"]:
        """Accuracy of what was in time; without a deadline (inf) 1 - PAR10 / (10 cutoff)."""
        runtime = self.runtime_ms[rows]
        longest = PENALTY * self.cutoff_ms
        par10 = torch.where(accuracy > 0, runtime.clamp(max=self.cutoff_ms), longest)
        in_time = torch.where(runtime <= budget_ms, accuracy, 0.0)
        return torch.where(budget_ms == math.inf, 1.0 - par10 / longest, in_time)
