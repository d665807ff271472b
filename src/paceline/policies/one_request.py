"""The policy for one request, written for the microsecond: the same function as `NumpyPolicy` in fewer steps."""

import math
from collections.abc import Mapping

import numpy as np

from paceline.budgets import POSITION_RANGE, budget_frequencies
from paceline.policies.context_code import encode_context
from paceline.policies.feature_scaling import FEATURE_LIMIT, FeatureScaling
from paceline.policies.inputs import ATTENTION
from paceline.policies.spec import LINEAR_HEADS, PolicySpec


class OneRequest:
    """What a policy says of one request. Immutable; any number of threads may use it at once.

    The members' first layers are one matrix, so that the features are read once; it multiplies by the scale of the
    standard scaling too, and its last row is the bias, for the last input, which is 1. A sigmoid is
    (1 + tanh(x / 2)) / 2 and its first half is in the weights of the head. Bounds are arrays of full size, since a
    number in their place costs numpy a conversion.
    """

    def __init__(self, spec: PolicySpec, arrays: Mapping[str, np.ndarray], scaling: FeatureScaling) -> None:
        """Of a policy that `serves` accepts, with arrays that `spec.check_arrays` has accepted."""
        members, width = spec.members, spec.feature_width
        inputs = width + spec.code_width
        accuracy = spec.output == "accuracy"
        half = np.float32(0.5 if accuracy else 1.0)
        first = arrays["input.weight"].transpose(1, 0, 2).reshape(inputs, -1).copy()
        self.scaling, self.standard = scaling, scaling.method == "standard"
        if self.standard:  # the first layer multiplies by the scale; bounds are before it
            first[:width] *= scaling.second[:, None]
            largest = np.finfo(np.float32).max
            widest = FEATURE_LIMIT / np.maximum(scaling.second.astype(np.float64), 1.0 / largest)
            self.highest = np.minimum(widest, largest).astype(np.float32)
            self.lowest = -self.highest
        self.first = np.concatenate([first, arrays["input.bias"].reshape(1, -1)])
        self.second, self.second_bias = arrays["fusion.weight"], arrays["fusion.bias"]
        self.head, self.head_bias = half * arrays["head.weight"], half * arrays["head.bias"]
        self.grouped, self.members_first = (members, 1, 2 * spec.hidden), (members, len(spec.actions))
        self.no_first = np.zeros(members * 2 * spec.hidden, dtype=np.float32)
        self.no_second = np.zeros_like(self.second_bias)
        self.sigmoid = accuracy
        self.shares = np.full(members, half / members, dtype=np.float32)
        self.half = np.full(len(spec.actions), 0.5, dtype=np.float32)
        self.probe = np.full(width, 1e-10, dtype=np.float32)  # its product with numbers of any size is finite
        self.image_shape, self.question_shape = (spec.image_width,), (spec.question_width,)
        self.spec, self.width, self.image_width, self.inputs = spec, width, spec.image_width, inputs
        self.waves = spec.price_low is None and spec.budget_dimensions > 1
        waves = budget_frequencies(max(1, spec.budget_dimensions // 2))
        self.frequencies = np.concatenate([waves, waves]).astype(np.float32)
        self.phases = np.repeat([0.0, np.pi / 2], len(waves)).astype(np.float32)  # cos(x) = sin(x + pi / 2)
        self.low_ms = spec.budget_low_ms
        self.per_log = 1.0 / math.log(spec.budget_high_ms / spec.budget_low_ms)

    @staticmethod
    def serves(spec: PolicySpec) -> bool:
        """Whether a policy has this short way: pooled features and a head that is one linear layer."""
        tokens = ATTENTION in (spec.inputs.image_features, spec.inputs.question_features)
        return spec.head in LINEAR_HEADS and not tokens

    def values(
        self, image_features: np.ndarray, question_features: np.ndarray, budget_ms: float | None, price: float
    ) -> np.ndarray | None:
        """Predicted accuracies, or logits that have read the price, float32 (actions,).

        Features are of `image_shape` and `question_shape`. None where one of them is not finite.
        """
        width = self.width
        row = np.empty(self.inputs + 1, dtype=np.float32)
        row[: self.image_width] = image_features
        row[self.image_width : width] = question_features
        row[-1] = 1.0
        features = row[:width]
        if not math.isfinite(features.dot(self.probe)):
            return None
        if self.standard:
            features -= self.scaling.first
            np.minimum(features, self.highest, out=features)
            np.maximum(features, self.lowest, out=features)
        else:
            features[:] = self.scaling.apply(features)
        self._write_code(row[width:-1], budget_ms, price)
        hidden = row.dot(self.first)
        np.maximum(hidden, self.no_first, out=hidden)
        hidden = hidden.reshape(self.grouped) @ self.second
        hidden += self.second_bias
        np.maximum(hidden, self.no_second, out=hidden)
        outputs = hidden @ self.head
        outputs += self.head_bias
        if self.sigmoid:
            np.tanh(outputs, out=outputs)
        values = self.shares.dot(outputs.reshape(self.members_first))
        if self.sigmoid:
            values += self.half
        return values

    def _write_code(self, code: np.ndarray, budget_ms: float | None, price: float) -> None:
        """`encode_context` of one budget and price, into `code`."""
        if not self.waves:
            code[:] = encode_context(self.spec, budget_ms, price)
            return
        lowest, position = POSITION_RANGE
        if budget_ms is not None and budget_ms < math.inf:
            position = lowest
            share = budget_ms / self.low_ms  # 0 of the smallest budgets above 0
            if share > 0.0:
                position = math.log(share) * self.per_log
                position = min(max(position, lowest), POSITION_RANGE[1])
        elif budget_ms is not None and math.isnan(budget_ms):
            encode_context(self.spec, budget_ms, price)  # raises what it raises for a budget of NaN
        angles = self.frequencies * position
        angles += self.phases
        np.sin(angles, out=code)
