"""The stacked reference: the weighted mean of cross-fitted outcome models, each centred and on one scale."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

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
    weights: list[float]  # of the models


def centred(values: np.ndarray) -> np.ndarray:
    """Less the mean over configurations, (n, m)."""
    return values - values.mean(axis=1, keepdims=True)


def stack(predictions: Sequence[CrossFit], reward: np.ndarray, learned_share: float) -> Stack:
    """Stack models: `predictions` of each, `reward` (n, m) as observed.

    Each model is centred over configurations and divided by its spread on held-out samples. They are weighted halfway
    (`learned_share`) between all alike and non-negative least squares on held-out samples (Breiman 1996, Stacked
    Regressions), and their sum is put on the reward's scale by least squares through 0. A table on which nothing
    can be told gives values of 0.
    """
    parts = [max(float(centred(model.held_out).std()), 1e-12) for model in predictions]
    columns = [centred(model.held_out) / part for model, part in zip(predictions, parts, strict=True)]
    learned, _ = nnls(np.stack([column.ravel() for column in columns], axis=1), centred(reward).ravel())
    even = np.full(len(columns), 1.0 / len(columns))
    learned = learned / learned.sum() if learned.sum() > 0 else even
    weights = learned_share * learned + (1.0 - learned_share) * even

    def mean(of: Callable[[CrossFit], np.ndarray]) -> np.ndarray:
        terms = zip(predictions, parts, weights, strict=True)
        return np.sum([weight / part * centred(of(model)) for model, part, weight in terms], axis=0)

    together = mean(lambda model: model.held_out)
    slope = float((together * centred(reward)).sum() / max((together**2).sum(), 1e-12))
    slope = max(slope, 1e-6)
    held_out = slope * together
    asked = [slope * mean(lambda model, k=k: model.asked[k]) for k in range(len(predictions[0].asked))]
    return Stack(
        held_out=held_out, asked=asked, spread=max(float(held_out.std()), 1e-12), weights=weights.tolist()
    )
