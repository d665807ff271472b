"""Real requests as inputs of the exported graph: samples of a table under drawn budgets and prices."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from paceline.errors import ExportError
from paceline.outcomes.table import OutcomeTable
from paceline.outcomes.workloads import workload_columns
from paceline.policies.spec import PolicySpec

LARGEST_PRICE = 0.5
BEYOND = 2.0
"""Prices go up to this many times the highest that a policy reads, where nothing but time counts."""
"""Of accuracy policies, in accuracy per full latency: beyond it nearly every choice is the cheapest."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Requests:
    """n requests and, where the table holds them, what every configuration would have been worth."""

    inputs: Mapping[str, np.ndarray]  # of the graph by name, float32 (n, ...)
    accuracy: np.ndarray  # float (n, actions), NaN where a configuration was not tested

    @property
    def count(self) -> int:
        """n."""
        return len(self.inputs["price"])

    def row(self, index: int) -> dict[str, np.ndarray]:
        """The inputs of one request, each with a first axis of 1."""
        return {name: values[index : index + 1] for name, values in self.inputs.items()}


def drawn_requests(
    table: OutcomeTable,
    spec: PolicySpec,
    *,
    split: str,
    count: int,
    scales: tuple[float, float],
    margins: tuple[float, float],
    seed: int = 0,
) -> Requests:
    """`count` requests of a split's samples, each with a budget of its own.

    Samples come in turn. Every second request has a hard budget, uniform in logarithm over the policy's range; the
    others have a price of time, uniform in logarithm over the policy's range and beyond or up to `LARGEST_PRICE`.

    Args:
        scales: this machine's time over the profile's, of whole call and first token.
        margins: of the upper latencies of whole call and first token.

    Raises:
        ExportError: no samples in the split.
    """
    rows = np.flatnonzero(table.split == split)
    if not len(rows):
        raise ExportError(
            f"export: split {split!r} of the outcomes has no samples, expected some; the exported files are compared "
            "on validation samples, profile with --splits that leave some"
        )
    rng = np.random.default_rng(seed)
    chosen = rows[np.arange(count) % len(rows)]
    actions = np.asarray(spec.actions, dtype=np.int64)
    columns = workload_columns(table, actions)
    hard = np.arange(count) % 2 == 0
    low, high = np.log(spec.budget_low_ms), np.log(spec.budget_high_ms)
    limit = np.where(hard, scales[0] * np.exp(rng.uniform(low, high, count)), np.inf)
    lowest, highest = spec.price_low or LARGEST_PRICE / 1000.0, spec.price_high or LARGEST_PRICE
    if spec.price_high is not None:  # some beyond what the policy reads, where the graph takes another way
        highest = BEYOND * spec.highest_price
    price = np.where(hard, 0.0, np.exp(rng.uniform(np.log(lowest), np.log(highest), count)))
    loads = {
        name: np.maximum(np.nan_to_num(getattr(table, name)[chosen][:, columns]), 0)
        for name in ("tiles", "vision_tokens", "prompt_tokens")
    }
    inputs = {
        "image_features": table.image_features[chosen],
        "question_features": table.question_features[chosen],
        **loads,
        "limit_ms": limit,
        "first_token_limit_ms": np.full(count, np.inf),
        "price": price,
        "time_scale": np.broadcast_to(scales, (count, 2)),
        "time_margin": np.broadcast_to(margins, (count, 2)),
    }
    known = np.full((count, len(actions)), np.nan)
    tested = np.isin(actions, table.actions)
    known[:, tested] = table.accuracy[chosen][:, np.searchsorted(table.actions, actions[tested])]
    return Requests(
        inputs={name: np.ascontiguousarray(values, dtype=np.float32) for name, values in inputs.items()},
        accuracy=known,
    )
