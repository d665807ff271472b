"""Cross-fitting: every sample is predicted by models that were fitted without its scene."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from paceline.learning.reference.outcome_models import Predictor

Fit: TypeAlias = Callable[[np.ndarray, np.ndarray, int], Predictor]
"""(features (n, f), targets (n, m), seed) -> a function from features to predictions."""


def scene_folds(scene: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """A fold from 0 to folds - 1 for every sample, int64 (n,): samples of one scene together, sizes as even as can be.

    >>> folds = scene_folds(np.array(["a", "a", "b", "c"]), 3, seed=0)
    >>> folds[0] == folds[1], sorted(set(folds.tolist()))
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


def cross_fit(
    fit: Fit,
    features: np.ndarray,
    targets: np.ndarray,
    fold: np.ndarray,
    asked: Sequence[np.ndarray],
    seed: int,
    done: Callable[[], None],
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Predictions for the samples by models that never saw their fold, and for other features by the mean of all.

    Args:
        features, targets: (n, f) and (n, m); `fold` (n,) from `scene_folds`.
        asked: arrays of features (k, f).
        done: called after each fold.

    Returns:
        float64 (n, m), and one float64 (k, m) for each of `asked`.
    """
    folds = int(fold.max()) + 1
    held_out = np.zeros(targets.shape)
    elsewhere = [np.zeros((len(part), targets.shape[1])) for part in asked]
    for index in range(folds):
        kept = fold != index
        predict = fit(features[kept], targets[kept], seed + index)
        held_out[~kept] = predict(features[~kept])
        for total, part in zip(elsewhere, asked, strict=True):
            if len(part):
                total += predict(part) / folds
        done()
    return held_out, elsewhere
