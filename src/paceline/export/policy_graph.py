"""The policy as ONNX operations: what `NumpyPolicy.scores` computes, from raw features and a budget to scores."""

import math
from collections.abc import Mapping

import numpy as np
from onnx import TensorProto

from paceline.budgets import POSITION_RANGE, budget_frequencies
from paceline.export.graph import GraphBuilder
from paceline.policies.feature_scaling import FEATURE_LIMIT, FeatureScaling
from paceline.policies.prefix_tree import PrefixTree
from paceline.policies.spec import PolicySpec

PRODUCTS = ("policy.first", "policy.second", "policy.head")
"""Names of the products that hold nearly all weights."""
QUANTISED = PRODUCTS[:2]
"""What int8 means: the head keeps its precision, since configurations often differ by thousandths of accuracy there."""
LOWEST = np.float32(-3.4e38)


def policy_scores(
    graph: GraphBuilder,
    spec: PolicySpec,
    arrays: Mapping[str, np.ndarray],
    inputs: tuple[str, str, str, str],
    *,
    half: bool = False,
) -> str:
    """Add the policy; returns scores (batch, actions): predicted accuracies, or logits that have read the price.

    `inputs`: image and question features (packed tokens under attention), the budget as `PolicySpec.told_ms` gives it
    (batch,), and the price (batch,). `half`: the three products and what is between them in float16.
    """
    image, question, budget, price = inputs
    scaling = FeatureScaling.from_arrays(arrays)
    parts = (
        _features(graph, image, scaling.part(slice(None, spec.image_width)), arrays.get("image.query")),
        _features(graph, question, scaling.part(slice(spec.image_width, None)), arrays.get("question.query")),
    )
    code = _code(graph, spec, budget, price)
    products = _Products(graph, spec, arrays, half)
    outputs = _head(graph, spec, arrays, products.outputs(parts, code))
    if spec.output == "accuracy":
        outputs = graph("Sigmoid", outputs)
    return graph("ReduceMean", outputs, np.array([0]), keepdims=0)


class _Products:
    """The two hidden layers and the head's product, members as the first axis."""

    def __init__(
        self, graph: GraphBuilder, spec: PolicySpec, arrays: Mapping[str, np.ndarray], half: bool
    ) -> None:
        self.graph, self.spec, self.arrays = graph, spec, arrays
        self.kind = np.float16 if half else np.float32
        self.half = half

    def outputs(self, parts: tuple[tuple[str, bool], tuple[str, bool]], code: str) -> str:
        """(members, batch, outputs), float32."""
        hidden = self._relu(self._first(parts, code))
        hidden = self._relu(self._layer(hidden, "fusion", PRODUCTS[1]))
        outputs = self._layer(hidden, "head", PRODUCTS[2])
        return self.graph.cast(outputs, TensorProto.FLOAT) if self.half else outputs

    def _first(self, parts: tuple[tuple[str, bool], tuple[str, bool]], code: str) -> str:
        """The first layer. The code of budget and price has a product of its own, which is never quantised: its waves
        would share a scale with features ten times as large. Without pooling all members read the same row at once."""
        graph, spec = self.graph, self.spec
        weight, width = self.arrays["input.weight"], spec.feature_width
        if any(pooled for _, pooled in parts):
            members = np.array([spec.members, 1, 1])
            rows = [value if pooled else graph("Unsqueeze", value, np.array([0])) for value, pooled in parts]
            row = self._narrow(graph("Concat", *(graph("Expand", each, members) for each in rows), axis=2))
            product = self._product(row, weight[:, :width], PRODUCTS[0])
            context = graph("MatMul", self._narrow(code), self._typed(weight[:, width:]))
            return self._sum(product, context, self.arrays["input.bias"])
        row = self._narrow(graph("Concat", *(value for value, _ in parts), axis=1))
        side_by_side = weight.transpose(1, 0, 2).reshape(weight.shape[1], -1)
        product = self._product(row, side_by_side[:width], PRODUCTS[0])
        context = graph("MatMul", self._narrow(code), self._typed(side_by_side[width:]))
        together = self._sum(product, context, self.arrays["input.bias"].reshape(1, -1))
        apart = graph("Reshape", together, np.array([0, spec.members, 2 * spec.hidden]))
        return graph("Transpose", apart, perm=[1, 0, 2])

    def _sum(self, product: str, context: str, bias: np.ndarray) -> str:
        return self.graph("Add", product, self.graph("Add", context, self._typed(bias)))

    def _layer(self, values: str, name: str, label: str) -> str:
        product = self._product(values, self.arrays[f"{name}.weight"], label)
        return self.graph("Add", product, self._typed(self.arrays[f"{name}.bias"]))

    def _product(self, values: str, weight: np.ndarray, label: str) -> str:
        constant = self.graph.constant(self._typed(np.ascontiguousarray(weight)), f"{label}.weight")
        return self.graph("MatMul", values, constant, label=label)

    def _relu(self, values: str) -> str:
        return self.graph("Relu", values)

    def _typed(self, array: np.ndarray) -> np.ndarray:
        return array.astype(self.kind)

    def _narrow(self, values: str) -> str:
        return self.graph.cast(values, TensorProto.FLOAT16) if self.half else values


