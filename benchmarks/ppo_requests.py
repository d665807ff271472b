"""Requests drawn from a split of an outcome table, and the rewards of what is chosen for them, in numpy."""

import numpy as np
import torch

from paceline.learning.contexts import ContextRanges, sample_contexts
from paceline.learning.groups import GroupSource

MISSED = 0.0
"""Reward of a configuration whose upper latency exceeds the budget: an answer that came too late is worth nothing."""


class Requests:
    """Draws requests from a split, and rewards choices for them."""

    def __init__(self, source: GroupSource, ranges: ContextRanges, seed: int) -> None:
        self.source, self.ranges = source, ranges
        self.generator = torch.Generator().manual_seed(seed)
        self.features, self.accuracy = source.features.numpy(), source.accuracy.numpy()
        self.mean_ms, self.upper_ms = source.mean_ms.numpy(), source.upper_ms.numpy()
        self.width = self.features.shape[1] + source.spec.code_width
        self.actions = self.accuracy.shape[1]

    def draw(self, count: int) -> np.ndarray:
        """New requests; their observations, float32 (count, width): standardised features, then the encoded context."""
        rows = torch.randint(len(self.features), (count,), generator=self.generator)
        options = self.source.options
        self.budget, self.price = sample_contexts(
            (count,), self.ranges, options.average_share, self.generator
        )
        self.rows = rows.numpy()
        return observations(self.features[self.rows], self.source.codes(self.budget, self.price).numpy())

    def rewards(self, actions: np.ndarray) -> np.ndarray:
        """float32 (count,): accuracy - (price + tie-break) x share of the full latency, or MISSED."""
        mean_ms, options = self.mean_ms[self.rows, actions], self.source.options
        paid = (self.price.numpy() + options.tie_break) * mean_ms / self.source.spec.full_latency_ms
        within = self.upper_ms[self.rows, actions] <= self.budget.numpy()
        return np.where(within, self.accuracy[self.rows, actions] - paid, MISSED).astype(np.float32)


def observations(features: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """What a policy reads, float32 (..., width)."""
    return np.concatenate([features, codes], axis=-1).astype(np.float32, copy=False)
