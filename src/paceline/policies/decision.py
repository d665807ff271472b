"""The decision rule: a price of time turns scores into logits, the guard's feasible set limits the choice."""

import numpy as np


def priced_logits(
    scores: np.ndarray,
    mean_latency_ms: np.ndarray,
    price: np.ndarray | float,
    *,
    full_latency_ms: float,
    temperature: float,
) -> np.ndarray:
    """Scores less the price of the time they take: (..., actions).

    `price` is accuracy per full configuration's latency; an array has one entry per row.
    logits = score - price * mean_latency / full_latency / temperature.

    >>> priced_logits(np.array([10.0, 12.0]), np.array([20.0, 40.0]), 0.2, full_latency_ms=40.0, temperature=0.1)
    array([ 9., 10.])
    """
    charge = np.asarray(price)[..., None] / (full_latency_ms * temperature)
    return scores - charge * mean_latency_ms


def choose(logits: np.ndarray, mean_latency_ms: np.ndarray, feasible: np.ndarray) -> np.ndarray:
    """Column of the best logit among the feasible ones, per row; ties go to the cheaper; -1 where nothing fits.

    All arguments (..., actions); the result is int64 (...).

    >>> choose(np.array([1.0, 1.0, 5.0]), np.array([30.0, 20.0, 90.0]), np.array([True, True, False]))
    array(1)
    """
    masked = np.where(feasible, logits, -np.inf)
    best = masked.max(axis=-1, keepdims=True)
    cost = np.where(feasible & (masked == best), mean_latency_ms, np.inf)
    return np.where(feasible.any(axis=-1), cost.argmin(axis=-1), -1).astype(np.int64)
