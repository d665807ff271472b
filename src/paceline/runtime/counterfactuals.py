"""What the nearest larger and smaller budget that change a choice would choose. numpy only."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from paceline.budgets import POSITION_RANGE
from paceline.knobs import Configuration
from paceline.runtime.average import PriceTable
from paceline.runtime.replay import Replay, Variants

if TYPE_CHECKING:
    from paceline.runtime.decision import Asked, Decision

GRID = 65
"""Budgets asked besides those at which the feasible set changes: the policy may change its mind in between."""
PRECISION = 1e-6
"""Relative width to which a change between two budgets is narrowed down."""
STEERED = 1e-6
"""Relative difference of a price from the fitted one beyond which its stream was steered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counterfactual:
    """The nearest budget of one kind, in one direction, at which the choice changes, as far as `GRID` tells.

    Larger budgets choose `configuration` from `budget_ms` on, smaller ones below it. `budget_ms` None with a
    configuration: having no limit at all, or any, is what changes the choice; without one: nothing in this direction
    does. `fits` is False where nothing fits below it.
    """

    kind: str  # "budget", "first_token_budget" or "average_budget"
    direction: str  # "larger" or "smaller"
    budget_ms: float | None
    configuration: Configuration | None
    fits: bool = True
    score: float | None = None  # of the configuration under that budget
    predicted_ms: float | None = (
        None  # expected latency or cost of the configuration; None: known only afterwards
    )

    @property
    def changes(self) -> bool:
        """Whether there is such a budget."""
        return self.configuration is not None or not self.fits

    def to_json(self) -> dict[str, Any]:
        """A JSON-able value."""
        names = ("kind", "direction", "budget_ms", "fits", "score", "predicted_ms")
        configuration = None if self.configuration is None else dict(self.configuration)
        return {name: getattr(self, name) for name in names} | {"configuration": configuration}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Axis:
    """Budgets of one kind, everything else held."""

    kind: str
    start: float  # the budget that was asked for; inf: none
    edges: np.ndarray  # where the feasible set changes, ascending
    between: np.ndarray  # other budgets to ask, ascending
    at: Callable[[np.ndarray], Variants]  # budgets (k,) -> what to ask


def counterfactuals(decision: "Decision", asked: "Asked", replay: Replay) -> tuple[Counterfactual, ...]:
    """For every kind of budget that the request had, the nearest changes in both directions.

    A request without a budget is asked about limits of the whole call.
    """
    axes = []
    unlimited = (decision.first_token_budget_ms, decision.average_budget_ms) == (None, None)
    if decision.budget_ms is not None or unlimited:
        axes.append(_whole(decision, replay))
    if decision.first_token_budget_ms is not None:
        axes.append(_first_token(decision, replay))
    if decision.average_budget_ms is not None:
        axes.append(_average(decision, asked, replay))
    return tuple(
        search(replay, axis)
        for axis in axes
        for search in (_larger, _smaller)
        if search is _smaller or np.isfinite(axis.start)
    )


def steered_from(decision: "Decision", prices: PriceTable, scale: float) -> float | None:
    """The average budget whose fitted price a steered stream now asks; None where it asks its own budget's price."""
    if decision.average_budget_ms is None:
        return None
    fitted = prices.price(decision.average_budget_ms / scale)
    if abs(decision.price - fitted) <= STEERED * max(fitted, decision.price):
        return None
    falling = prices.prices[::-1], prices.budgets_ms[::-1]
    return float(np.interp(decision.price, *falling)) * scale


def _whole(decision: "Decision", replay: Replay) -> _Axis:
    edges = _edges(decision.candidates.upper_ms, decision.unexpected_ms)

    def at(budgets: np.ndarray) -> Variants:
        return replace(replay.variants(len(budgets)), budget_ms=budgets)

    read = decision.unexpected_ms + replay.read_ms(np.linspace(*POSITION_RANGE, GRID))
    start = np.inf if decision.budget_ms is None else decision.budget_ms
    return _axis("budget", start, edges, read, at)


def _first_token(decision: "Decision", replay: Replay) -> _Axis:
    edges = _edges(decision.candidates.first_upper_ms, decision.unexpected_ms)

    def at(budgets: np.ndarray) -> Variants:
        return replace(replay.variants(len(budgets)), first_token_budget_ms=budgets)

    return _axis("first_token_budget", decision.first_token_budget_ms or np.inf, edges, np.zeros(0), at)


