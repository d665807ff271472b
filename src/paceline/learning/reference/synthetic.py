"""Made-up contexts: features between and around those of real samples, for a student to hear the teacher on."""

import numpy as np
from sklearn.neighbors import NearestNeighbors

KINDS = 4
WIDEST_MIX = 0.5
LARGEST_STEP = 0.4
RESAMPLED = (0.05, 0.3)
LOCAL_SWAP = 0.5


def synthetic_features(
    features: np.ndarray, scaled: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """`count` feature vectors (count, f) and the sample each was made from, int64 (count,).

    A quarter each, since no single kind is reliably best: a mix with another sample (mixup, Zhang et al. 2018), every
    feature moved a step of its own towards another sample, some features taken from other samples, and features
    swapped with the nearest sample (MUNGE, Bucila et al. 2006). Steps are taken between observed values, so that no
    feature leaves its range.

    Args:
        features: raw (n, f). scaled: the same, scaled: what nearness is measured on.
    """
    rng = np.random.default_rng(seed)
    samples, width = features.shape
    origin = np.resize(rng.permutation(samples), count)
    other = rng.integers(0, samples, count)
    kind = rng.integers(0, KINDS, count)
    made = features[origin].astype(np.float64)
    partner = features[other]

    mixed = kind == 0
    share = rng.uniform(0, WIDEST_MIX, (int(mixed.sum()), 1))
    made[mixed] += share * (partner[mixed] - made[mixed])

    moved = kind == 1
    step = rng.uniform(0, LARGEST_STEP, (int(moved.sum()), 1)) * rng.random((int(moved.sum()), width))
    made[moved] += step * (partner[moved] - made[moved])

    resampled = kind == 2
    chance = rng.uniform(*RESAMPLED, (int(resampled.sum()), 1))
    strangers = features[rng.integers(0, samples, (int(resampled.sum()), width)), np.arange(width)]
    made[resampled] = np.where(rng.random((int(resampled.sum()), width)) < chance, strangers, made[resampled])

    near = kind == 3
    if samples > 1:
        search = NearestNeighbors(n_neighbors=min(2, samples - 1)).fit(scaled)
        neighbour = search.kneighbors(return_distance=False)[:, 0]
        swap = rng.random((int(near.sum()), width)) < LOCAL_SWAP
        made[near] = np.where(swap, features[neighbour[origin[near]]], made[near])
    return made.astype(np.float32), origin
