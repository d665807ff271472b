"""Decisions for many requests at once, as arrays: for planning, for judging logs, for servers that collect requests."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from paceline.errors import BudgetError, ControllerError
from paceline.knobs import Configuration
from paceline.latency.quantity import LATENCY
from paceline.policies.decision import action_logits, choose
from paceline.runtime.decision import (
    FIELDS,
    WORKLOAD,
    Context,
    check_arrays,
    check_counts,
    check_number,
    check_when_infeasible,
)

if TYPE_CHECKING:
    from paceline.runtime.controller import Controller

CHUNK = 512
"""Requests weighed together: their hidden layers stay in the cache."""
NONE = "contexts: got none, expected one or more requests"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ContextBatch:
    """n requests as the controller sees them: the arrays of `Context` with a row per request."""

    image_features: np.ndarray  # float32 (n, image_width)
    question_features: np.ndarray  # float32 (n, question_width)
    tiles: np.ndarray  # int (n, m)
    vision_tokens: np.ndarray  # int (n, m)
    prompt_tokens: np.ndarray  # int (n, m)

    @classmethod
    def of(cls, contexts: Sequence[Context]) -> "ContextBatch":
        """The contexts one below the other; ControllerError where their sizes differ, or for anything else."""
        if not isinstance(contexts, Collection):
            raise ControllerError(
                f"contexts: got one {type(contexts).__name__}, expected a list of Context or a ContextBatch"
            )
        for context in contexts:
            if not isinstance(context, Context):
                raise ControllerError(
                    f"contexts: got a {type(context).__name__} in the list, expected each to be a Context"
                )
            check_arrays(context)
        if not len(contexts):
            raise ControllerError(NONE)
        parts = {name: [getattr(context, name) for context in contexts] for name in FIELDS}
        for name, rows in parts.items():
            if len({row.shape for row in rows}) > 1:
                sizes = sorted({str(row.shape) for row in rows})
                raise ControllerError(f"contexts: {name} has shapes {sizes}, expected one size in a batch")
        return cls(**{name: np.stack(rows) for name, rows in parts.items()})

    def __len__(self) -> int:
        return len(self.image_features)

    def rows(self, part: slice) -> "ContextBatch":
        """Some of the requests."""
        return ContextBatch(**{name: getattr(self, name)[part] for name in FIELDS})


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BatchLimits:
    """What each request must respect, unexpected delays subtracted: float64 (n,)."""

    whole_ms: np.ndarray  # inf for none
    first_ms: np.ndarray  # inf for none
    price: np.ndarray
    reachable: bool  # whether any choice can meet the average budget
    slowdown: float

    def rows(self, part: slice) -> "BatchLimits":
        """Of some of the requests."""
        return BatchLimits(
            whole_ms=self.whole_ms[part],
            first_ms=self.first_ms[part],
            price=self.price[part],
            reachable=self.reachable,
            slowdown=self.slowdown,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Weighed:
    """What a backend says of n requests and m configurations."""

    scores: np.ndarray  # (n, m): accuracy scale, or logits
    mean_ms: np.ndarray  # (n, m), slow-down included, like the next two
    upper_ms: np.ndarray
    first_upper_ms: np.ndarray | None  # None where no request limits the time to the first token
    feasible: np.ndarray  # bool (n, m)
    chosen: np.ndarray  # int64 (n,): position, -1 where nothing fits


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BatchDecision:
    """The configurations of n requests, in their order; arrays (n,). Times are NaN where known only afterwards."""

    configurations: list[Configuration]
    action: np.ndarray  # int64: configuration ids
    reason: np.ndarray  # "policy", "cheapest" or "best_effort"
    feasible: np.ndarray  # int64: how many configurations fit
    score: np.ndarray  # of the choice, accuracy scale (a logits policy: log-probability up to a constant)
    predicted_ms: np.ndarray  # expected latency of the whole call
    upper_ms: np.ndarray  # calibrated upper latency of the whole call
    first_token_upper_ms: np.ndarray  # NaN of costs too

    def __len__(self) -> int:
        return len(self.action)


def decide_batch(
    controller: "Controller",
    contexts: ContextBatch | Sequence[Context],
    *,
    budget_ms: Any = None,
    first_token_budget_ms: Any = None,
    budget: Any = None,
    average: Any = None,
    price: Any = 0.0,
    elapsed_ms: Any = 0.0,
    slowdown: float = 1.0,
    when_infeasible: str = "cheapest",
) -> BatchDecision:
    """See `Controller.decide_batch`."""
    check_when_infeasible(when_infeasible)
    if when_infeasible == "reject":
        raise BudgetError(
            "when_infeasible: got 'reject', expected 'cheapest' or 'best_effort' for a batch; where nothing fits, "
            "`feasible` is 0"
        )
    batch = contexts if isinstance(contexts, ContextBatch) else ContextBatch.of(contexts)
    _check(batch, controller)
    n = len(batch)
    slowdown = check_number("slowdown", slowdown, least=1e-6)
    controller.quantity.check_milliseconds("budget_ms", budget_ms)
    controller.quantity.check_first_token(first_token_budget_ms)
    elapsed = _column("elapsed_ms", elapsed_ms, n, least=0.0)
    unexpected = np.maximum(0.0, elapsed - slowdown * controller.guard.overview_ms)
    prices, reachable = _column("price", price, n, least=0.0), True
    if average is not None:
        if prices.any():
            raise BudgetError(
                f"price: got both price={price!r} and average={average!r}, expected one of them"
            )
        _, fitted, reachable = controller.average_price(average)
        prices = np.full(n, fitted)
    whole = _budget("budget_ms", budget_ms, n)
    if budget is not None:
        if budget_ms is not None:
            raise BudgetError(
                f"budget: got both budget_ms={budget_ms!r} and budget={budget!r}, expected one of them"
            )
        whole = _said(controller, batch, budget)
    limits = BatchLimits(
        whole_ms=whole - unexpected,
        first_ms=_budget("first_token_budget_ms", first_token_budget_ms, n) - unexpected,
        price=prices,
        reachable=reachable,
        slowdown=slowdown,
    )
    parts = [slice(start, start + CHUNK) for start in range(0, n, CHUNK)]
    made = [_decided(controller, batch.rows(part), limits.rows(part), when_infeasible) for part in parts]
    if len(made) == 1:
        return made[0]
    together = {
        name: np.concatenate([getattr(part, name) for part in made])
        for name in BatchDecision.__slots__
        if name != "configurations"
    }
    configurations = [configuration for part in made for configuration in part.configurations]
    return BatchDecision(configurations=configurations, **together)


def weigh_scored(
    controller: "Controller",
    scorer: Any,
    batch: ContextBatch,
    limits: BatchLimits,
    choose_rows: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] = choose,
) -> Weighed:
    """By a policy with `scores` of batches; limits and price in numpy, and so is the choice by default."""
    spec, scale, slowdown = controller.policy.spec, controller.scale, limits.slowdown
    work = (batch.tiles, batch.vision_tokens, batch.prompt_tokens)
    calm_ms, upper_ms = controller.latency.mean_and_upper(controller.actions, *work)
    mean_ms = calm_ms
    if slowdown != 1.0:
        mean_ms, upper_ms = slowdown * calm_ms, slowdown * upper_ms
    feasible = (upper_ms <= limits.whole_ms[:, None]) if limits.reachable else np.zeros(upper_ms.shape, bool)
    told, first_ms = limits.whole_ms, None
    first = np.isfinite(limits.first_ms)
    if first.any():
        first_ms = slowdown * controller.first_token_latency.upper(controller.actions, *work)
        feasible &= first_ms <= limits.first_ms[:, None]
        longest = np.where(feasible, upper_ms, -np.inf).max(axis=1)
        told = np.where(first & feasible.any(axis=1), np.minimum(told, longest), told)
    full_ms = _full_ms(controller, calm_ms)
    told = spec.told_ms(told / (scale * slowdown), full_ms / scale)
    scores = logits = scorer.scores(batch.image_features, batch.question_features, told, limits.price)
    if limits.price.any():
        full_latency_ms = spec.full_latency_ms * scale
        logits = action_logits(spec, scores, calm_ms, limits.price, full_latency_ms=full_latency_ms)
    return Weighed(
        scores=np.float32(spec.temperature) * scores,
        mean_ms=mean_ms,
        upper_ms=upper_ms,
        first_upper_ms=first_ms,
        feasible=feasible,
        chosen=choose_rows(logits, mean_ms, feasible),
    )


def _decided(
    controller: "Controller", batch: ContextBatch, limits: BatchLimits, when_infeasible: str
) -> BatchDecision:
    seen = controller.weigher.weigh_batch(controller, batch, limits)
    chosen, none = seen.chosen.copy(), seen.chosen < 0
    if none.any():
        if when_infeasible == "cheapest":
            chosen[none] = seen.mean_ms[none].argmin(axis=1)
        else:
            late = seen.upper_ms[none] - limits.whole_ms[none, None]
            if seen.first_upper_ms is not None:
                late = np.maximum(late, seen.first_upper_ms[none] - limits.first_ms[none, None])
            chosen[none] = late.argmin(axis=1)
    rows = np.arange(len(batch))
    if seen.first_upper_ms is None:
        work = (getattr(batch, name)[rows, chosen] for name in WORKLOAD)
        first_ms = limits.slowdown * controller.first_token_latency.upper_at(
            controller.actions, chosen, *work
        )
    else:
        first_ms = seen.first_upper_ms[rows, chosen]
    known = 1.0 if controller.quantity.known_before else math.nan
    first_known = 1.0 if controller.quantity.kind == LATENCY else math.nan
    reason = np.where(none, when_infeasible, "policy")
    return BatchDecision(
        configurations=[controller.configuration(column) for column in chosen.tolist()],
        action=controller.actions[chosen],
        reason=reason,
        feasible=seen.feasible.sum(axis=1),
        score=seen.scores[rows, chosen],
        predicted_ms=known * seen.mean_ms[rows, chosen],
        upper_ms=known * seen.upper_ms[rows, chosen],
        first_token_upper_ms=first_known * first_ms,
    )


def _check(batch: ContextBatch, controller: "Controller") -> None:
    """Raise ControllerError for workloads that do not fit; the policy checks the features."""
    check_arrays(batch)
    if not len(batch):
        raise ControllerError(NONE)
    dimensions = (batch.image_features.ndim, batch.question_features.ndim)
    if dimensions != (2, 2) or len(batch.question_features) != len(batch):
        raise ControllerError(
            f"contexts: got {batch.image_features.shape} image and {batch.question_features.shape} question features, "
            "expected a row per request in both"
        )
    expected = (len(batch), len(controller.actions))
    for name in WORKLOAD:
        values = getattr(batch, name)
        if values.shape != expected:
            raise ControllerError(
                f"contexts: {name} has shape {values.shape}, expected {expected}: a row per request, a value per "
                "configuration"
            )
    check_counts(batch)


def _full_ms(controller: "Controller", mean_ms: np.ndarray) -> np.ndarray:
    """Of expected latencies (n, m), those of the full configuration, or of the slowest where it was not tested."""
    full = controller.full_column
    return mean_ms.max(axis=1) if full is None else mean_ms[:, full]


def _said(controller: "Controller", batch: ContextBatch, value: Any) -> np.ndarray:
    """Budgets (n,) said as numbers or texts, one for all or one per request; None and inf stand for none."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    many, n = isinstance(value, Sequence) and not isinstance(value, str), len(batch)
    each: list[Any] = list(value) if many else [value]
    if many and len(each) != n:
        raise BudgetError(
            f"budget: got {len(each)} budgets for {n} requests, expected one or one per request"
        )
    endless = (None, math.inf)
    said = [(0.0, math.inf) if one in endless else controller.budgets.meaning(one) for one in each]
    shares, amounts = np.broadcast_to(np.array(said).T, (2, n))
    if not shares.any():
        return amounts
    work = (batch.tiles, batch.vision_tokens, batch.prompt_tokens)
    full_ms = _full_ms(controller, controller.latency.mean(controller.actions, *work))
    return np.where(shares > 0.0, shares * full_ms, amounts)


