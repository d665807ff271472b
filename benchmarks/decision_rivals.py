"""Rivals that score configurations: LightGBM, scikit-learn's neighbours, the policy's own network in eager torch."""

import time
from typing import Any, ClassVar

import numpy as np

from benchmarks.decision_job import Batch, Rival, standardised
from paceline.knobs import Configuration
from paceline.outcomes.table import OutcomeTable
from paceline.policies.context_code import encode_context
from paceline.policies.knob_features import configuration_positions
from paceline.runtime.decision import Context

ROWS_AT_ONCE = 2**15
"""Rows of a batch that LightGBM gets at once."""


class LightgbmOverConfigurations(Rival):
    """One booster reads features and knobs and predicts accuracy; asked for the configurations that fit, in one call.

    The matrix of all configurations is kept with the knobs in place; a request's features are written into it.
    `Booster.predict` on float32 rows with one thread: neither raw scores nor the C interface's fast single rows save
    more than a tenth.
    """

    name = "lightgbm over configurations"
    packages = ("lightgbm",)
    trees, leaves, rows = 100, 31, 20_000

    def fit(self, train: OutcomeTable, budgets_ms: np.ndarray, seed: int) -> dict[str, Any]:
        import lightgbm

        del budgets_ms
        knobs = configuration_positions(self.job.space, self.job.actions).astype(np.float32)
        sample, column = np.nonzero(train.tested)
        drawn = np.random.default_rng(seed).permutation(len(sample))[: self.rows]
        rows = np.concatenate([train.features[sample[drawn]], knobs[column[drawn]]], axis=1)
        options = _lightgbm_options(self.leaves, seed)
        data = lightgbm.Dataset(rows, train.accuracy[sample[drawn], column[drawn]])
        self.booster = lightgbm.train(options, data, self.trees)
        self.width = train.features.shape[1]
        self.knobs = knobs
        self.filled = np.concatenate([np.zeros((len(knobs), self.width), np.float32), knobs], axis=1)
        return {
            "trees": self.trees,
            "leaves": self.leaves,
            "columns": rows.shape[1],
            "fitted_rows": len(rows),
        }

    def decide(self, context: Context, budget_ms: float) -> Configuration:
        places, rows, images = self.job.fitting(context, budget_ms), self.filled, len(context.image_features)
        rows[:, :images] = context.image_features
        rows[:, images : self.width] = context.question_features
        values = np.asarray(self.booster.predict(rows[places], num_threads=1))
        return self.job.configurations[places[values.argmax()]]

    def decide_batch(self, batch: Batch) -> list[Configuration]:
        allowed, features = self.job.allowed(batch), batch.features
        sample, column = np.nonzero(allowed)
        scores = np.full(allowed.shape, -np.inf)
        for start in range(0, len(sample), ROWS_AT_ONCE):
            here, there = (index[start : start + ROWS_AT_ONCE] for index in (sample, column))
            rows = np.concatenate([features[here], self.knobs[there]], axis=1)
            scores[here, there] = self.booster.predict(rows, num_threads=1)
        return [self.job.configurations[i] for i in scores.argmax(axis=1).tolist()]


class LightgbmPerConfiguration(Rival):
    """A booster per configuration reads the features; those of the configurations that fit are asked, one by one."""

    name = "lightgbm per configuration"
    packages = ("lightgbm",)
    trees, leaves, samples = 100, 31, 1000

    def fit(self, train: OutcomeTable, budgets_ms: np.ndarray, seed: int) -> dict[str, Any]:
        import lightgbm

        del budgets_ms
        options = _lightgbm_options(self.leaves, seed) | {"min_data_in_leaf": 5, "max_bin": 15}
        self.boosters = []
        for column in range(len(self.job.actions)):
            rows = np.flatnonzero(train.tested[:, column])[: self.samples]
            data = lightgbm.Dataset(train.features[rows], train.accuracy[rows, column])
            self.boosters.append(lightgbm.train(options, data, self.trees))
        return {
            "boosters": len(self.boosters),
            "trees_each": self.trees,
            "leaves": self.leaves,
            "columns": train.features.shape[1],
            "fitted_samples": min(self.samples, train.samples),
        }

    def decide(self, context: Context, budget_ms: float) -> Configuration:
        places = self.job.fitting(context, budget_ms)
        row = np.concatenate([context.image_features, context.question_features])[None]
        values = [np.asarray(self.boosters[place].predict(row, num_threads=1))[0] for place in places]
        return self.job.configurations[places[int(np.argmax(values))]]


def _lightgbm_options(leaves: int, seed: int) -> dict[str, Any]:
    """LightGBM's defaults but for fewer bins, which fit faster and predict the same."""
    return {
        "objective": "regression",
        "num_leaves": leaves,
        "max_bin": 63,
        "num_threads": 1,
        "seed": seed,
    } | {"verbosity": -1}


