"""Learners of a few lines: nearest neighbours, clusters of samples, trees per configuration, voting trees."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestRegressor
from sklearn.neighbors import NearestNeighbors

from paceline.learning.learners.contender import Contender, ValueContender, allowed, pick
from paceline.learning.learners.task import LearnerTask, Model, by_channel, channel_of
from paceline.learning.problem import Problem
from paceline.learning.reference.crossfit import scene_folds
from paceline.learning.reference.outcome_models import fit_lightgbm
from paceline.learning.reference.stack import centred
from paceline.learning.reference.teacher import targets_of

NEIGHBOURS = (5, 10, 20, 40, 80)
CLUSTERS = (4, 8, 16, 32, 64)
FOLDS = 5
"""The size is the one of highest mean accuracy of unconstrained choices on inner folds."""
VOTING_TREES = 100
VOTING_LEAF = 5
ROWS_AT_ONCE = 256


Means: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray, int, int], np.ndarray]
"""(features (n, f), accuracy (n, m), asked features (k, f), size, seed) -> mean accuracies (k, m)."""


def fit_knn(task: LearnerTask) -> Contender:
    """Mean accuracy of the nearest training samples (as SUNNY does), their number chosen on inner folds."""
    return _by_means(task, NEIGHBOURS, _neighbour_means)


def fit_kmeans(task: LearnerTask) -> Contender:
    """Mean accuracy of the training samples in the same cluster (as ISAC does), their number chosen on inner folds."""
    return _by_means(task, CLUSTERS, _cluster_means)


def _by_means(task: LearnerTask, sizes: Sequence[int], means: Means) -> Contender:
    def fit(problem: Problem, budget_ms: float | None) -> Model:
        del budget_ms
        features = task.inputs.prepare(problem.features)
        size = _best_size(features, problem, sizes, means, task.seed)
        return lambda _, prepared: means(features, problem.accuracy, prepared, size, task.seed)

    return ValueContender(by_channel(task, fit))


def fit_trees(task: LearnerTask) -> Contender:
    """Gradient-boosted trees per configuration predict what it is worth; the highest is chosen."""
    options = task.options.reference.lightgbm

    def fit(problem: Problem, budget_ms: float | None) -> Model:
        del problem
        target, _ = targets_of(task.train, budget_ms)
        tested = np.ones(target.shape, dtype=bool)
        predict = fit_lightgbm(task.train.features, target, tested, options, task.seed)
        return lambda raw, _: predict(raw)

    return ValueContender(by_channel(task, fit))


class VotingForest:
    """Every tree of a multi-output forest votes on each pair of configurations: the better one in the sample's leaf.

    The configuration that wins most pairs is chosen, as SATzilla's pairwise forests do; here the trees are grown once
    on all configurations, so that budgets and prices can be put to the vote after training.
    """

    def __init__(self, task: LearnerTask) -> None:
        self.channels = task.channels
        self.forests = {}
        for budget in self.channels:
            forest = RandomForestRegressor(
                n_estimators=VOTING_TREES,
                min_samples_leaf=VOTING_LEAF,
                max_features=task.options.reference.forest.feature_share,
                n_jobs=1,
                random_state=task.seed,
            )
            self.forests[budget] = forest.fit(task.train.features, centred(task.train.under(budget).accuracy))
        self._kept: list[tuple[Problem, float | None, np.ndarray]] = []

    def choose(self, problem: Problem, budget_ms: float | None, price: float) -> np.ndarray:
        """See `Contender.choose`."""
        leaves = self._leaf_means(problem, channel_of(budget_ms, self.channels))
        charge = price * problem.mean_ms / problem.unit_ms
        fits = allowed(problem, budget_ms)
        wins = np.zeros(fits.shape)
        for start in range(0, len(fits), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            values = np.where(fits[rows], leaves[:, rows] - charge[rows], -1e9)
            wins[rows] = _pair_wins(values)
        return pick(wins, problem.mean_ms, fits)

    def _leaf_means(self, problem: Problem, channel: float | None) -> np.ndarray:
        for known, budget, means in self._kept:
            if known is problem and budget == channel:
                return means
        trees = self.forests[channel].estimators_
        means = np.stack([tree.predict(problem.features) for tree in trees]).astype(np.float32)
        self._kept = [*self._kept[-1:], (problem, channel, means.reshape(len(trees), problem.samples, -1))]
        return self._kept[-1][2]


def _pair_wins(values: np.ndarray) -> np.ndarray:
    """How many others each configuration beats in more trees than not: (trees, n, m) -> (n, m); a draw is half."""
    wins = np.zeros(values.shape[1:])
    for column in range(values.shape[2]):
        margin = np.sign(values[:, :, [column]] - values).sum(axis=0)
        wins[:, column] = (margin > 0).sum(axis=1) + 0.5 * (margin == 0).sum(axis=1)
    return wins


def _best_size(features: np.ndarray, problem: Problem, sizes: Sequence[int], means: Means, seed: int) -> int:
    fold = scene_folds(problem.scene, FOLDS, seed)
    scores = []
    for size in sizes:
        earned = 0.0
        for index in range(FOLDS):
            kept, held = fold != index, fold == index
            if not held.any() or not kept.any():
                continue
            values = means(features[kept], problem.accuracy[kept], features[held], size, seed)
            earned += float(problem.accuracy[held][np.arange(int(held.sum())), values.argmax(axis=1)].sum())
        scores.append(earned)
    return sizes[int(np.argmax(scores))]


def _neighbour_means(
    features: np.ndarray, accuracy: np.ndarray, asked: np.ndarray, size: int, seed: int
) -> np.ndarray:
    del seed
    nearest = NearestNeighbors(n_neighbors=min(size, len(features))).fit(features)
    return accuracy[nearest.kneighbors(asked, return_distance=False)].mean(axis=1)


def _cluster_means(
    features: np.ndarray, accuracy: np.ndarray, asked: np.ndarray, size: int, seed: int
) -> np.ndarray:
    clusters = KMeans(n_clusters=min(size, len(features)), random_state=seed).fit(features)
    overall = accuracy.mean(axis=0)
    means = np.stack(
        [
            accuracy[clusters.labels_ == k].mean(axis=0) if (clusters.labels_ == k).any() else overall
            for k in range(clusters.n_clusters)
        ]
    )
    return means[clusters.predict(asked)]
