"""The stacked reference: the mean of cross-fitted outcome models, each centred and on one scale."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from paceline.learning.reference.crossfit import CrossFit


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


def stack(predictions: Sequence[CrossFit], reward: np.ndarray) -> Stack:
    """Stack models: `predictions` of each, `reward` (n, m) as observed.

    Each model is centred over configurations and divided by its spread on held-out samples; their mean is put on the
    reward's scale by least squares through 0. A table on which nothing can be told gives values of 0.
    """
    parts = [max(float(centred(model.held_out).std()), 1e-12) for model in predictions]

    def mean(of: Callable[[CrossFit], np.ndarray]) -> np.ndarray:
        scaled = [centred(of(model)) / part for model, part in zip(predictions, parts, strict=True)]
        return np.sum(scaled, axis=0) / len(scaled)

    together = mean(lambda model: model.held_out)
    slope = float((together * centred(reward)).sum() / max((together**2).sum(), 1e-12))
    slope = max(slope, 1e-6)
    held_out = slope * together
    asked = [slope * mean(lambda model, k=k: model.asked[k]) for k in range(len(predictions[0].asked))]
    return Stack(held_out=held_out, asked=asked, spread=max(float(held_out.std()), 1e-12), parts=parts)

