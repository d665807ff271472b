"""Models of the accuracy of every configuration: what a reference policy is stacked from.

Each `fit_*` takes features (n, f), accuracy (n, m) in [0, 1] and which cells were tested, and returns a function from
features (k, f) to predicted accuracies (k, m).
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch

from paceline.learning.reference.options import ForestOptions, LightgbmOptions, OutcomeNetworkOptions
from paceline.learning.reference.stacked_network import StackedNetwork

Predictor: TypeAlias = Callable[[np.ndarray], np.ndarray]

SMALLEST_LEAF = 5


def fit_lightgbm(
    features: np.ndarray, accuracy: np.ndarray, tested: np.ndarray, options: LightgbmOptions, seed: int
) -> Predictor:
    """Gradient-boosted trees per configuration (Ke et al. 2017), squared error."""
    import lightgbm

    parameters: dict[str, Any] = {
        "objective": "regression",
        "learning_rate": options.learning_rate,
        "num_leaves": options.leaves,
        "min_data_in_leaf": options.smallest_leaf,
        "feature_fraction": options.feature_share,
        "bagging_fraction": options.sample_share,
        "bagging_freq": 1,
        "lambda_l2": options.l2,
        "max_bin": options.bins,
        "num_threads": 1,
        "verbosity": -1,
        "deterministic": True,
        "force_row_wise": True,
        "seed": seed,
    }
    constants = np.full(accuracy.shape[1], np.nan)
    boosters: list[Any] = []
    for column in range(accuracy.shape[1]):
        rows = tested[:, column]
        target = accuracy[rows, column].astype(np.float64)
        if len(target) < 2 * SMALLEST_LEAF or target.min() == target.max():
            constants[column] = target.mean() if len(target) else 0.0
            boosters.append(None)
            continue
        data = lightgbm.Dataset(
            features[rows],
            target,
            params={"verbosity": -1, "feature_pre_filter": False, "max_bin": options.bins},
        )
        boosters.append(lightgbm.train(parameters, data, num_boost_round=options.trees))

    def predict(new: np.ndarray) -> np.ndarray:
        columns = [
            np.full(len(new), constants[column]) if booster is None else booster.predict(new, num_threads=1)
            for column, booster in enumerate(boosters)
        ]
        return np.stack(columns, axis=1)

    return predict


def fit_forest(
    features: np.ndarray, accuracy: np.ndarray, tested: np.ndarray, options: ForestOptions, seed: int
) -> Predictor:
    """One random forest (Breiman 2001) for all configurations at once, on accuracy less the sample's mean.

    Splits then serve what configurations differ by, not how hard samples are. Its predictions are centred: adding
    anything that is equal for all configurations changes no choice. Untested cells count as the sample's mean.
    """
    from sklearn.ensemble import RandomForestRegressor

    centred = centred_accuracy(accuracy, tested)
    forest = RandomForestRegressor(
        n_estimators=options.trees,
        min_samples_leaf=options.smallest_leaf,
        max_features=options.feature_share,
        n_jobs=1,
        random_state=seed,
    )
    forest.fit(features, centred)

    def predict(new: np.ndarray) -> np.ndarray:
        return forest.predict(new).reshape(len(new), -1)

    return predict


def fit_network(
    features: np.ndarray, accuracy: np.ndarray, tested: np.ndarray, options: OutcomeNetworkOptions, seed: int
) -> Predictor:
    """Networks side by side, trained on cross-entropy with the accuracy; the mean of their predictions.

    `features`: scaled, as `FeatureScaling.apply` gives them.
    """
    generator = torch.Generator().manual_seed(seed)
    count, width = features.shape
    network = StackedNetwork(
        options.members,
        width,
        options.hidden,
        accuracy.shape[1],
        dropout=options.dropout,
        generator=generator,
    )
    inputs = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
    target = torch.from_numpy(np.ascontiguousarray(accuracy, dtype=np.float32))
    weight = torch.from_numpy(tested).float()
    batch = min(options.batch_size, count)
    steps = max(1, count // batch)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.epochs * steps)
    for _ in range(options.epochs):
        order = torch.stack([torch.randperm(count, generator=generator) for _ in range(options.members)])
        for step in range(steps):
            rows = order[:, step * batch : (step + 1) * batch]
            logits = network(inputs[rows], generator)
            losses = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, target[rows], weight=weight[rows], reduction="sum"
            )
            optimiser.zero_grad(set_to_none=True)
            (losses / (batch * accuracy.shape[1])).backward()
            optimiser.step()
            schedule.step()

    def predict(new: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            rows = torch.from_numpy(np.ascontiguousarray(new, dtype=np.float32))
            logits = network(rows.expand(options.members, -1, -1))
            return torch.sigmoid(logits).mean(dim=0).numpy().astype(np.float64)

    return predict


def centred_accuracy(accuracy: np.ndarray, tested: np.ndarray) -> np.ndarray:
    """Accuracy less the mean over the sample's tested configurations, float64 (n, m); 0 where untested.

    >>> centred_accuracy(np.array([[1.0, 0.0, 9.0]]), np.array([[True, True, False]])).tolist()
    [[0.5, -0.5, 0.0]]
    """
    values = np.where(tested, accuracy, 0.0).astype(np.float64)
    mean = values.sum(axis=1) / np.maximum(tested.sum(axis=1), 1)
    return np.where(tested, values - mean[:, None], 0.0)
