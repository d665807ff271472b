"""What the controller is asked and what it answers. numpy and standard library only."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from paceline.errors import BudgetError, ControllerError, InfeasibleBudgetError
from paceline.knobs import Configuration, KnobSpace
from paceline.latency.quantity import COST, LATENCY, ONLY_AFTERWARDS, Quantity

Reason = Literal["policy", "cheapest", "best_effort", "rejected"]
WhenInfeasible = Literal["cheapest", "reject", "best_effort"]

PREDICTIONS = ("predicted_ms", "upper_ms", "first_token_upper_ms", "full_ms")
"""Fields of a decision that are NaN where times are known only afterwards."""
ABOUT_EQUAL = 5e-4
"""Differences of value that an explanation with three digits would show as 0.000."""


def check_when_infeasible(value: str) -> None:
    """Raise BudgetError unless `value` is a known answer to "nothing fits"."""
    if value not in get_args(WhenInfeasible):
        raise BudgetError(f"when_infeasible: got {value!r}, expected one of {list(get_args(WhenInfeasible))}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Context:
    """One request as the controller sees it; m = the controller's configurations, in its order."""

    image_features: np.ndarray  # float32 (image_width,): pooled overview features, or packed tokens
    question_features: np.ndarray  # float32 (question_width,): pooled prompt embeddings, or packed tokens
    tiles: np.ndarray  # int (m,): crops through the vision tower, the overview included
    vision_tokens: np.ndarray  # int (m,)
    prompt_tokens: np.ndarray  # int (m,): image tokens included

    def check(self, image_width: int | None, question_width: int | None, configurations: int) -> None:
        """Raise ControllerError for features or workloads of another size; the policy checks their values.

        A width of None stands for packed tokens, of which there may be any number.
        """
        for name, values, width in (
            ("image_features", self.image_features, image_width),
            ("question_features", self.question_features, question_width),
        ):
            if values.ndim != 1 or width not in (None, len(values)):
                expected = "(any,)" if width is None else f"({width},)"
                raise ControllerError(
                    f"{name}: got shape {values.shape}, expected {expected}; the controller was trained on "
                    "another model's features, train one for this model"
                )
        if not self.tiles.shape == self.vision_tokens.shape == self.prompt_tokens.shape == (configurations,):
            raise ControllerError(
                f"workload: got tiles {self.tiles.shape}, vision_tokens {self.vision_tokens.shape}, prompt_tokens "
                f"{self.prompt_tokens.shape}, expected ({configurations},) each: one value per configuration"
            )


# Candidates and decisions are made for every request, within tens of microseconds: the constructor of a frozen
# dataclass would take five of them.
@dataclass(kw_only=True, slots=True, eq=False)
class Candidates:
    """Every configuration as one decision saw it; arrays (m,) in the controller's order."""

    space: KnobSpace
    actions: np.ndarray  # int64
    scores: np.ndarray  # accuracy scale (a logits policy: log-probability); only differences mean something
    values: (
        np.ndarray
    )  # scores less the price of the predicted time, if not priced already; what is maximised
    mean_ms: np.ndarray  # expected latency of the whole call
    upper_ms: np.ndarray  # calibrated upper latency of the whole call
    first_upper_ms: np.ndarray  # calibrated upper latency of the first token
    feasible: np.ndarray  # bool
    chosen: int  # position; -1 where nothing fits, until the caller's rule has picked one


