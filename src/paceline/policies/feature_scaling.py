"""How features become inputs of a policy: in standard deviations, or by rank on a normal scale. numpy only."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from paceline.errors import ControllerError, TrainError

FEATURE_LIMIT = 5.0
"""Scaled features are clipped to this many standard deviations, so that an odd input cannot run away."""
SMALLEST_SPREAD = 1e-6
"""Features whose standard deviation is less are constant to the standard scaling: they are passed on as zeros."""
KNOTS = 100
"""Places at which the quantile scaling knows a feature's rank."""
FEW_ROWS = 8
"""Up to here all features are compared with all their knots at once; more rows are searched feature by feature."""
METHODS = ("standard", "quantile")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FeatureScaling:
    """A map from raw features (n, f) to scaled ones, fitted on training samples.

    "standard": (x - mean) / standard deviation. For features of about one scale, such as pooled activations.
    "quantile": the normal score of the value's rank among the training samples, z(p) with p = (share below + share
    not above) / 2, linear between up to `KNOTS` values. For columns of a table, whose scales span decades. Values
    beyond the training range count as its ends. A flag keeps two values, the rarer one further from 0.

    Both give 0 for features that are constant in training, and stay within +-`FEATURE_LIMIT`.

    >>> scaling = FeatureScaling.fit(np.array([[1.0], [10.0], [1000.0]]), "quantile")
    >>> scaling.apply(np.array([[10.0], [1e9]])).round(2).tolist()
    [[0.0], [0.9700000286102295]]
    """

    method: str  # of METHODS
    first: np.ndarray  # float32: mean (f,), or the knots' values (k, f), ascending
    second: np.ndarray  # float32: 1 / standard deviation (f,), or the knots' normal scores (k, f)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise TrainError(f"feature scaling: got {self.method!r}, expected one of {list(METHODS)}")
        dimensions = 1 if self.method == "standard" else 2
        if self.first.shape != self.second.shape or self.first.ndim != dimensions:
            raise ControllerError(
                f"feature scaling {self.method}: got arrays {self.first.shape} and {self.second.shape}, expected two "
                f"of one shape with {dimensions} axes; train the controller again"
            )

    @property
    def width(self) -> int:
        """How many features it scales."""
        return self.first.shape[-1]

    @classmethod
    def fit(cls, features: np.ndarray, method: str) -> "FeatureScaling":
        """The scaling of training samples.

        Args:
            features: finite numbers (n, f), n of at least 1.
            method: one of `METHODS`.

        Raises:
            TrainError: an unknown method, no samples, or features that are not finite.
        """
        if method not in METHODS:
            raise TrainError(f"feature scaling: got {method!r}, expected one of {list(METHODS)}")
        if features.ndim != 2 or not len(features):
            raise TrainError(
                f"feature scaling: got features {features.shape}, expected (samples, features) with a sample or more"
            )
        if not np.isfinite(features).all():
            raise TrainError(
                "feature scaling: got NaN or infinite features, expected numbers; fill or drop them"
            )
        if method == "standard":
            mean = features.mean(axis=0, dtype=np.float64)
            std = features.std(axis=0, dtype=np.float64)
            scale = np.where(std > SMALLEST_SPREAD, 1.0 / np.maximum(std, SMALLEST_SPREAD), 0.0)
            return cls(method=method, first=mean.astype(np.float32), second=scale.astype(np.float32))
        columns = [_knots(np.sort(features[:, j].astype(np.float32))) for j in range(features.shape[1])]
        shape = (features.shape[1], 2, KNOTS)
        values, scores = np.array(columns, dtype=np.float32).reshape(shape).transpose(1, 2, 0)
        return cls(method=method, first=np.ascontiguousarray(values), second=np.ascontiguousarray(scores))

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Scaled features, float32 (n, f) or (f,) as given.

        Raises:
            ControllerError: another number of features.
        """
        if features.shape[-1] != self.width:
            raise ControllerError(
                f"feature scaling: got {features.shape[-1]} features, expected {self.width}; the controller was "
                "trained on other features"
            )
        if self.method == "standard":
            scaled = (features.astype(np.float32, copy=False) - self.first) * self.second
            return np.clip(scaled, -FEATURE_LIMIT, FEATURE_LIMIT)
        rows = np.atleast_2d(features.astype(np.float32, copy=False))
        upper = np.clip(self._knots_not_above(rows), 1, len(self.first) - 1)
        column = np.arange(self.width)
        low, high = self.first[upper - 1, column], self.first[upper, column]
        share = np.clip((rows - low) / np.where(high > low, high - low, np.float32(1.0)), 0.0, 1.0)
        start = self.second[upper - 1, column]
        return (start + share * (self.second[upper, column] - start)).reshape(features.shape)

    def part(self, columns: slice) -> "FeatureScaling":
        """The scaling of some of the features."""
        first, second = (np.ascontiguousarray(array[..., columns]) for array in (self.first, self.second))
        return FeatureScaling(method=self.method, first=first, second=second)

    def beside(self, other: "FeatureScaling") -> "FeatureScaling":
        """The scaling of these features and, after them, of others; both of one method."""
        first = np.concatenate([self.first, other.first], axis=-1)
        second = np.concatenate([self.second, other.second], axis=-1)
        return FeatureScaling(method=self.method, first=first, second=second)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """float32 arrays by name, for a controller's policy.safetensors; `from_arrays` reads them."""
        names = _NAMES[self.method]
        return {names[0]: self.first.copy(), names[1]: self.second.copy()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "FeatureScaling":
        """The scaling in `arrays`, which may hold others too.

        Raises:
            ControllerError: arrays of no method.
        """
        for method, (first, second) in _NAMES.items():
            if first in arrays and second in arrays:
                return cls(method=method, first=arrays[first], second=arrays[second])
        raise ControllerError(
            f"feature scaling: got arrays {sorted(arrays)}, expected one pair of {list(_NAMES.values())}; train the "
            "controller again"
        )

    @staticmethod
    def array_shapes(method: str, width: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the arrays that `to_arrays` gives for `width` features."""
        shape = (width,) if method == "standard" else (KNOTS, width)
        return dict.fromkeys(_NAMES[method], shape)

    def _knots_not_above(self, rows: np.ndarray) -> np.ndarray:
        """How many knots of each feature are at most the value: int (n, f)."""
        if len(rows) <= FEW_ROWS:
            return (self.first <= rows[:, None]).sum(axis=1)
        counts = [np.searchsorted(self.first[:, j], rows[:, j], side="right") for j in range(self.width)]
        return np.stack(counts, axis=1) if counts else np.zeros(rows.shape, dtype=np.int64)


_NAMES = {
    "standard": ("feature_mean", "feature_scale"),
    "quantile": ("feature_knots", "feature_scores"),
}


def _knots(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and normal scores of one feature's knots, (KNOTS,) each; the last one is repeated to fill them up.

    Few distinct values are all knots. Of many, those at evenly spaced normal scores, so that tails are known as well as
    the middle. `ordered`: the n training values, ascending.
    """
    normal, n = NormalDist(), len(ordered)
    values = np.unique(ordered)
    if len(values) > KNOTS:
        end = normal.inv_cdf(1.0 - 0.5 / n)
        levels = np.array([normal.cdf(score) for score in np.linspace(-end, end, KNOTS)])
        values = np.unique(ordered[np.clip((levels * n).astype(np.int64), 0, n - 1)])
    ranks = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (2 * n)
    scores = np.array([normal.inv_cdf(rank) for rank in ranks])
    filled = np.minimum(np.arange(KNOTS), len(values) - 1)
    return values[filled], np.clip(scores, -FEATURE_LIMIT, FEATURE_LIMIT)[filled]
