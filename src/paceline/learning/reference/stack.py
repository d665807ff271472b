"""The stacked reference: the mean of cross-fitted outcome models, each centred and on one scale."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Stack:
    """Values that order configurations, for the fitted samples (held out) and for others.

    They are centred over configurations and in units of the reward: differences are what one configuration is
    expected to gain over another.
    """

    held_out: np.ndarray  # float64 (n, m)
    asked: list[np.ndarray]  # float64 (k, m) each
    spread: float  # standard deviation of `held_out`
    parts: list[float]  # standard deviation of each model's centred predictions


def centred(values: np.ndarray) -> np.ndarray:
    """Less the mean over configurations, (n, m)."""
    return values - values.mean(axis=1, keepdims=True)


def stack(predictions: list[tuple[np.ndarray, list[np.ndarray]]], reward: np.ndarray) -> Stack:
    """Stack models: `predictions` of each as `cross_fit` gives them, `reward` (n, m) as observed.

    Each model is centred over configurations and divided by its spread on held-out samples; their mean is put on the
    reward's scale by least squares through 0. A table on which nothing can be told gives values of 0.
    """
    parts = [max(float(centred(held_out).std()), 1e-12) for held_out, _ in predictions]
    mean = _mean([centred(held_out) / part for (held_out, _), part in zip(predictions, parts, strict=True)])
    slope = max(float((mean * centred(reward)).sum() / max((mean**2).sum(), 1e-12)), 1e-6)
    asked = [
        slope
        * _mean([centred(other[k]) / part for (_, other), part in zip(predictions, parts, strict=True)])
        for k in range(len(predictions[0][1]))
    ]
    held_out = slope * mean
    return Stack(held_out=held_out, asked=asked, spread=max(float(held_out.std()), 1e-12), parts=parts)


def _mean(values: list[np.ndarray]) -> np.ndarray:
    return np.sum(values, axis=0) / len(values)