@dataclass(kw_only=True, slots=True, eq=False)
class Decision:
    """The configuration of one request and why. Times in milliseconds, or costs in the unit of `quantity`.

    Predictions are NaN where times are known only afterwards.
    `reason`: "policy" = the best feasible configuration; "cheapest" and "best_effort" = nothing fits and the
    caller asked for this; "rejected" = nothing fits and the caller asked for an error (it travels in the error).
    """

    configuration: Configuration
    action: int
    reason: Reason
    feasible: int  # how many configurations fit
    tested: int  # out of how many
    score: float  # of the choice, accuracy scale (a logits policy: log-probability up to a constant)
    predicted_ms: float  # expected latency of the whole call, slow-down included
    upper_ms: float  # calibrated upper latency of the whole call, slow-down included
    first_token_upper_ms: float
    full_ms: float  # expected latency of the full configuration on this request, without slow-down
    budget_ms: float | None  # hard limit on the whole call, shares and classes resolved
    first_token_budget_ms: float | None
    average_budget_ms: float | None
    elapsed_ms: float  # spent when the decision was asked for
    unexpected_ms: float  # the part of it that the latency estimate does not hold
    slowdown: float  # factor on all predictions
    price: float  # accuracy per full configuration's latency
    decision_ms: float  # time this decision took
    candidates: Candidates = field(repr=False)
    quantity: Quantity = field(default_factory=Quantity)  # what budgets and predictions are in

    def to_json(self) -> dict[str, Any]:
        """A JSON-able summary, without the losers; None for what is known only afterwards."""
        names = [name for name in self.__slots__ if name not in ("candidates", "quantity")]
        value = {name: getattr(self, name) for name in names}
        value |= {name: None for name in PREDICTIONS if math.isnan(value[name])}
        return value | {"unit": self.quantity.unit}

    def summary(self) -> str:
        """The choice in a line."""
        chosen = ", ".join(f"{name} {option}" for name, option in self.configuration.items())
        text = self.quantity.text
        if self.quantity.known_before:
            return (
                f"{chosen}: {text(self.predicted_ms)} expected, {text(self.upper_ms)} at most ({self.reason})"
            )
        return f"{chosen}: its time is {ONLY_AFTERWARDS} ({self.reason})"

    def explain(self, top: int = 8) -> str:
        """Why this configuration: the `top` best scores, the choice and the reason each loser lost."""
        lines = [self._headline(), *self._limits()]
        seen = self.candidates
        order = [int(i) for i in np.argsort(-seen.values, kind="stable")[:top]]
        if seen.chosen not in order:
            order.append(seen.chosen)
        names = [_name(seen.space.configuration(int(seen.actions[i]))) for i in order]
        width = max(len("configuration"), *map(len, names))
        known, text = self.quantity.known_before, self.quantity.text
        titles = f"{'predicted':>9}  {'upper':>9}  " if known else ""
        lines.append(f"  {'configuration':<{width}}  score   value  {titles}verdict")
        for name, i in zip(names, order, strict=True):
            times = f"{text(seen.mean_ms[i]):>9}  {text(seen.upper_ms[i]):>9}  " if known else ""
            lines.append(
                f"  {name:<{width}}  {seen.scores[i]:5.3f}  {seen.values[i]:6.3f}  {times}{self._verdict(i)}"
            )
        if len(order) < self.tested:
            lines.append(f"  and {self.tested - len(order)} configurations of lower value")
        return "\n".join(lines)

    def _headline(self) -> str:
        name = _name(self.configuration)
        match self.reason:
            case "policy" if not self.quantity.known_before:
                return (
                    f"{name}: the best of {self.tested} configurations; what each takes is {ONLY_AFTERWARDS}"
                )
            case "policy":
                return f"{name}: the best of {self.feasible} configurations that fit, out of {self.tested}"
            case "cheapest":
                return f"{name}: nothing fits, so the cheapest of {self.tested} configurations"
            case "best_effort":
                return f"{name}: nothing fits, so the one of {self.tested} configurations that is least late"
            case "rejected":
                return f"rejected: none of {self.tested} configurations fits; {name} comes closest"

    def _limits(self) -> list[str]:
        lines, text = [], self.quantity.text
        if not self.quantity.known_before:
            return [self._deadline()]
        for label, budget in (("budget", self.budget_ms), ("first-token budget", self.first_token_budget_ms)):
            if budget is not None:
                lines.append(
                    f"{label} {text(budget)}; {self.elapsed_ms:.1f} ms spent, {self.unexpected_ms:.1f} ms of it "
                    f"beyond the overview's: {text(budget - self.unexpected_ms)} for upper latencies"
                    if self.quantity.kind == LATENCY
                    else f"{label} {text(budget)}"
                )
        if self.average_budget_ms is not None:
            lines.append(
                f"average budget {text(self.average_budget_ms)}: {self.price:.4f} of accuracy is the price of the "
                f"full configuration's {'cost' if self.quantity.kind == COST else 'time'}"
            )
        if self.slowdown != 1.0:
            lines.append(
                f"the machine now takes {self.slowdown:.2f} x the calibrated time; predictions include it"
            )
        return lines or ["no budget: every configuration fits"]

    def _deadline(self) -> str:
        """The deadline of a choice whose time is known only afterwards."""
        if self.budget_ms is None:
            return "no deadline: nothing is excluded"
        left = self.budget_ms - self.unexpected_ms
        spent = f", {self.unexpected_ms:.1f} ms of it spent" if self.unexpected_ms else ""
        meaning = "an answer after it counts nothing" if left >= 0 else "it has passed"
        return f"deadline {self.quantity.text(self.budget_ms)}{spent}: {meaning}"

    def _verdict(self, i: int) -> str:
        seen = self.candidates
        if i == seen.chosen:
            return "chosen"
        late = []
        if (
            self.budget_ms is not None
            and (over := seen.upper_ms[i] - self.budget_ms + self.unexpected_ms) > 0
        ):
            late.append(
                f"{self.quantity.text(over)} over the budget"
                if self.quantity.known_before
                else "the deadline has passed"
            )
        if (
            self.first_token_budget_ms is not None
            and (over := seen.first_upper_ms[i] - self.first_token_budget_ms + self.unexpected_ms) > 0
        ):
            late.append(f"first token {over:.1f} ms late")
        if late:
            return ", ".join(late)
        if self.reason != "policy":
            return "over the average budget" if self.average_budget_ms is not None else "does not fit"
        worse = float(seen.values[seen.chosen] - seen.values[i])
        if worse < ABOUT_EQUAL:
            return "as good, not cheaper"
        score_gap = float(seen.scores[seen.chosen] - seen.scores[i])
        if score_gap >= ABOUT_EQUAL or self.price == 0.0:
            return f"value {worse:.3f} lower"
        what = "time costs" if self.quantity.kind == LATENCY else "cost takes"
        return f"scores {-score_gap:.3f} more, its {what} {worse - score_gap:.3f} more"


class RejectedError(InfeasibleBudgetError):
    """No configuration fits and the caller asked for rejection; `decision` holds what was considered."""

    def __init__(self, message: str, decision: Decision) -> None:
        super().__init__(message)
        self.decision = decision


def _name(configuration: Configuration) -> str:
    return " ".join(f"{knob}={option}" for knob, option in configuration.items())