def _features(
    graph: GraphBuilder, features: str, scaling: FeatureScaling, query: np.ndarray | None
) -> tuple[str, bool]:
    """Scaled features (batch, f), or pooled ones (members, batch, f), and whether they are pooled."""
    if query is None:
        return _scaled(graph, features, scaling), False
    width = scaling.width
    count = graph.columns(features, -1, None)  # (batch, 1)
    tokens = graph("Reshape", graph.columns(features, 0, -1), np.array([0, -1, width]))
    flat = _scaled(graph, graph("Reshape", tokens, np.array([-1, width])), scaling)
    tokens = graph("Reshape", flat, graph("Shape", tokens))
    logits = graph("MatMul", tokens, query.T)  # (batch, tokens, members)
    room = graph("Gather", graph("Shape", tokens), 1)
    places = graph.cast(graph("Range", 0, room, 1), TensorProto.FLOAT)
    real = graph("Unsqueeze", graph("Less", places, count), np.array([2]))
    weights = graph("Softmax", graph("Where", real, logits, LOWEST), axis=1)
    pooled = graph("MatMul", graph("Transpose", weights, perm=[0, 2, 1]), tokens)
    return graph("Transpose", pooled, perm=[1, 0, 2]), True


def _scaled(graph: GraphBuilder, features: str, scaling: FeatureScaling) -> str:
    """`FeatureScaling.apply` of (rows, f)."""
    limit = np.float32(FEATURE_LIMIT)
    if scaling.method == "standard":
        centred = graph("Mul", graph("Sub", features, scaling.first), scaling.second)
        return graph("Clip", centred, -limit, limit)
    knots, scores = graph.constant(scaling.first), graph.constant(scaling.second)
    rows = graph("Unsqueeze", features, np.array([1]))
    below = graph.cast(graph("LessOrEqual", knots, rows), TensorProto.INT64)
    counts = graph("ReduceSum", below, np.array([1]), keepdims=0)
    upper = graph("Clip", counts, 1, len(scaling.first) - 1)
    lower = graph("Sub", upper, 1)
    low, high = (graph("GatherElements", knots, index, axis=0) for index in (lower, upper))
    start, end = (graph("GatherElements", scores, index, axis=0) for index in (lower, upper))
    span = graph("Sub", high, low)
    safe = graph("Where", graph("Greater", span, 0.0), span, 1.0)
    share = graph("Clip", graph("Div", graph("Sub", features, low), safe), 0.0, 1.0)
    return graph("Add", start, graph("Mul", share, graph("Sub", end, start)))


def _code(graph: GraphBuilder, spec: PolicySpec, budget: str, price: str) -> str:
    """`encode_context`: (batch, code_width)."""
    code = _waves(graph, budget, spec.budget_low_ms, spec.budget_high_ms, spec.budget_dimensions)
    if spec.price_low is None or spec.price_high is None:
        return code
    waves = _waves(graph, price, spec.price_low, spec.price_high, spec.budget_dimensions)
    priced = graph("Unsqueeze", graph("Greater", price, 0.0), np.array([1]))
    waves = graph("Where", priced, waves, 0.0)
    free = graph("Sub", 1.0, graph.cast(priced, TensorProto.FLOAT))
    shape = graph("Concat", graph("Shape", graph("Add", budget, price)), np.array([1]), axis=0)
    return graph("Concat", *(graph("Expand", part, shape) for part in (code, waves, free)), axis=1)


def _waves(graph: GraphBuilder, value: str, low: float, high: float, dimensions: int) -> str:
    """`encode_budget`: (batch,) -> (batch, dimensions)."""
    ends = [np.float32(low * (high / low) ** position) for position in POSITION_RANGE]
    logs = graph("Log", graph("Div", graph("Clip", value, *ends), np.float32(low)))
    position = graph("Unsqueeze", graph("Div", logs, np.float32(math.log(high / low))), np.array([1]))
    if dimensions == 1:
        return position
    angles = graph("Mul", position, budget_frequencies(dimensions // 2)[None].astype(np.float32))
    return graph("Concat", graph("Sin", angles), graph("Cos", angles), axis=1)


def _head(graph: GraphBuilder, spec: PolicySpec, arrays: Mapping[str, np.ndarray], outputs: str) -> str:
    """One output per configuration and member, (members, batch, actions), from the head's product."""
    if spec.head == "continuous":
        values = graph("Unsqueeze", graph("Sigmoid", outputs), np.array([2]))
        gaps = graph("Sub", values, arrays["head.places"][None, None])
        weighted = graph("Mul", graph("Mul", gaps, gaps), arrays["head.precision"][:, :, None])
        return graph("Neg", graph("ReduceSum", weighted, np.array([3]), keepdims=0))
    if spec.head == "autoregressive":
        return _log_probabilities(graph, spec, outputs)
    return outputs


def _log_probabilities(graph: GraphBuilder, spec: PolicySpec, logits: str) -> str:
    """`PrefixTree.log_probabilities`: siblings side by side in rows as long as the largest family."""
    tree = PrefixTree.of(spec.knob_options or (), np.array(spec.actions, dtype=np.int64))
    nodes, families = len(tree.groups), len(tree.starts)
    place = np.arange(nodes) - tree.starts[tree.groups]
    room = int(place.max()) + 1
    seats = np.zeros((families, room), dtype=np.int64)
    empty = np.full((families, room), LOWEST, dtype=np.float32)
    seats[tree.groups, place] = np.arange(nodes)
    empty[tree.groups, place] = 0.0
    seated = graph("Add", graph("Gather", logits, seats, axis=2), empty)
    conditional = graph("LogSoftmax", seated, axis=-1)
    flat = graph("Reshape", conditional, np.array([0, 0, families * room]))
    slots = tree.groups * room + place
    return graph("ReduceSum", graph("Gather", flat, slots[tree.paths], axis=2), np.array([2]), keepdims=0)
