"""Average budgets: a price of time, fitted on validation data and steered online so that the mean holds."""

import math
from dataclasses import dataclass, field
from threading import Lock
from typing import SupportsFloat

import numpy as np

from paceline.budgets import checked_ms
from paceline.errors import BudgetError, ControllerError

GAIN = 0.05
"""Share of the accumulated excess that the next request is asked to make up for: about 20 requests."""
PRICE_GAIN = 0.25
"""Change of the price's logarithm per average budget of accumulated excess."""
LARGEST_DEBT = 25.0
"""Bound on the remembered excess, in average budgets: a long idle or busy hour is not paid back for ever."""
BIAS_MEMORY = 0.97
"""Weight kept by the past when measured is compared with predicted latency: about 33 requests."""
PRIOR_REQUESTS = 5.0
"""How many requests' worth of trust the latency estimate starts with."""
PRICE_SHIFT = 1e-3
"""Prices span decades and end at zero; they are interpolated as log(price + this)."""
SMALLEST_PRICE_STEP = 1e-3
"""Least price that a stream in debt asks, as accuracy per full latency; a multiple of a zero price stays zero."""


@dataclass(frozen=True, eq=False)
class PriceTable:
    """Price of time by average budget, at the latency scale of the profile.

    A price is accuracy per full configuration's latency. Budgets below the first row cannot be met; above the last
    row time is free.
    """

    budgets_ms: np.ndarray  # float64 (k,) ascending
    prices: np.ndarray  # float64 (k,) >= 0, never rising
    _logs: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        budgets, prices = self.budgets_ms, self.prices
        good = budgets.ndim == 1 and budgets.shape == prices.shape and len(budgets) >= 1
        if not good or not (np.isfinite(budgets).all() and np.isfinite(prices).all()):
            raise ControllerError(
                f"prices: got {budgets.shape} budgets and {prices.shape} prices, expected as many finite numbers of "
                "each; train the controller again"
            )
        if (
            np.any(budgets <= 0)
            or np.any(np.diff(budgets) <= 0)
            or np.any(prices < 0)
            or np.any(np.diff(prices) > 0)
        ):
            raise ControllerError(
                f"prices: got {prices.tolist()} at {budgets.tolist()} ms, expected positive ascending budgets and "
                "prices that never rise with them; train the controller again"
            )
        object.__setattr__(self, "_logs", np.log1p(prices / PRICE_SHIFT))

    def price(self, average_budget_ms: float) -> float:
        """The fitted price, exactly 0 where time is free; between rows the logarithm of price + shift is linear."""
        return PRICE_SHIFT * math.expm1(np.interp(average_budget_ms, self.budgets_ms, self._logs))


class AverageBudget:
    """One stream of requests whose mean latency must meet a target. Safe to share between threads.

    The price starts at the fitted one and is steered by two observations. A recent ratio of measured to predicted
    latency corrects a biased estimate; the accumulated excess over the target (requests under way count as
    predicted) is an integral term, so the running mean itself converges, not only the latest requests. With
    excess D and ratio r the price is table(target / r - GAIN * D) * exp(PRICE_GAIN * D / target): the first factor
    moves along the fitted curve, the second also moves where many requests are alike and the curve has a jump.
    Deterministic: the same measurements in the same order give the same prices.

    >>> stream = AverageBudget(40.0)
    >>> for latency in (50.0, 35.0):
    ...     stream.reserve(latency)
    ...     stream.record(predicted_ms=latency, measured_ms=latency)
    >>> stream.count, stream.mean_ms
    (2, 42.5)
    """

    def __init__(self, average_budget_ms: SupportsFloat) -> None:
        self.average_budget_ms = checked_ms("average_budget_ms", average_budget_ms)
        self._lock = Lock()
        self._count = 0
        self._total_ms = 0.0
        self._debt_ms = 0.0  # sum of latency - target over finished requests, bounded
        self._pending = 0
        self._pending_ms = 0.0  # predicted latency of requests under way
        self._seen_predicted = PRIOR_REQUESTS
        self._seen_measured = PRIOR_REQUESTS

    @property
    def count(self) -> int:
        """Finished requests."""
        return self._count

    @property
    def mean_ms(self) -> float:
        """Mean measured latency of the finished requests; NaN before the first."""
        with self._lock:
            return self._total_ms / self._count if self._count else math.nan

    @property
    def bias(self) -> float:
        """Recent measured over predicted latency; 1 before anything was seen."""
        return self._seen_measured / self._seen_predicted

    def price(self, prices: PriceTable, scale: float = 1.0) -> float:
        """The price for the next request; `scale`: this machine's time over the profile's."""
        with self._lock:
            target, bias = self.average_budget_ms, self.bias
            debt = self._debt_ms + bias * self._pending_ms - target * self._pending
        debt = min(max(debt / target, -LARGEST_DEBT), LARGEST_DEBT)  # in average budgets
        ask = max(1.0 / bias - GAIN * debt, 0.0) * target / scale
        fitted = prices.price(ask)
        if debt > 0.0:
            fitted = max(fitted, SMALLEST_PRICE_STEP)
        return fitted * math.exp(PRICE_GAIN * debt)

    def reserve(self, predicted_ms: float) -> None:
        """A request was chosen and is under way; end it with `record` or `cancel`, with the same prediction."""
        with self._lock:
            self._pending += 1
            self._pending_ms += predicted_ms

    def record(self, *, predicted_ms: float, measured_ms: float) -> None:
        """A reserved request has finished."""
        if not (math.isfinite(measured_ms) and measured_ms > 0):
            raise BudgetError(f"average budget: measured {measured_ms} ms, expected a positive, finite time")
        with self._lock:
            self._settle(predicted_ms)
            self._count += 1
            self._total_ms += measured_ms
            target = self.average_budget_ms
            debt = self._debt_ms + measured_ms - target
            self._debt_ms = min(max(debt, -LARGEST_DEBT * target), LARGEST_DEBT * target)
            self._seen_predicted = BIAS_MEMORY * self._seen_predicted + predicted_ms / target
            self._seen_measured = BIAS_MEMORY * self._seen_measured + measured_ms / target

    def cancel(self, predicted_ms: float) -> None:
        """A reserved request failed; it does not count."""
        with self._lock:
            self._settle(predicted_ms)

    def _settle(self, predicted_ms: float) -> None:
        if self._pending < 1:
            raise BudgetError("average budget: a request ended that was never reserved; call reserve first")
        self._pending -= 1
        self._pending_ms = self._pending_ms - predicted_ms if self._pending else 0.0
