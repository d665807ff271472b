"""The policy in plain numpy: what a request's decision runs on."""

from collections.abc import Mapping

import numpy as np

from paceline.errors import ControllerError
from paceline.policies.context_code import encode_context
from paceline.policies.feature_scaling import FEATURE_LIMIT
from paceline.policies.numpy_heads import numpy_head, sigmoid
from paceline.policies.spec import PolicySpec


class NumpyPolicy:
    """Scores of configurations from exported arrays, equal to the trained network's within rounding."""

    def __init__(self, spec: PolicySpec, arrays: Mapping[str, np.ndarray]) -> None:
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        spec.check_arrays(arrays)
        self.spec = spec
        self.arrays = arrays
        self._head = numpy_head(spec, arrays)

    def scores(
        self,
        image_features: np.ndarray,
        question_features: np.ndarray,
        budget_ms: np.ndarray | float | None = None,
        price: np.ndarray | float = 0.0,
    ) -> np.ndarray:
        """Score of every configuration: predicted accuracy / temperature, or the logits that decide.

        image_features (image_width,) or (batch, image_width), question_features likewise; budget_ms one time or
        one per row, None or inf for no limit, in milliseconds of the machine that was profiled; price one or one
        per row, accuracy per full latency. An accuracy policy's scores do not depend on the price, which
        `decision.action_logits` charges afterwards; a logits policy reads it and its scores are final. Result
        float32 (actions,) or (batch, actions) in the order of `spec.actions`.
        """
        features = self._features(image_features, question_features)
        codes = encode_context(self.spec, budget_ms, price)
        rows = np.atleast_2d(features)
        codes = np.broadcast_to(codes, (len(rows), self.spec.code_width))
        scores = self._forward(np.concatenate([rows, codes], axis=-1))
        if self.spec.output == "accuracy":
            scores = scores / np.float32(self.spec.temperature)
        return scores if features.ndim == 2 else scores[0]

    def _features(self, image_features: np.ndarray, question_features: np.ndarray) -> np.ndarray:
        widths = (image_features.shape[-1], question_features.shape[-1])
        expected = (self.spec.image_width, self.spec.question_width)
        if widths != expected:
            raise ControllerError(
                f"features: got {widths} image and question features, expected {expected}; "
                "the controller was trained for another model or feature extractor"
            )
        features = np.concatenate([image_features, question_features], axis=-1).astype(np.float32)
        if not np.isfinite(features).all():
            raise ControllerError("features: got NaN or infinity, expected finite numbers")
        scaled = (features - self.arrays["feature_mean"]) * self.arrays["feature_scale"]
        return np.clip(scaled, -FEATURE_LIMIT, FEATURE_LIMIT)

    def _forward(self, inputs: np.ndarray) -> np.ndarray:
        """Mean over members of the predicted accuracies, or of the logits: (batch, inputs) -> (batch, actions)."""
        arrays = self.arrays
        hidden = np.maximum(inputs @ arrays["input.weight"] + arrays["input.bias"], 0.0)
        hidden = np.maximum(hidden @ arrays["fusion.weight"] + arrays["fusion.bias"], 0.0)
        logits = self._head(hidden)
        return (sigmoid(logits) if self.spec.output == "accuracy" else logits).mean(axis=0)
