"""The price of time at which a stream of choices meets an average budget."""

import itertools

import numpy as np

from paceline.errors import TrainError
from paceline.policies.decision import choose, priced_logits

STEPS = 60
"""Bisections; each halves the bracket, so the last differ by less than float32 can tell."""


def mean_chosen_latency(
    scores: np.ndarray,
    mean_latency_ms: np.ndarray,
    price: float,
    *,
    full_latency_ms: float,
    temperature: float,
    feasible: np.ndarray | None = None,
    spent_ms: np.ndarray | None = None,
) -> float:
    """Mean over samples of what the configurations chosen at a price take, in ms.

    scores, mean_latency_ms, feasible, spent_ms: (samples, actions); samples where nothing is feasible take their
    cheapest. `spent_ms` counts where it is given: costs that are expected at their mean.
    """
    allowed = np.isfinite(mean_latency_ms) if feasible is None else feasible & np.isfinite(mean_latency_ms)
    logits = priced_logits(
        scores, mean_latency_ms, price, full_latency_ms=full_latency_ms, temperature=temperature
    )
    chosen = choose(logits, mean_latency_ms, allowed)
    taken = np.where(chosen >= 0, chosen, cheapest_columns(mean_latency_ms))
    counted = mean_latency_ms if spent_ms is None else spent_ms
    return float(counted[np.arange(len(taken)), taken].mean())


def cheapest_columns(mean_latency_ms: np.ndarray) -> np.ndarray:
    """Column of the lowest mean latency of each sample, int64 (samples,); untested ones are NaN.

    Raises TrainError for samples without any.
    """
    nothing = np.flatnonzero(np.isnan(mean_latency_ms).all(axis=1))
    if len(nothing):
        raise TrainError(
            f"average budget: {len(nothing)} samples have no tested configuration (rows {nothing[:5].tolist()}), "
            "expected one or more of each; leave them out"
        )
    return np.nanargmin(mean_latency_ms, axis=1)


def fit_price(
    scores: np.ndarray,
    mean_latency_ms: np.ndarray,
    average_budget_ms: float,
    *,
    full_latency_ms: float,
    temperature: float,
    feasible: np.ndarray | None = None,
    spent_ms: np.ndarray | None = None,
) -> float:
    """A price of time at which the mean of what is chosen is within the average budget; 0 where it does not bind.

    The mean of expected latencies falls as the price rises, so bisection finds the lowest such price; that of
    `spent_ms`, costs as they came, mostly falls. Arrays are (samples, actions), of validation samples. Raises
    TrainError for a budget below what is spent at any price.
    """
    if not average_budget_ms > 0:
        raise TrainError(f"average budget: got {average_budget_ms} ms, expected a positive time")
    if not len(scores):
        raise TrainError(
            "average budget: got no samples to fit the price of time on; profile validation samples"
        )

    def latency_at(price: float) -> float:
        return mean_chosen_latency(
            scores,
            mean_latency_ms,
            price,
            full_latency_ms=full_latency_ms,
            temperature=temperature,
            feasible=feasible,
            spent_ms=spent_ms,
        )

    if latency_at(0.0) <= average_budget_ms:
        return 0.0
    low, high = 0.0, 1.0
    while latency_at(high) > average_budget_ms:
        low, high = high, high * 4.0
        if high > 1e9:
            raise TrainError(
                f"average budget: got {average_budget_ms:g} ms, but at the highest price choices still take "
                f"{latency_at(high):.4g} ms on average; ask for more time"
            )
    for _ in range(STEPS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if latency_at(middle) > average_budget_ms else (low, middle)
    return high


def price_range(
    mean_accuracy: np.ndarray, mean_latency_ms: np.ndarray, full_latency_ms: float
) -> tuple[float, float]:
    """Lowest and highest price of time worth training at, from configuration means (actions,) each.

    The slopes of the upper hull of accuracy over latency are the prices at which the best static configuration
    changes; single requests need less and more than the mean does, hence the margins.

    >>> low, high = price_range(np.array([0.5, 0.8, 0.9]), np.array([10.0, 20.0, 40.0]), 40.0)
    >>> round(low, 3), round(high, 3)
    (0.05, 4.8)
    """
    order = np.lexsort((-mean_accuracy, mean_latency_ms))
    hull: list[tuple[float, float]] = []
    for x, y in zip(mean_latency_ms[order] / full_latency_ms, mean_accuracy[order], strict=True):
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-2], (x, y)):
            hull.pop()
        if not hull or y > hull[-1][1]:
            if len(hull) == 1 and x <= hull[0][0]:
                hull.pop()
            hull.append((float(x), float(y)))
    slopes = [_slope(first, second) for first, second in itertools.pairwise(hull)]
    if not slopes:
        return FLATTEST_PRICE, STEEPEST_PRICE
    low = min(max(min(slopes) / PRICE_MARGIN, FLATTEST_PRICE), STEEPEST_PRICE / 2)
    return low, min(max(max(slopes) * PRICE_MARGIN, 2 * low), STEEPEST_PRICE)


PRICE_MARGIN = 4.0
FLATTEST_PRICE, STEEPEST_PRICE = 0.02, 20.0


def _slope(first: tuple[float, float], second: tuple[float, float]) -> float:
    return (second[1] - first[1]) / max(second[0] - first[0], 1e-9)
