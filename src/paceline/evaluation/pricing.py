"""Choices under a price of time, and the price at which a mean latency is met. Values are on the accuracy scale."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from paceline.learning.learners.contender import pick

BISECTIONS = 36
HIGHEST_PRICE = 1e6
"""Accuracy per full latency; beyond it everybody takes the cheapest configuration."""

AtPrice: TypeAlias = Callable[[float], np.ndarray]
"""A price of time -> the column chosen for every sample, int64 (n,)."""


def one_hot(columns: np.ndarray | int, samples: int, configurations: int) -> np.ndarray:
    """Shares (n, m) that put everything on one column per row."""
    shares = np.zeros((samples, configurations))
    shares[np.arange(samples), columns] = 1.0
    return shares


def by_value(values: np.ndarray, mean_ms: np.ndarray, unit_ms: float) -> AtPrice:
    """Chooses the highest value - price * mean_ms / unit_ms; values and mean_ms (n, m)."""
    everything = np.ones(values.shape, dtype=bool)
    return lambda price: pick(values - price * mean_ms / unit_ms, mean_ms, everything)


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceMix:
    """Two prices of time, taken at random; a price of infinity takes the cheapest configuration.

    A choice at one price moves in jumps as the price moves; taking the two sides of a jump in the right proportion
    meets a mean exactly, and is what the Lagrangian allows.
    """

    low: float
    high: float
    low_share: float  # how often the low price is taken

    @property
    def price(self) -> float:
        """The mean of both prices by their shares."""
        return self.low_share * self.low + (1 - self.low_share) * self.high

    def shares(self, at_price: AtPrice, mean_ms: np.ndarray) -> np.ndarray:
        """Probability of each configuration, (n, m)."""
        dear = one_hot(columns_at(at_price, mean_ms, self.high), *mean_ms.shape)
        if self.low_share == 0:
            return dear
        free = one_hot(columns_at(at_price, mean_ms, self.low), *mean_ms.shape)
        return self.low_share * free + (1 - self.low_share) * dear


def columns_at(at_price: AtPrice, mean_ms: np.ndarray, price: float) -> np.ndarray:
    """What is chosen at a price; the cheapest configuration of every sample at an infinite one."""
    return mean_ms.argmin(axis=1) if math.isinf(price) else at_price(price)


def fit_price(
    at_price: AtPrice, mean_ms: np.ndarray, average_budget_ms: float, spent_ms: np.ndarray | None = None
) -> PriceMix:
    """The price, or mix of two, at which the mean of what is chosen meets the average budget.

    Args:
        at_price: what is chosen at a price.
        mean_ms: what is expected when choosing, (n, m).
        average_budget_ms: to meet.
        spent_ms: what counts against the budget, (n, m); None: what is expected.

    Price 0 if time is free at this budget. Choosers that stay over the budget at any price are mixed with the
    cheapest configuration, so that nobody spends more than others; if that one is over too, it is all that is taken.
    """
    counted = mean_ms if spent_ms is None else spent_ms

    def latency(price: float) -> float:
        columns = columns_at(at_price, mean_ms, price)
        return float(counted[np.arange(len(counted)), columns].mean())

    if latency(0.0) <= average_budget_ms:
        return PriceMix(low=0.0, high=0.0, low_share=0.0)
    low, high = 0.0, 1.0
    while (reached := latency(high)) > average_budget_ms:
        if math.isinf(high):
            return PriceMix(low=high, high=high, low_share=0.0)
        low, high = high, high * 4 if high < HIGHEST_PRICE else math.inf
    if math.isfinite(high):
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            if (between := latency(middle)) > average_budget_ms:
                low = middle
            else:
                high, reached = middle, between
    over = latency(low)
    return PriceMix(low=low, high=high, low_share=(average_budget_ms - reached) / (over - reached))
