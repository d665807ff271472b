"""The whole decision as one ONNX graph: latencies, what fits, scores, the price of time and the best of the rest."""

import math
from collections.abc import Mapping

import numpy as np
from onnx import TensorProto

from paceline.export.graph import GraphBuilder
from paceline.export.policy_graph import policy_scores
from paceline.latency.estimate import LatencyEstimator
from paceline.policies.spec import PolicySpec

LOADS = ("tiles", "vision_tokens", "prompt_tokens")
OUTPUTS = ("scores", "values", "mean_ms", "upper_ms", "first_token_upper_ms", "feasible", "action")
INFINITE = np.float32(math.inf)


class DecisionGraph:
    """Adds the decision of a policy and two latency estimates to a graph. Every input has a row per request.

    | input | columns | meaning |
    |---|---|---|
    | image_features, question_features | widths of the policy, any for packed tokens | raw features |
    | tiles, vision_tokens, prompt_tokens | configurations | what each would make the model process |
    | limit_ms, first_token_limit_ms | none | hard limits less unexpected delays; infinity for no limit |
    | price | none | accuracy per full latency; 0 under hard budgets |
    | time_scale | 2 | this machine's time over the profile's, slow-down included: whole call, first token |
    | time_margin | 2 | further factor on upper latencies, 1 or more: whole call, first token |

    Outputs: per configuration `scores` (accuracies, or the logits of a logits policy), `values` (less the price of
    time; -mean_ms beyond the highest price that a logits policy reads), `mean_ms`, `upper_ms`, `first_token_upper_ms`,
    `feasible`; and `action`, the id of the best feasible configuration, ties going to the cheaper, or -1 where nothing
    fits. Times are of this machine.
    """

    def __init__(
        self,
        graph: GraphBuilder,
        spec: PolicySpec,
        arrays: Mapping[str, np.ndarray],
        latency: LatencyEstimator,
        first_token_latency: LatencyEstimator,
        *,
        half: bool = False,
    ) -> None:
        self.graph, self.spec = graph, spec
        self.actions = np.array(spec.actions, dtype=np.int64)
        self.full_action = latency.space.size - 1
        self._add(arrays, latency, first_token_latency, half)

    def _add(
        self,
        arrays: Mapping[str, np.ndarray],
        latency: LatencyEstimator,
        first_token_latency: LatencyEstimator,
        half: bool,
    ) -> None:
        graph, spec, count = self.graph, self.spec, len(self.actions)
        image, question = (
            graph.input(f"{part}_features", f"{part}_numbers" if width is None else width)
            for part, width in zip(("image", "question"), spec.columns, strict=True)
        )
        loads = [graph.input(name, count) for name in LOADS]
        limit, first_limit, price = (
            graph.input(name) for name in ("limit_ms", "first_token_limit_ms", "price")
        )
        scale, margin = graph.input("time_scale", 2), graph.input("time_margin", 2)
        profiled_ms, upper_ratio = self._estimate(latency, loads)
        first_profiled_ms, first_ratio = self._estimate(first_token_latency, loads)
        whole_scale = graph.columns(scale, 0, 1)
        mean_ms = graph("Mul", profiled_ms, whole_scale)
        first_mean_ms = graph("Mul", first_profiled_ms, graph.columns(scale, 1, 2))
        upper_ms = graph("Mul", mean_ms, graph("Mul", upper_ratio, graph.columns(margin, 0, 1)))
        first_ms = graph("Mul", first_mean_ms, graph("Mul", first_ratio, graph.columns(margin, 1, 2)))
        feasible = graph(
            "And",
            graph("LessOrEqual", upper_ms, self._column(limit)),
            graph("LessOrEqual", first_ms, self._column(first_limit)),
        )
        left_ms = self._longest_left(limit, first_limit, feasible, upper_ms)
        budget = self._told(graph("Div", left_ms, graph("Squeeze", whole_scale, np.array([1]))), profiled_ms)
        scores = policy_scores(graph, spec, arrays, (image, question, budget, price), half=half)
        values = scores
        if spec.output == "accuracy":
            charge = graph("Div", self._column(price), np.float32(spec.full_latency_ms))
            values = graph("Sub", scores, graph("Mul", charge, profiled_ms))
        else:  # as in `policies.decision.action_logits`
            beyond = graph("Greater", self._column(price), np.float32(spec.highest_price))
            values = graph("Where", beyond, graph("Neg", mean_ms), scores)
        for name, value in (("scores", scores), ("values", values), ("mean_ms", mean_ms)):
            graph.output(value, name, count)
        graph.output(upper_ms, "upper_ms", count)
        graph.output(first_ms, "first_token_upper_ms", count)
        graph.output(feasible, "feasible", count, kind=TensorProto.BOOL)
        graph.output(self._best(values, mean_ms, feasible), "action", kind=TensorProto.INT64)

    def _column(self, value: str) -> str:
        return self.graph("Unsqueeze", value, np.array([1]))

    def _estimate(self, estimate: LatencyEstimator, loads: list[str]) -> tuple[str, str]:
        """Mean latency on the profiled machine (batch, actions), and upper / mean without its margin (1, actions)."""
        graph = self.graph
        rows, ratios = estimate.coefficients(self.actions)
        total = graph.constant(rows[0][None])
        for row, load in zip(rows[1:], loads, strict=True):
            total = graph("Add", total, graph("Mul", load, row[None]))
        return graph("Max", total, np.float32(estimate.floor_ms)), graph.constant(ratios[None])

    def _longest_left(self, limit: str, first_limit: str, feasible: str, upper_ms: str) -> str:
        """The limit on the whole call; a first-token limit counts as the longest upper latency that it leaves."""
        graph = self.graph
        longest = graph("ReduceMax", graph("Where", feasible, upper_ms, -INFINITE), np.array([1]), keepdims=0)
        some = graph("And", graph("Less", first_limit, INFINITE), graph("Greater", longest, -INFINITE))
        return graph("Where", some, graph("Min", limit, longest), limit)

    def _told(self, budget: str, profiled_ms: str) -> str:
        """`InputSpec.told_ms` of budgets (batch,) on the profiled machine."""
        graph, inputs, unit = self.graph, self.spec.inputs, np.float32(self.spec.full_latency_ms)
        if not inputs.relative:
            return budget
        share = graph("Div", budget, self._full(profiled_ms))
        if inputs.budget_form == "class":
            named = np.asarray(inputs.class_shares, dtype=np.float32)
            middles = np.sqrt(named[1:] * named[:-1])
            above = graph("Greater", self._column(share), middles[None])
            rank = graph("ReduceSum", graph.cast(above, TensorProto.INT64), np.array([1]), keepdims=0)
            share = graph("Where", graph("IsInf", share), share, graph("Gather", named, rank))
        return graph("Mul", share, unit)

    def _full(self, profiled_ms: str) -> str:
        """What the full configuration takes on the profiled machine, (batch,); the slowest if it was not tested."""
        graph, last = self.graph, self.full_action
        if last not in self.actions:
            return graph("ReduceMax", profiled_ms, np.array([1]), keepdims=0)
        return graph("Gather", profiled_ms, int(np.searchsorted(self.actions, last)), axis=1)

    def _best(self, values: str, mean_ms: str, feasible: str) -> str:
        """`policies.decision.choose` as action ids, (batch,)."""
        graph = self.graph
        masked = graph("Where", feasible, values, -INFINITE)
        highest = graph("ReduceMax", masked, np.array([1]), keepdims=1)
        tied = graph("And", feasible, graph("Equal", masked, highest))
        column = graph("ArgMin", graph("Where", tied, mean_ms, INFINITE), axis=1, keepdims=0)
        fits = graph("ReduceMax", graph.cast(feasible, TensorProto.INT32), np.array([1]), keepdims=0)
        return graph("Where", graph.cast(fits, TensorProto.BOOL), graph("Gather", self.actions, column), -1)
