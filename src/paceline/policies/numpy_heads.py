"""The heads in plain numpy: from the last hidden layer to one output per configuration and member."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from paceline.policies.prefix_tree import PrefixTree
from paceline.policies.spec import PolicySpec

NumpyHead: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""(members, batch, hidden) -> (members, batch, actions)"""


def numpy_head(spec: PolicySpec, arrays: Mapping[str, np.ndarray]) -> NumpyHead:
    """The head of a policy from its exported arrays, which `spec.check_arrays` has accepted."""
    weight, bias = arrays["head.weight"], arrays["head.bias"]
    if spec.head == "autoregressive":
        tree = PrefixTree.of(spec.knob_options or (), np.array(spec.actions, dtype=np.int64))
        return lambda hidden: tree.log_probabilities(hidden @ weight + bias)
    if spec.head == "continuous":
        precision, places = arrays["head.precision"], arrays["head.places"]
        weighted = precision * places  # (members, actions, knobs)
        slope = np.ascontiguousarray(2.0 * weighted.transpose(0, 2, 1))
        offset = -(weighted * places).sum(axis=-1)[:, None]

        def nearness(hidden: np.ndarray) -> np.ndarray:
            values = sigmoid(hidden @ weight + bias)
            return values @ slope + offset - (precision * values**2).sum(axis=-1, keepdims=True)

        return nearness
    return lambda hidden: hidden @ weight + bias


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Logistic function without overflow: 1 / (1 + e^-x) = (1 + tanh(x / 2)) / 2."""
    return 0.5 + 0.5 * np.tanh(0.5 * values)
