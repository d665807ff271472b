"""How one decision is weighed: what limits it, what each configuration takes, and which of those that fit is best."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from paceline.knobs import KnobSpace
from paceline.policies.decision import choose, choose_one
from paceline.policies.spec import PolicySpec
from paceline.runtime.decision import Candidates, Context
from paceline.runtime.many import BatchLimits, ContextBatch, Weighed, weigh_scored

if TYPE_CHECKING:
    from paceline.runtime.controller import Controller


@dataclass(kw_only=True, slots=True, eq=False)
class Times:
    """Predicted times of one workload, arrays (m,), without slow-down."""

    mean_ms: np.ndarray
    upper_ms: np.ndarray
    first_upper_ms: np.ndarray
    charge: np.ndarray  # float32: value lost per unit of price; 0 for a policy that reads the price
    full_ms: float  # mean of the full configuration; of the slowest if that was not tested


@dataclass(kw_only=True, slots=True, eq=False)
class Limits:
    """What one decision must respect, unexpected delays subtracted."""

    whole_ms: float | None  # upper latency of the whole call
    first_ms: float | None  # upper latency of the first token
    reachable: bool  # whether any choice can meet the average budget
    price: float  # accuracy per full latency
    slowdown: float


class Scorer(Protocol):
    """A policy that says what one request's configurations are worth."""

    @property
    def spec(self) -> PolicySpec: ...

    def values(
        self, image_features: np.ndarray, question_features: np.ndarray, budget_ms: float | None, price: float
    ) -> np.ndarray:
        """Predicted accuracies, or the logits of a logits policy, (actions,). ControllerError for bad features."""
        ...


class Weigher(Protocol):
    """Weighs the configurations of one request; `chosen` of what it returns is -1 where nothing fits."""

    @property
    def backend(self) -> str:
        """What computes: of `backends.BACKENDS`, but never "auto"."""
        ...

    def __call__(self, context: Context, times: Times, limits: Limits) -> Candidates: ...

    def weigh_batch(self, controller: "Controller", batch: ContextBatch, limits: BatchLimits) -> Weighed:
        """Weigh many requests of `controller`, whose backend this is."""
        ...


class ScoredWeigher:
    """A policy says what configurations are worth; limits, price and choice are plain numpy.

    `choose` and `choose_rows`: the choice for one request and for many.
    """

    def __init__(
        self,
        scorer: Scorer,
        backend: str,
        *,
        space: KnobSpace,
        actions: np.ndarray,
        scale: float,
        choose: Callable[[np.ndarray, np.ndarray, np.ndarray], int] = choose_one,
        choose_rows: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] = choose,
    ) -> None:
        self.scorer, self.backend = scorer, backend
        self.choose, self.choose_rows = choose, choose_rows
        self.space, self.actions, self.scale = space, actions, scale
        self.spec = scorer.spec
        self.relative, self.highest_price = self.spec.inputs.relative, self.spec.highest_price

    def __call__(self, context: Context, times: Times, limits: Limits) -> Candidates:
        """Weigh one request."""
        slowdown, price = limits.slowdown, limits.price
        mean_ms, upper_ms, first_ms = times.mean_ms, times.upper_ms, times.first_upper_ms
        if slowdown != 1.0:
            mean_ms, upper_ms, first_ms = slowdown * mean_ms, slowdown * upper_ms, slowdown * first_ms
        if limits.reachable and limits.first_ms is None and limits.whole_ms is not None:
            feasible = upper_ms <= limits.whole_ms
            told_ms = limits.whole_ms / (self.scale * slowdown)
        else:
            feasible = fitting(upper_ms, first_ms, limits)
            told_ms = told_budget(limits, upper_ms, feasible, self.scale)
        if self.relative:
            relative = self.spec.told_ms(told_ms, times.full_ms / self.scale)
            told_ms = None if relative is None else float(relative)
        scores = self.scorer.values(context.image_features, context.question_features, told_ms, price)
        values = scores - price * times.charge if price else scores
        if price > self.highest_price:  # as in `decision.action_logits`
            values = (-mean_ms).astype(np.float32)
        return Candidates(
            space=self.space,
            actions=self.actions,
            scores=scores,
            values=values,
            mean_ms=mean_ms,
            upper_ms=upper_ms,
            first_upper_ms=first_ms,
            feasible=feasible,
            chosen=self.choose(values, mean_ms, feasible),
        )

    def weigh_batch(self, controller: "Controller", batch: ContextBatch, limits: BatchLimits) -> Weighed:
        """Weigh many requests."""
        return weigh_scored(controller, self.scorer, batch, limits, self.choose_rows)


def fitting(upper_ms: np.ndarray, first_upper_ms: np.ndarray, limits: Limits) -> np.ndarray:
    """Which configurations respect the limits, bool (m,), from upper latencies with the slow-down in them."""
    if not limits.reachable:
        return np.zeros(len(upper_ms), dtype=bool)
    if limits.first_ms is None:
        return upper_ms <= (math.inf if limits.whole_ms is None else limits.whole_ms)
    first = first_upper_ms <= limits.first_ms
    return first if limits.whole_ms is None else first & (upper_ms <= limits.whole_ms)


def told_budget(limits: Limits, upper_ms: np.ndarray, feasible: np.ndarray, scale: float) -> float | None:
    """The budget that the policy sees, in the profile's milliseconds; None = no limit.

    The policy learnt budgets of the whole call on the profile's machine. A first-token limit is translated to the
    longest upper latency that it leaves.
    """
    told = limits.whole_ms
    if limits.first_ms is not None and feasible.any():
        longest = float(upper_ms[feasible].max())
        told = longest if told is None else min(told, longest)
    return None if told is None else told / (scale * limits.slowdown)
