"""Choices under a price of time, and the price at which a mean latency is met. Values are on the accuracy scale."""

from dataclasses import dataclass

import numpy as np

BISECTIONS = 36
HIGHEST_PRICE = 1e6
"""Accuracy per full latency; at this price everybody takes the cheapest configuration."""


def pick(values: np.ndarray, mean_ms: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Column of the highest value among the allowed, per row: (n, m) each -> int64 (n,).

    Ties go to the cheaper. Where nothing is allowed, the cheapest; columns of value -inf are never taken.
    """
    known = ~np.isneginf(values)
    allowed = allowed & known
    stuck = np.logical_not(np.any(allowed, axis=1, keepdims=True))
    masked = np.where(allowed, values, -np.inf)
    best = masked.max(axis=1, keepdims=True)
    ties = np.where(stuck, known, allowed & (masked >= best - 1e-12))
    return np.where(ties, mean_ms, np.inf).argmin(axis=1)


def one_hot(columns: np.ndarray | int, samples: int, configurations: int) -> np.ndarray:
    """Shares (n, m) that put everything on one column per row."""
    shares = np.zeros((samples, configurations))
    shares[np.arange(samples), columns] = 1.0
    return shares


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceMix:
    """Two prices of time, in accuracy per `unit_ms`, taken at random.

    A choice at one price moves in jumps as the price moves; taking the two sides of a jump in the right proportion
    meets a mean exactly, and is what the Lagrangian allows.
    """

    low: float
    high: float
    low_share: float  # how often the low price is taken
    unit_ms: float

    @property
    def price(self) -> float:
        """The mean of both prices by their shares."""
        return self.low_share * self.low + (1 - self.low_share) * self.high

    def shares(self, values: np.ndarray, mean_ms: np.ndarray) -> np.ndarray:
        """Probability of each configuration, (n, m)."""
        dear = one_hot(choose_at(values, mean_ms, self.high, self.unit_ms), *values.shape)
        if self.low_share == 0:
            return dear
        free = one_hot(choose_at(values, mean_ms, self.low, self.unit_ms), *values.shape)
        return self.low_share * free + (1 - self.low_share) * dear


def choose_at(values: np.ndarray, mean_ms: np.ndarray, price: float, unit_ms: float) -> np.ndarray:
    """Column of the highest value - price * mean_ms / unit_ms, int64 (n,)."""
    return pick(values - price * mean_ms / unit_ms, mean_ms, np.ones(values.shape, dtype=bool))


def fit_price(
    values: np.ndarray, mean_ms: np.ndarray, average_budget_ms: float, *, unit_ms: float
) -> PriceMix:
    """The price, or mix of two, at which the mean of the chosen mean latencies meets the average budget.

    Price 0 if time is free at this budget; the highest price (the cheapest configurations) if it cannot be met.
    """

    def latency(price: float) -> float:
        columns = choose_at(values, mean_ms, price, unit_ms)
        return float(mean_ms[np.arange(len(mean_ms)), columns].mean())

    if latency(0.0) <= average_budget_ms:
        return PriceMix(low=0.0, high=0.0, low_share=0.0, unit_ms=unit_ms)
    low, high = 0.0, 1.0
    while (reached := latency(high)) > average_budget_ms:
        if high >= HIGHEST_PRICE:
            return PriceMix(low=high, high=high, low_share=0.0, unit_ms=unit_ms)
        low, high = high, high * 4
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if (between := latency(middle)) > average_budget_ms:
            low = middle
        else:
            high, reached = middle, between
    over = latency(low)
    return PriceMix(
        low=low, high=high, low_share=(average_budget_ms - reached) / (over - reached), unit_ms=unit_ms
    )