def _budget(name: str, value: Any, n: int) -> np.ndarray:
    """Budgets (n,): None and inf stand for none; BudgetError unless the others are positive."""
    if value is None:
        return np.full(n, np.inf)
    many = isinstance(value, Sequence) and not isinstance(value, str)
    if many or (isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind == "O"):
        value = [math.inf if each is None else each for each in value]
    return _column(name, value, n, least=np.nextafter(0.0, 1.0), endless=True)


def _numbers(name: str, value: Any) -> np.ndarray:
    """A number or many as float64; BudgetError for anything else, among it texts and truth values, as in `decide`."""
    given = value if isinstance(value, np.ndarray) else np.asarray(value, dtype=object)
    kind = given.dtype.kind
    if kind in "iuf" or (
        kind == "O" and all(isinstance(each, Real) and not isinstance(each, bool) for each in given.flat)
    ):
        try:
            return given.astype(np.float64, copy=False)
        except OverflowError:  # a whole number beyond the largest float
            pass
    raise BudgetError(f"{name}: got {value!r}, expected a number or one per request")


def _column(name: str, value: Any, n: int, *, least: float, endless: bool = False) -> np.ndarray:
    """A number, or one per request, as float64 (n,); BudgetError for anything else."""
    if type(value) is float and least <= value < math.inf:
        return np.full(n, value)
    values = _numbers(name, value)
    if values.shape not in ((), (n,)):
        raise BudgetError(
            f"{name}: got {values.shape} numbers for {n} requests, expected one or one per request"
        )
    good = (values >= least) & (endless | np.isfinite(values))
    if not good.all():
        wrong = np.atleast_1d(values)[~np.atleast_1d(good)][:3].tolist()
        what = "above 0" if endless else f"from {least:g} on, finite"
        raise BudgetError(f"{name}: got {wrong}, expected numbers {what}")
    return values if values.shape == (n,) else np.broadcast_to(values, (n,))
