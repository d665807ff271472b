"""The context as a network reads it: the hard budget and, where the policy reads it, the price of time."""

import math

import numpy as np

from paceline.budgets import encode_budget
from paceline.errors import ControllerError
from paceline.policies.spec import PolicySpec


def encode_context(
    spec: PolicySpec, budget_ms: np.ndarray | float | None, price: np.ndarray | float = 0.0
) -> np.ndarray:
    """Codes of contexts: float32 (..., spec.code_width), budget and price broadcast against each other.

    An accuracy policy reads the budget only, its decision rule charges the price. A logits policy reads both:
    budget code, price code. Raises ControllerError for a negative or NaN price.
    """
    budgets = np.asarray(math.inf if budget_ms is None else budget_ms, dtype=np.float64)
    low, high = spec.budget_low_ms, spec.budget_high_ms
    code = encode_budget(budgets, low_ms=low, high_ms=high, dimensions=spec.budget_dimensions)
    if spec.price_low is None or spec.price_high is None:
        return code
    prices = encode_price(price, low=spec.price_low, high=spec.price_high, dimensions=spec.budget_dimensions)
    shape = np.broadcast_shapes(code.shape[:-1], prices.shape[:-1])
    parts = [np.broadcast_to(part, (*shape, part.shape[-1])) for part in (code, prices)]
    return np.concatenate(parts, axis=-1)


def encode_price(price: np.ndarray | float, *, low: float, high: float, dimensions: int = 32) -> np.ndarray:
    """Prices of time as float32 (..., dimensions + 1): sines and cosines of the log position, and a flag.

    The position is log(price / low) / log(high / low), clipped and encoded as a budget's is. Price 0, which no
    logarithm has, is a flag of 1 beside zeros; every other price has flag 0.

    >>> encode_price(np.array([0.0, 0.1]), low=0.1, high=1.0, dimensions=2).tolist()
    [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    """
    prices = np.asarray(price, dtype=np.float64)
    if not np.all(prices >= 0):
        raise ControllerError(f"price: got {price}, expected accuracy per full latency, 0 or more")
    priced = (prices > 0)[..., None]
    waves = encode_budget(prices, low_ms=low, high_ms=high, dimensions=dimensions)
    return np.concatenate([np.where(priced, waves, 0.0), ~priced], axis=-1, dtype=np.float32)
