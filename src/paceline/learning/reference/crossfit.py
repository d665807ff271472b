"""Cross-fitting: every sample is predicted by models that were fitted without its scene."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TypeAlias

import numpy as np

from paceline.learning.reference.outcome_models import Predictor

Fit: TypeAlias = Callable[[np.ndarray, np.ndarray, int], Predictor]
"""(features (n, f), targets (n, m), seed) -> a function from features to predictions."""

TIMED = 3
"""Samples predicted one by one, for the time of a decision."""


def scene_folds(scene: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """A fold from 0 to folds - 1 for every sample, int64 (n,): samples of one scene together, sizes as even as can be.

    >>> folds = scene_folds(np.array(["a", "a", "b", "c"]), 3, seed=0)
    >>> bool(folds[0] == folds[1]), sorted(set(folds.tolist()))
    (True, [0, 1, 2])
    """
    scenes, position, counts = np.unique(scene, return_inverse=True, return_counts=True)
    fold_of, sizes = np.zeros(len(scenes), dtype=np.int64), np.zeros(folds, dtype=np.int64)
    order = np.random.default_rng(seed).permutation(len(scenes))
    for index in order[np.argsort(-counts[order], kind="stable")]:
        fold = int(np.argmin(sizes))
        fold_of[index] = fold
        sizes[fold] += counts[index]
    return fold_of[position]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CrossFit:
    """What models of all folds say."""

    held_out: np.ndarray  # float64 (n, m): of every sample by the model that did not see its scene
    asked: list[np.ndarray]  # float64 (k, m) each: the mean over all models
    sample_us: float  # time of predicting one sample with all models, in microseconds


def mean_of(parts: Sequence[CrossFit]) -> CrossFit:
    """The mean over several sets of folds; a sample's held-out values still never saw its own outcomes."""
    return CrossFit(
        held_out=np.mean([part.held_out for part in parts], axis=0),
        asked=[np.mean([part.asked[k] for part in parts], axis=0) for k in range(len(parts[0].asked))],
        sample_us=sum(part.sample_us for part in parts),
    )


def cross_fit(
    fit: Fit,
    features: np.ndarray,
    targets: np.ndarray,
    fold: np.ndarray,
    asked: Sequence[np.ndarray],
    seed: int,
    done: Callable[[], None],
) -> CrossFit:
    """Predictions for the samples by models that never saw their fold, and for other features by the mean of all.

    Args:
        features, targets: (n, f) and (n, m); `fold` (n,) from `scene_folds`.
        asked: arrays of features (k, f).
        done: called after each fold.

    Returns:
        Predictions (n, m) and one (k, m) for each of `asked`, float64, and what predicting one sample takes.
    """
    folds = int(fold.max()) + 1
    held_out = np.zeros(targets.shape)
    seconds = 0.0
    elsewhere = [np.zeros((len(part), targets.shape[1])) for part in asked]
    for index in range(folds):
        kept = fold != index
        predict = fit(features[kept], targets[kept], seed + index)
        held_out[~kept] = predict(features[~kept])
        for total, part in zip(elsewhere, asked, strict=True):
            if len(part):
                total += predict(part) / folds
        seconds += _seconds_per_sample(predict, features)
        done()
    return CrossFit(held_out=held_out, asked=elsewhere, sample_us=1e6 * seconds)


def _seconds_per_sample(predict: Predictor, features: np.ndarray) -> float:
    times = []
    for row in range(TIMED):
        start = perf_counter()
        predict(features[row % len(features)][None])
        times.append(perf_counter() - start)
    return float(np.median(times))
