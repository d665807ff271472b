"""Why a configuration was chosen: the best ones, the nearest budgets that choose others, each part's share in it."""

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from paceline.errors import ControllerError
from paceline.knobs import Configuration
from paceline.latency.quantity import MILLISECONDS, Quantity
from paceline.runtime.attribution import Attribution, attribution, check_method
from paceline.runtime.counterfactuals import Counterfactual, counterfactuals, steered_from
from paceline.runtime.replay import Replay
from paceline.runtime.verdicts import headline, limits, named, verdict

if TYPE_CHECKING:
    from paceline.runtime.decision import Decision

BUDGETS = {
    "budget": "budget",
    "first_token_budget": "first-token budget",
    "average_budget": "average budget",
}
"""Kinds of budget in words."""
SHOWN_DIGITS = 4
"""Significant digits of a cost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Considered:
    """One configuration as the decision saw it. Times in milliseconds, or costs in the explanation's unit."""

    configuration: Configuration
    score: float  # predicted accuracy, or log-probability up to a constant
    accuracy: float | None  # predicted; None where the policy predicts none
    value: float  # what is maximised: score less the price of its time, or, where only time counts, -predicted_ms
    predicted_ms: float | None  # expected; None: known only afterwards
    upper_ms: float | None  # calibrated upper quantile; likewise
    feasible: bool
    chosen: bool
    verdict: str  # why it was chosen or lost


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Why a configuration was chosen."""

    headline: str
    limits: tuple[str, ...]
    configurations: tuple[Considered, ...]  # by value, the best first; all of them
    top: int  # how many of them are shown, see `shown`
    violation_rate: float | None  # how often a time may exceed its upper quantile; None: nothing is promised
    budgets: tuple[Counterfactual, ...]
    shares: Attribution | None  # None: see `notes`
    notes: tuple[str, ...]
    quantity: Quantity

    @property
    def shown(self) -> list[Considered]:
        """The `top` best configurations, then the choice and the best other one that fits where these are not in it."""
        best = list(self.configurations[: self.top])
        rest = [row for row in self.configurations if row.feasible and not row.chosen][:1]
        return best + [row for row in self.configurations[self.top :] if row.chosen or row in rest]

    def to_json(self) -> dict[str, Any]:
        """A JSON-able value."""
        rows = [asdict(row) | {"configuration": dict(row.configuration)} for row in self.shown]
        return {
            "headline": self.headline,
            "limits": list(self.limits),
            "configurations": rows,
            "others": len(self.configurations) - len(rows),
            "violation_rate": self.violation_rate,
            "budgets": [item.to_json() for item in self.budgets],
            "shares": None if self.shares is None else self.shares.to_json(),
            "notes": list(self.notes),
            "unit": self.quantity.unit,
        }

    def to_text(self) -> str:
        """Lines for a terminal."""
        lines = [self.headline, *self.limits, *self._table(), self.meaning()]
        lines += [self.change(item) for item in self.budgets]
        lines += [] if self.shares is None else [shares_line(self.shares)]
        return "\n".join([*lines, *self.notes])

    def meaning(self) -> str:
        """What the columns of numbers are."""
        predicts = self.configurations[0].accuracy is not None
        parts = [
            "score: predicted accuracy"
            if predicts
            else "score: log-probability up to a constant; this policy predicts no accuracy"
        ]
        if self.violation_rate is not None:
            parts.append(f"upper: exceeded by {100 * self.violation_rate:.3g} % of requests at most")
        return "; ".join(parts)

    def change(self, item: Counterfactual) -> str:
        """One of `budgets` in words."""
        known = self.quantity.known_before
        kind = BUDGETS[item.kind] if known else "deadline"
        if not item.changes:
            return f"no {item.direction} {kind} changes the choice"
        if item.budget_ms is None:
            where = f"without a {kind}" if item.direction == "larger" else f"with any {kind}"
        elif item.direction == "larger":
            where = f"{kind} from {self._amount(item.budget_ms, up=True)} on"
        else:
            where = f"{kind} below {self._amount(item.budget_ms, up=False)}"
        if item.configuration is None:
            return f"{where}: {'nothing fits' if known else 'it has passed'}"
        facts = [] if item.score is None else [f"score {item.score:.3f}"]
        facts += [] if item.predicted_ms is None else [f"{self.quantity.text(item.predicted_ms)} expected"]
        return f"{where}: {named(item.configuration)} ({', '.join(facts)})"

    def _amount(self, value: float, *, up: bool) -> str:
        """A budget rounded so that what is said of it still holds."""
        decimals = 1
        if self.quantity.unit != MILLISECONDS:
            decimals = SHOWN_DIGITS - 1 - math.floor(math.log10(value))
        steps = value * 10.0**decimals
        whole = math.ceil(steps - 1e-3) if up else math.floor(steps + 1e-3)
        return self.quantity.text(whole / 10.0**decimals)

    def _table(self) -> list[str]:
        rows, text = self.shown, self.quantity.text
        names = [named(row.configuration) for row in rows]
        width = max(len("configuration"), *map(len, names))
        known = self.quantity.known_before
        titles = f"{'predicted':>9}  {'upper':>9}  " if known else ""
        lines = [f"  {'configuration':<{width}}    score    value  {titles}verdict"]
        for name, row in zip(names, rows, strict=True):
            times = "".join(
                f"{text(time):>9}  " for time in (row.predicted_ms, row.upper_ms) if time is not None
            )
            lines.append(f"  {name:<{width}}  {row.score:7.3f}  {row.value:7.3f}  {times}{row.verdict}")
        if len(rows) < len(self.configurations):
            lines.append(f"  and {len(self.configurations) - len(rows)} configurations of lower value")
        return lines


def shares_line(shares: Attribution) -> str:
    """The shares of image, question and budget in words."""
    method = shares.method.replace("_", " ")
    if shares.nothing:
        return f"share in the choice ({method}): none of image, question and budget moves it"
    parts = [
        f"{item.part} {100 * (item.share or 0.0):.0f} % ({item.value:+.2f})" for item in shares.contributions
    ]
    return (
        f"share in the choice ({method}): {', '.join(parts)}; its log-probability goes from {shares.hidden:.2f} with "
        f"nothing seen to {shares.shown:.2f}"
    )


def explanation_of(decision: "Decision", *, top: int, method: str) -> Explanation:
    """See `Decision.explanation`."""
    check_method(method)
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise ControllerError(f"explanation: got top={top!r}, expected how many configurations to show")
    asked = decision.asked
    replay = Replay(decision, asked)
    now = decision.candidates.chosen if decision.reason == "policy" else -1
    again = int(replay.choices(replay.variants(1))[0])
    notes, changes, shares = [], (), None
    if again != now:
        notes.append(_disagreement(decision, again))
    else:
        changes = counterfactuals(decision, asked, replay)
        if now < 0:
            notes.append("share in the choice: none of image and question, as nothing fits")
        elif decision.only_time_counts:
            notes.append(
                "share in the choice: none of image and question, as only time counts; values are times below 0"
            )
        else:
            shares = attribution(decision, replay, method)
    told = steered_from(decision, asked.controller.prices, asked.controller.scale)
    if told is not None:
        notes.append(
            f"the average budget is steered: what was spent so far makes this request's price that of "
            f"{decision.quantity.text(told)}, which is where other average budgets are counted from"
        )
    if decision.first_token_budget_ms is not None and np.array_equal(
        asked.controller.first_token_latency.rows, asked.controller.latency.rows
    ):
        notes.append("no first token was measured: the time of the whole call stands in for it")
    facts, known = asked.controller.latency.facts, decision.quantity.known_before
    if facts.get("promise_holds") is False:
        notes.append("upper: too few samples were timed to promise this; it is the slowest that was seen")
    return Explanation(
        headline=headline(decision),
        limits=tuple(limits(decision)),
        configurations=_considered(decision),
        top=top,
        violation_rate=facts.get("violation_rate") if known else None,
        budgets=changes,
        shares=shares,
        notes=tuple(notes),
        quantity=decision.quantity,
    )


def _considered(decision: "Decision") -> tuple[Considered, ...]:
    seen, known = decision.candidates, decision.quantity.known_before
    predicts = decision.asked.controller.policy.spec.output == "accuracy"
    return tuple(
        Considered(
            configuration=seen.space.configuration(int(seen.actions[i])),
            score=float(seen.scores[i]),
            accuracy=float(seen.scores[i]) if predicts else None,
            value=float(seen.values[i]),
            predicted_ms=float(seen.mean_ms[i]) if known else None,
            upper_ms=float(seen.upper_ms[i]) if known else None,
            feasible=bool(seen.feasible[i]),
            chosen=i == seen.chosen,
            verdict=verdict(decision, i),
        )
        for i in np.argsort(-seen.values, kind="stable").tolist()
    )


def _disagreement(decision: "Decision", again: int) -> str:
    """Why there are neither other budgets nor shares."""
    seen = decision.candidates
    would = "nothing" if again < 0 else named(seen.space.configuration(int(seen.actions[again])))
    return (
        f"no other budgets and no shares: asked again in float32 the policy chooses {would}; the decision was made in "
        "other numbers, or its features were changed since"
    )
