"""Contexts that hang on the sample alone, so that what is trained under them can be computed again."""

import math

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from paceline.learning.reference.contexts import ContextSource, DrawnContexts


class FixedContexts(ContextSource):
    """Every sample has its own feasible configurations and charges (n, m), and one budget for all."""

    def __init__(self, feasible: np.ndarray, charge: np.ndarray, budget_ms: float = math.inf) -> None:
        self.feasible, self.charge, self.budget_ms = feasible, charge, budget_ms
        self.ranges = None

    def draw(self, rows: Int[Tensor, "*row"], generator: torch.Generator) -> DrawnContexts:
        """Nothing is drawn."""
        return DrawnContexts(
            budget_ms=torch.full(rows.shape, self.budget_ms),
            feasible=torch.from_numpy(self.feasible)[rows],
            charge=torch.from_numpy(self.charge.astype(np.float32))[rows],
        )
