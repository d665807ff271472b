"""The policy in plain numpy: what a request's decision runs on."""

import math
from collections.abc import Mapping

import numpy as np

from paceline.errors import ControllerError
from paceline.policies.context_code import encode_context
from paceline.policies.feature_scaling import FeatureScaling
from paceline.policies.numpy_heads import numpy_head, sigmoid
from paceline.policies.one_request import OneRequest
from paceline.policies.spec import PolicySpec
from paceline.policies.token_pooling import attention_pool, unpack_tokens

FLOAT32 = np.dtype(np.float32)
LARGEST = float(np.finfo(np.float32).max)
REAL = "biuf"
"""Kinds of numbers that features may be; they are read as float32."""


class NumpyPolicy:
    """Scores of configurations from exported arrays, equal to the trained network's within rounding."""

    def __init__(self, spec: PolicySpec, arrays: Mapping[str, np.ndarray]) -> None:
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        spec.check_arrays(arrays)
        self.spec = spec
        self.arrays = arrays
        self._head = numpy_head(spec, arrays)
        self._scaling = FeatureScaling.from_arrays(arrays)
        columns = zip(("image", "question"), spec.columns, strict=True)
        self._pooled = [part for part, width in columns if width is None]
        parts = {"image": slice(None, spec.image_width), "question": slice(spec.image_width, None)}
        self._part_scaling = {part: self._scaling.part(columns) for part, columns in parts.items()}
        self._one = OneRequest(spec, arrays, self._scaling) if OneRequest.serves(spec) else None

    def scores(
        self,
        image_features: np.ndarray,
        question_features: np.ndarray,
        budget_ms: np.ndarray | float | None = None,
        price: np.ndarray | float = 0.0,
    ) -> np.ndarray:
        """Score of every configuration: predicted accuracy / temperature, or the logits that decide.

        image_features (image_width,) or (batch, image_width), or packed tokens under attention (`token_pooling`),
        question_features likewise; budget_ms one time or one per row, None or inf for no limit, in milliseconds of the
        machine that was profiled and told as `PolicySpec.told_ms` does; price one or one per row, accuracy per full
        latency. An accuracy policy's scores do not depend on the price, which `decision.action_logits` charges
        afterwards; a logits policy reads it and its scores are final. Result float32 (actions,) or (batch, actions) in
        the order of `spec.actions`.
        """
        rows = self.rows(np.atleast_2d(image_features), np.atleast_2d(question_features))
        scores = self.row_scores(rows, budget_ms, price)
        return scores[0] if image_features.ndim == 1 else scores

    def rows(self, image_features: np.ndarray, question_features: np.ndarray) -> np.ndarray:
        """What the first layer reads of batches of features: float32 (batch, image_width + question_width).

        Scaled, so that zeros are the mean of the training samples; image features come first. Where a query pools
        tokens, every member has its own: (members, batch, ...).
        """
        check_features(self.spec, image_features, question_features)
        return self._rows(image_features, question_features)

    def row_scores(
        self,
        rows: np.ndarray,
        budget_ms: np.ndarray | float | None = None,
        price: np.ndarray | float = 0.0,
    ) -> np.ndarray:
        """`scores` of features that `rows` has read: float32 (batch, actions)."""
        codes = encode_context(self.spec, budget_ms, price)
        codes = np.broadcast_to(codes, (*rows.shape[:-1], self.spec.code_width))
        scores = self._forward(np.concatenate([rows, codes], axis=-1))
        return scores / np.float32(self.spec.temperature) if self.spec.output == "accuracy" else scores

    def values(
        self, image_features: np.ndarray, question_features: np.ndarray, budget_ms: float | None, price: float
    ) -> np.ndarray:
        """What one request's decision weighs: predicted accuracies, or the logits of a logits policy, (actions,).

        `scores` of one row times the temperature, by the shortest way.
        """
        one = self._one
        if one and image_features.shape == one.image_shape and question_features.shape == one.question_shape:
            if image_features.dtype is not FLOAT32 or question_features.dtype is not FLOAT32:
                check_features(self.spec, image_features, question_features)
            values = one.values(image_features, question_features, budget_ms, price)
            if values is not None:
                return values
        return np.float32(self.spec.temperature) * self.scores(
            image_features, question_features, budget_ms, price
        )

    def _rows(self, image_features: np.ndarray, question_features: np.ndarray) -> np.ndarray:
        """Scaled and pooled features, float32 (batch, f), or (members, batch, f) where a query pools tokens."""
        if not self._pooled:
            return self._scaling.apply(np.concatenate([image_features, question_features], axis=-1))
        parts = {"image": image_features, "question": question_features}
        rows = [self._part(name, features) for name, features in parts.items()]
        shape = (self.spec.members, len(image_features))
        return np.concatenate([np.broadcast_to(row, (*shape, row.shape[-1])) for row in rows], axis=-1)

    def _part(self, name: str, features: np.ndarray) -> np.ndarray:
        """Scaled features of an image or a question; pooled ones have members as their first axis."""
        scaling = self._part_scaling[name]
        if name not in self._pooled:
            return scaling.apply(features)
        tokens, counts = unpack_tokens(features, scaling.width)
        scaled = scaling.apply(tokens.reshape(-1, scaling.width)).reshape(tokens.shape)
        return attention_pool(scaled, counts, self.arrays[f"{name}.query"])

    def _forward(self, inputs: np.ndarray) -> np.ndarray:
        """Mean over members of accuracies or logits, (batch, actions), from ([members,] batch, inputs)."""
        arrays = self.arrays
        hidden = np.maximum(inputs @ arrays["input.weight"] + arrays["input.bias"], 0.0)
        hidden = np.maximum(hidden @ arrays["fusion.weight"] + arrays["fusion.bias"], 0.0)
        logits = self._head(hidden)
        return (sigmoid(logits) if self.spec.output == "accuracy" else logits).mean(axis=0)


def check_features(spec: PolicySpec, image_features: np.ndarray, question_features: np.ndarray) -> None:
    """Raise ControllerError for features of another width than the policy's, or that float32 cannot hold."""
    widths = (image_features.shape[-1], question_features.shape[-1])
    expected = spec.columns
    if widths != expected and any(
        wanted not in (None, width) for width, wanted in zip(widths, expected, strict=True)
    ):
        raise ControllerError(
            f"features: got {widths} image and question features, expected {expected}; "
            "the controller was trained for another model or feature extractor"
        )
    if not (image_features.dtype.kind in REAL and question_features.dtype.kind in REAL):
        raise ControllerError(
            f"features: got types {image_features.dtype} and {question_features.dtype}, expected float32"
        )
    if not (_finite(image_features) and _finite(question_features)):
        raise ControllerError(
            f"features: got NaN or infinity, or numbers beyond {LARGEST:.1e}; expected finite numbers of float32"
        )


def _finite(values: np.ndarray) -> bool:
    """Whether all numbers are, as float32; a sum of squares says so at once unless it overflows."""
    flat = values.ravel()
    if values.dtype is not FLOAT32:
        return bool((np.abs(flat.astype(np.float64)) <= LARGEST).all())
    return math.isfinite(flat @ flat) or bool(np.isfinite(flat).all())
