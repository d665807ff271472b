"""The policy for one request in compiled code: the same function as `NumpyPolicy`, reading less of its weights."""

import logging
import math
from importlib import import_module
from typing import Any

import numpy as np

from paceline.budgets import POSITION_RANGE, budget_frequencies
from paceline.errors import ControllerError, DependencyError
from paceline.policies.decision import choose_one
from paceline.policies.feature_scaling import FEATURE_LIMIT, FeatureScaling
from paceline.policies.numpy_policy import NumpyPolicy
from paceline.policies.one_request import OneRequest
from paceline.policies.spec import LINEAR_HEADS, PolicySpec

FEW = 8
"""Up to so many requests of a batch take less time one by one than as products of matrices."""

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
    """What a policy says of one request, compiled; of many requests, as `NumpyPolicy` says it.

    Immutable; any number of threads may use it at once.
    """

    def __init__(self, policy: NumpyPolicy) -> None:
        """Pack the weights of a policy that it `serves`.

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
        self._actions = len(policy.spec.actions)
        self._values, self._best = _network(native, policy).values, native.best

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
        return self.policy.scores(image_features, question_features, budget_ms, price)

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
