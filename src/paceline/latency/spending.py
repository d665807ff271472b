"""What counts against a mean budget where costs differ from sample to sample."""

import numpy as np

SAME_PRICE = 1e-6
"""Relative difference up to which a cost is the expected one: tables hold single precision."""


def spent_costs(measured: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Costs as they were, where known and not the expected ones; both (samples, configurations), NaN = not known.

    >>> spent_costs(np.array([[0.001, 0.003, np.nan]]), np.array([[0.002, 0.003, 0.004]])).tolist()
    [[0.001, 0.003, 0.004]]
    """
    apart = np.abs(measured - expected) > SAME_PRICE * expected
    return np.where(apart, measured, expected)
