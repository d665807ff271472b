"""The policy in compiled code: the same function as `NumpyPolicy`, for one request reading less of its weights."""

import logging
import math
from importlib import import_module
from typing import Any

import numpy as np

from paceline.budgets import POSITION_RANGE, budget_frequencies
from paceline.errors import ControllerError, DependencyError
from paceline.policies.decision import choose, choose_one
from paceline.policies.feature_scaling import FEATURE_LIMIT, FeatureScaling
from paceline.policies.numpy_policy import FLOAT32, NumpyPolicy
from paceline.policies.one_request import OneRequest
from paceline.policies.spec import LINEAR_HEADS, PolicySpec

LANES = 16
"""Numbers in a vector at most; processors with shorter ones use those."""

logger = logging.getLogger(__name__)


def compiled() -> Any | None:
    """The extension module `_native`, or None where the package was installed without a C compiler."""
    try:
        return import_module("paceline.policies._native")
    except ModuleNotFoundError:
        return None
    except ImportError as error:
        logger.warning(
            "the compiled part of this package cannot be loaded (%s); install the package again", error
        )
        return None


class NativePolicy:
    """What a policy says of requests, compiled. Immutable; any number of threads may use it at once."""

    def __init__(self, policy: NumpyPolicy, lanes: int = LANES) -> None:
        """Pack the weights of a policy that it `serves`; `lanes`: see `LANES`.

        Raises:
            ControllerError: a policy that it does not serve.
            DependencyError: the extension was not compiled when the package was installed.
        """
        if not self.serves(policy.spec):
            raise ControllerError(
                f"backend 'native': got a policy with head {policy.spec.head!r} and features "
                f"{policy.spec.inputs.image_features!r} and {policy.spec.inputs.question_features!r}, expected one of "
                f"the heads {list(LINEAR_HEADS)} and pooled features; use backend 'numpy'"
            )
        native = compiled()
        if native is None:
            raise DependencyError(
                "backend 'native' needs the compiled part of this package, which is missing; install the package again "
                "where there is a C compiler, or use backend 'numpy'"
            )
        self.policy, self.spec = policy, policy.spec
        self._actions, self._lanes = len(policy.spec.actions), lanes
        network = _network(native, policy)
        self._values, self._many = network.values, network.many
        self._best, self._best_of_rows = native.best, native.best_of_rows

    @staticmethod
    def serves(spec: PolicySpec) -> bool:
        """Whether a policy can be compiled: pooled features and a head that is one linear layer."""
        return OneRequest.serves(spec)

    def scores(
        self,
        image_features: np.ndarray,
        question_features: np.ndarray,
        budget_ms: np.ndarray | float | None = None,
        price: np.ndarray | float = 0.0,
    ) -> np.ndarray:
        """`NumpyPolicy.scores`."""
        values = self._values_of_rows(image_features, question_features, budget_ms, price)
        if values is None:  # see `values`
            return self.policy.scores(image_features, question_features, budget_ms, price)
        return values / np.float32(self.spec.temperature) if self.spec.output == "accuracy" else values

    def values(
        self, image_features: np.ndarray, question_features: np.ndarray, budget_ms: float | None, price: float
    ) -> np.ndarray:
        """`NumpyPolicy.values`, float32 (actions,)."""
        values = np.empty(self._actions, np.float32)
        limit = math.inf if budget_ms is None else budget_ms
        if self._values(image_features, question_features, limit, price, values):
            return values
        # not float32, not contiguous or not acceptable: numpy converts them, or says what is wrong
        return self.policy.values(image_features, question_features, budget_ms, price)

    def choose(self, logits: np.ndarray, mean_latency_ms: np.ndarray, feasible: np.ndarray) -> int:
        """`decision.choose_one`."""
        chosen = self._best(logits, mean_latency_ms, feasible)
        return choose_one(logits, mean_latency_ms, feasible) if chosen is None else chosen

    def choose_rows(
        self, logits: np.ndarray, mean_latency_ms: np.ndarray, feasible: np.ndarray
    ) -> np.ndarray:
        """`decision.choose` of arrays (n, actions)."""
        chosen = np.empty(len(logits), np.int64)
        cells = (part.reshape(-1) for part in (logits, mean_latency_ms, feasible))
        same = logits.shape == mean_latency_ms.shape == feasible.shape
        if same and self._best_of_rows(*cells, chosen):
            return chosen
        return choose(logits, mean_latency_ms, feasible)

    def _values_of_rows(
        self,
        image_features: np.ndarray,
        question_features: np.ndarray,
        budget_ms: np.ndarray | float | None,
        price: np.ndarray | float,
    ) -> np.ndarray | None:
        """`values` of many requests (n, actions); None for what numpy converts, or says what is wrong with."""
        if image_features.ndim != 2 or question_features.ndim != 2:
            return None
        n, shapes = len(image_features), (image_features.shape, question_features.shape)
        if shapes != ((n, self.spec.image_width), (n, self.spec.question_width)):
            return None
        if image_features.dtype is not FLOAT32 or question_features.dtype is not FLOAT32:
            return None
        limits = _column(math.inf if budget_ms is None else budget_ms, n)
        prices = _column(price, n)
        if limits is None or prices is None:
            return None
        values = np.empty(n * self._actions, np.float32)
        features = image_features.reshape(-1), question_features.reshape(-1)
        if not self._many(*features, limits, prices, values, self._lanes):
            return None
        return values.reshape(n, self._actions)


def _column(numbers: np.ndarray | float, n: int) -> np.ndarray | None:
    """One number or one per request as float64 (n,); None for any other shape."""
    given = np.asarray(numbers, np.float64)
    if given.shape == (n,):
        return np.ascontiguousarray(given)
    return np.full(n, given) if given.shape == () else None


def _network(native: Any, policy: NumpyPolicy) -> Any:
    spec, arrays = policy.spec, policy.arrays
    scaling = FeatureScaling.from_arrays(arrays)
    ranks = scaling.method == "quantile"
    waves = budget_frequencies(spec.budget_dimensions // 2) if spec.budget_dimensions > 1 else np.empty(0)
    members, _, wide = arrays["input.weight"].shape
    parts = (
        scaling.first.T,  # a feature's knots side by side
        scaling.second.T,
        np.asarray(waves).view(np.float32),  # stays float64
        arrays["input.bias"],
        arrays["input.weight"].transpose(
            1, 0, 2
        ),  # the members' first layers are one, which reads the inputs once
        arrays["fusion.bias"],
        arrays["fusion.weight"],
        arrays["head.bias"],
        arrays["head.weight"],
    )
    return native.Network(
        sizes=(
            spec.image_width,
            spec.question_width,
            spec.budget_dimensions,
            members,
            wide,
            spec.hidden,
            len(spec.actions),
            len(scaling.first) if ranks else 0,
        ),
        ranges=(
            FEATURE_LIMIT,
            *POSITION_RANGE,
            spec.budget_low_ms,
            spec.budget_high_ms,
            spec.price_low or 0.0,
            spec.price_high or 0.0,
        ),
        accuracy=spec.output == "accuracy",
        arrays=tuple(np.ascontiguousarray(part, dtype=np.float32) for part in parts),
    )