def _average(decision: "Decision", asked: "Asked", replay: Replay) -> _Axis:
    prices, scale = asked.controller.prices, asked.controller.scale
    rows = prices.budgets_ms * scale

    def at(budgets: np.ndarray) -> Variants:
        priced = np.array([prices.price(budget / scale) for budget in budgets])
        reachable = budgets >= rows[0] * (1.0 - 1e-9)
        return replace(replay.variants(len(budgets)), price=priced, reachable=reachable)

    low, high = float(rows.min()), float(rows.max())
    between = np.union1d(rows, np.geomspace(low, high, GRID)) if low > 0 else rows
    told = steered_from(decision, prices, scale)
    start = decision.average_budget_ms if told is None else told
    return _axis("average_budget", start or np.inf, rows[:1] * (1.0 - 1e-9), between, at)


def _edges(upper_ms: np.ndarray, unexpected_ms: float) -> np.ndarray:
    """The least budgets whose rest after a delay is the upper latency or more, in spite of rounding."""
    edges = upper_ms + unexpected_ms
    return np.where(edges - unexpected_ms < upper_ms, np.nextafter(edges, np.inf), edges)


def _axis(
    kind: str, start: float, edges: np.ndarray, between: np.ndarray, at: Callable[[np.ndarray], Variants]
) -> _Axis:
    edges, between = (np.unique(values[(values > 0) & np.isfinite(values)]) for values in (edges, between))
    return _Axis(kind=kind, start=start, edges=edges, between=between, at=at)


def _now(decision: "Decision") -> int:
    """The choice as positions say it: -1 where nothing fitted."""
    return decision.candidates.chosen if decision.reason == "policy" else -1


def _larger(replay: Replay, axis: _Axis) -> Counterfactual:
    points = np.union1d(axis.edges, axis.between)
    points = np.append(points[points > axis.start], np.inf)
    now = _now(replay.decision)
    found = _first_change(replay, axis, points, now)
    if found is None:
        return Counterfactual(kind=axis.kind, direction="larger", budget_ms=None, configuration=None)
    place, position = found
    budget = float(points[place])
    if not np.isinf(budget):
        before = float(points[place - 1]) if place else axis.start
        budget, position = _narrowed(replay, axis, same=before, changed=budget, now=now)
    return _described(replay, axis, "larger", budget, budget, position)


def _smaller(replay: Replay, axis: _Axis) -> Counterfactual:
    below = np.nextafter(axis.edges[axis.edges <= axis.start], 0.0)
    points = np.union1d(below, axis.between[axis.between < axis.start])[::-1]
    if np.isinf(axis.start) and len(points):
        points = np.insert(points, 0, 2.0 * points[0])  # a limit that excludes nothing
    now = _now(replay.decision)
    found = _first_change(replay, axis, points, now)
    if found is None:
        return Counterfactual(kind=axis.kind, direction="smaller", budget_ms=None, configuration=None)
    place, position = found
    before, budget = float(points[place - 1]) if place else axis.start, float(points[place])
    if np.isinf(before):
        return _described(replay, axis, "smaller", budget, np.inf, position)
    budget, position = _narrowed(replay, axis, same=before, changed=budget, now=now)
    return _described(replay, axis, "smaller", budget, float(np.nextafter(budget, np.inf)), position)


def _first_change(replay: Replay, axis: _Axis, points: np.ndarray, now: int) -> tuple[int, int] | None:
    """Place of the first point where the choice is another, and that choice."""
    if not len(points):
        return None
    choices = replay.choices(axis.at(points))
    others = np.flatnonzero(choices != now)
    return (int(others[0]), int(choices[others[0]])) if len(others) else None


def _narrowed(replay: Replay, axis: _Axis, *, same: float, changed: float, now: int) -> tuple[float, int]:
    """The budget nearest to `same` at which the choice is another, and that choice; exact at the edges."""

    def choice(budget: float) -> int:
        return int(replay.choices(axis.at(np.array([budget])))[0])

    found = choice(changed)
    if choice(float(np.nextafter(changed, same))) == now:
        return changed, found
    while abs(changed - same) > PRECISION * max(changed, same):
        middle = 0.5 * (same + changed)
        if (chosen := choice(middle)) == now:
            same = middle
        else:
            changed, found = middle, chosen
    return changed, found


def _described(
    replay: Replay, axis: _Axis, direction: str, asked: float, budget: float, position: int
) -> Counterfactual:
    """The change to `position`, seen at the budget `asked` and stated as `budget`."""
    stated = None if np.isinf(budget) else budget
    if position < 0:
        return Counterfactual(
            kind=axis.kind, direction=direction, budget_ms=stated, configuration=None, fits=False
        )
    decision = replay.decision
    seen, known = decision.candidates, decision.quantity.known_before
    score = replay.score(axis.at(np.array([asked])), np.array([position]))
    return Counterfactual(
        kind=axis.kind,
        direction=direction,
        budget_ms=stated,
        configuration=seen.space.configuration(int(seen.actions[position])),
        score=float(score[0]),
        predicted_ms=float(seen.mean_ms[position]) if known else None,
    )