class Neighbours(Rival):
    """Mean accuracies of the nearest train samples, by `NearestNeighbors` with checks of its input off.

    The algorithm is the one of scikit-learn's three that answers fastest here.
    """

    name = "scikit-learn nearest neighbours"
    packages = ("scikit-learn",)
    neighbours, tried = 20, 20
    algorithms: ClassVar[tuple[str, ...]] = ("brute", "kd_tree", "ball_tree")

    def fit(self, train: OutcomeTable, budgets_ms: np.ndarray, seed: int) -> dict[str, Any]:
        import sklearn
        from sklearn.neighbors import NearestNeighbors

        del budgets_ms, seed
        # documented under "computational performance": both only leave out checks
        sklearn.set_config(assume_finite=True, skip_parameter_validation=True)
        self.mean, self.scale = standardised(train.features)
        usual = np.nanmean(train.accuracy, axis=0)
        self.accuracy = np.where(train.tested, train.accuracy, usual)
        rows = (train.features - self.mean) * self.scale
        seconds: dict[str, float] = {}
        count = min(self.neighbours, len(rows))
        for algorithm in self.algorithms:
            search = NearestNeighbors(n_neighbors=count, algorithm=algorithm, n_jobs=1).fit(rows)
            spent = []
            for row in rows[: self.tried]:
                started = time.perf_counter()
                search.kneighbors(row[None], return_distance=False)
                spent.append(time.perf_counter() - started)
            seconds[algorithm] = float(np.median(spent))
            if seconds[algorithm] == min(seconds.values()):
                self.search = search
        return {
            "neighbours": count,
            "samples": len(rows),
            "columns": rows.shape[1],
            "algorithm": min(seconds, key=lambda name: seconds[name]),
            "tried_us": {name: round(1e6 * value, 1) for name, value in seconds.items()},
        }

    def decide(self, context: Context, budget_ms: float) -> Configuration:
        features = np.concatenate([context.image_features, context.question_features])
        row = ((features - self.mean) * self.scale)[None]
        nearest = self.search.kneighbors(row, return_distance=False)[0]
        return self.job.best(self.accuracy[nearest].mean(axis=0), context, budget_ms)

    def decide_batch(self, batch: Batch) -> list[Configuration]:
        rows = (batch.features - self.mean) * self.scale
        nearest = self.search.kneighbors(rows, return_distance=False)
        scores = np.empty((len(rows), self.accuracy.shape[1]))
        for start in range(0, len(rows), 256):
            scores[start : start + 256] = self.accuracy[nearest[start : start + 256]].mean(axis=1)
        return self.job.best_of_batch(scores, batch)


class EagerTorch(Rival):
    """The controller's own network as torch operations under `inference_mode`; scaling and budget code included.

    Its weights are those of the numpy policy, consecutive linear layers multiplied into one. Feasibility and choice
    are in numpy.
    """

    name = "eager torch, the same network"
    packages = ("torch",)

    def fit(self, train: OutcomeTable, budgets_ms: np.ndarray, seed: int) -> dict[str, Any]:
        import torch

        del train, budgets_ms, seed
        spec, arrays = self.job.policy.spec, self.job.policy.arrays
        if (spec.head, spec.output, spec.inputs.feature_scaling) != ("joint", "accuracy", "standard"):
            raise NotImplementedError(
                f"eager torch: got a policy of head {spec.head!r}, output {spec.output!r} and scaling "
                f"{spec.inputs.feature_scaling!r}, expected 'joint', 'accuracy' and 'standard'"
            )
        self.spec, self.torch = spec, torch
        self.weights = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        return {
            "members": spec.members,
            "hidden": spec.hidden,
            "weight_bytes": sum(array.nbytes for array in arrays.values()),
        }

    def scores(self, features: np.ndarray, told_ms: np.ndarray | float) -> np.ndarray:
        """Predicted accuracies (n, m) of features (n, f)."""
        torch, weights = self.torch, self.weights
        codes = encode_context(self.spec, told_ms).reshape(-1, self.spec.code_width)
        with torch.inference_mode():
            rows = torch.from_numpy(features)
            scaled = ((rows - weights["feature_mean"]) * weights["feature_scale"]).clamp(-5.0, 5.0)
            inputs = torch.cat([scaled, torch.from_numpy(codes)], dim=1).expand(self.spec.members, -1, -1)
            hidden = torch.baddbmm(weights["input.bias"], inputs, weights["input.weight"]).relu()
            hidden = torch.baddbmm(weights["fusion.bias"], hidden, weights["fusion.weight"]).relu()
            outputs = torch.baddbmm(weights["head.bias"], hidden, weights["head.weight"])
            return torch.sigmoid(outputs).mean(dim=0).numpy()

    def decide(self, context: Context, budget_ms: float) -> Configuration:
        features = np.concatenate([context.image_features, context.question_features])[None]
        return self.job.best(self.scores(features, budget_ms)[0], context, budget_ms)

    def decide_batch(self, batch: Batch) -> list[Configuration]:
        return self.job.best_of_batch(self.scores(batch.features, batch.budget_ms), batch)
