"""The price of time for choices that are any function of it, as those of a policy that reads the price are."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from paceline.errors import TrainError

PRICES = 48
"""Prices tried besides 0, geometric over the trained range."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PriceCurve:
    """Mean latency, or cost, of the choices at each price of a grid."""

    prices: np.ndarray  # float64 (k,) ascending, the first is 0
    mean_ms: np.ndarray  # float64 (k,)

    @classmethod
    def measure(
        cls,
        choose_at: Callable[[float], np.ndarray],
        spent_ms: np.ndarray,
        price_low: float,
        price_high: float,
    ) -> "PriceCurve":
        """Ask `choose_at`, price -> columns (samples,), at every price; `spent_ms` (samples, actions).

        Raises TrainError without samples.
        """
        if not len(spent_ms):
            raise TrainError(
                "average budget: got no samples to fit the price of time on; profile validation samples"
            )
        prices = np.array([0.0, *np.geomspace(price_low, price_high, PRICES)])
        rows = np.arange(len(spent_ms))
        reached = [spent_ms[rows, choose_at(float(price))].mean() for price in prices]
        return cls(prices=prices, mean_ms=np.array(reached, dtype=np.float64))

    def price(self, average_budget_ms: float) -> float:
        """The price whose mean latency is the largest not above the budget; of equals the lowest.

        Nothing makes a learned mean latency fall as the price rises, so this is a search over the whole grid and
        not a bisection. Raises TrainError for a budget below all of the curve.

        >>> curve = PriceCurve(prices=np.array([0.0, 0.1, 0.2]), mean_ms=np.array([40.0, 10.0, 20.0]))
        >>> curve.price(25.0), curve.price(12.0)
        (0.2, 0.1)
        """
        within = self.mean_ms <= average_budget_ms
        if not within.any():
            raise TrainError(
                f"average budget: got {average_budget_ms:g} ms, but the choices take {self.mean_ms.min():.4g} ms "
                "on average at the price where they are cheapest; ask for more time"
            )
        return float(self.prices[np.where(within, self.mean_ms, -np.inf).argmax()])
