"""What a value may be at configurations that were not tested: a plane over the knobs, and a smooth remainder."""

import numpy as np

from paceline.knobs import KnobSpace

REACH = 0.5
"""How far a measured deviation from the plane is felt, in lengths of a knob (its options from first to last)."""
NUGGET = 0.05
"""Variance of a measured value's own error, as a share of the variance of deviations."""
LEAST_SPREAD = 0.1
"""Smallest spread of deviations, as a share of the spread of the values: few points always lie near a plane."""


def knob_levels(space: KnobSpace, actions: np.ndarray) -> np.ndarray:
    """Position of each option among its knob's options, 0 to 1: actions (m,) -> float64 (m, knobs)."""
    return space.option_indices(actions) / np.maximum(1, np.array(space.shape) - 1)


def predict(
    space: KnobSpace, actions: np.ndarray, values: np.ndarray, asked: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Expected value and its standard deviation at other configurations (universal kriging, fixed kernel).

    Args:
        actions: int64 (m,) configurations where the value is known, at least one.
        values: float64 (m,).
        asked: int64 (k,) configurations.

    Returns:
        float64 (k,) each; the deviation is near 0 beside a known configuration and grows with the distance.

    >>> from paceline.knobs import Knob
    >>> space = KnobSpace((Knob(name="top_k", options=(1, 2, 3, 4, 5)),))
    >>> predict(space, np.array([0, 4]), np.array([1.0, 3.0]), np.array([2]))[0].round(2).tolist()
    [2.0]
    """
    known, new = knob_levels(space, actions), knob_levels(space, asked)
    plane, *_ = np.linalg.lstsq(_with_one(known), values, rcond=None)
    left = values - _with_one(known) @ plane
    spread = max(float(left.std()), LEAST_SPREAD * float(values.std()))
    if spread == 0:
        return _with_one(new) @ plane, np.zeros(len(new))
    inverse = np.linalg.inv(_nearness(known, known) + NUGGET * np.eye(len(known)))
    near = _nearness(new, known)
    explained = ((near @ inverse) * near).sum(axis=1)
    mean = _with_one(new) @ plane + near @ (inverse @ left)
    return mean, spread * np.sqrt(np.clip(1 - explained, 0, 1))


def _with_one(levels: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(levels)), levels])


def _nearness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 at distance 0, falling with the square of the distance over `REACH`: (p, q)."""
    squares = ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2)
    return np.exp(-squares / (2 * REACH**2))
