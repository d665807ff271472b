"""What the controller is asked and what it answers. numpy and standard library only."""

import math
import sys
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, SupportsFloat, get_args

import numpy as np

from paceline.errors import BudgetError, ControllerError, InfeasibleBudgetError
from paceline.knobs import Configuration, KnobSpace
from paceline.latency.quantity import LATENCY, ONLY_AFTERWARDS, Quantity

if TYPE_CHECKING:
    from paceline.runtime.controller import Controller
    from paceline.runtime.explanation import Explanation
    from paceline.runtime.many import ContextBatch
    from paceline.runtime.weighing import Times

Reason = Literal["policy", "cheapest", "best_effort", "rejected"]
WhenInfeasible = Literal["cheapest", "reject", "best_effort"]

FEATURES = ("image_features", "question_features")
WORKLOAD = ("tiles", "vision_tokens", "prompt_tokens")
FIELDS = (*FEATURES, *WORKLOAD)
"""Arrays of a context, and of many of them."""
LARGEST = sys.float_info.max
PREDICTIONS = ("predicted_ms", "upper_ms", "first_token_upper_ms", "full_ms")
"""Properties of a decision that are NaN where times are known only afterwards."""
SAID = (
    "configuration",
    "action",
    "reason",
    "feasible",
    "tested",
    "score",
    *PREDICTIONS,
    "budget_ms",
    "first_token_budget_ms",
    "average_budget_ms",
    "elapsed_ms",
    "unexpected_ms",
    "slowdown",
    "price",
    "decision_ms",
)
"""What the JSON summary of a decision holds, in this order."""


def check_when_infeasible(value: str) -> None:
    """Raise BudgetError unless `value` is a known answer to "nothing fits"."""
    if value not in get_args(WhenInfeasible):
        raise BudgetError(f"when_infeasible: got {value!r}, expected one of {list(get_args(WhenInfeasible))}")


def check_number(name: str, value: Any, *, least: float) -> float:
    """A finite number of any real kind from `least` on as a float; BudgetError for anything else."""
    number: Any = value.item() if isinstance(value, np.generic) else value
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not real or not least <= number <= LARGEST:
        raise BudgetError(f"{name}: got {value!r}, expected a finite number from {least:g} on")
    return float(number)


def check_arrays(request: "Context | ContextBatch") -> None:
    """Raise ControllerError for fields that are no arrays."""
    for name in FIELDS:
        value = getattr(request, name)
        if not isinstance(value, np.ndarray):
            raise ControllerError(f"{name}: got {type(value).__name__}, expected a numpy array")


def check_counts(request: "Context | ContextBatch") -> None:
    """Raise ControllerError for workloads that are no counts; one that is NaN is none."""
    for name in WORKLOAD:
        counts: np.ndarray = getattr(request, name)
        if counts.dtype.kind not in "iuf":
            raise ControllerError(f"workload: got {name} of type {counts.dtype}, expected whole numbers")
        whole = counts.dtype.kind != "f"  # no whole number is NaN or infinite
        if counts.size and not (counts.min() >= 0 and (whole or counts.max() < math.inf)):
            raise ControllerError(
                f"workload: got {name} with negative counts, NaN or infinity, expected those of every configuration"
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Context:
    """One request as the controller sees it; m = the controller's configurations, in its order."""

    image_features: np.ndarray  # float32 (image_width,): pooled overview features, or packed tokens
    question_features: np.ndarray  # float32 (question_width,): pooled prompt embeddings, or packed tokens
    tiles: np.ndarray  # int (m,): crops through the vision tower, the overview included
    vision_tokens: np.ndarray  # int (m,)
    prompt_tokens: np.ndarray  # int (m,): image tokens included

    def check(self, image_width: int | None, question_width: int | None, configurations: int) -> None:
        """Raise ControllerError for features or workloads of another size, or no arrays.

        The policy checks the features' values, `check_counts` the workloads'. A width of None stands for packed tokens,
        of which there may be any number.
        """
        try:
            image, question = self.image_features.shape, self.question_features.shape
            sizes = self.tiles.shape, self.vision_tokens.shape, self.prompt_tokens.shape
        except AttributeError:
            check_arrays(self)
            raise
        if image != (image_width,) or question != (question_width,):
            self._check_features(image_width, question_width)
        if not sizes[0] == sizes[1] == sizes[2] == (configurations,):
            raise ControllerError(
                f"workload: got tiles {sizes[0]}, vision_tokens {sizes[1]}, prompt_tokens {sizes[2]}, expected "
                f"({configurations},) each: one value per configuration"
            )

    def _check_features(self, image_width: int | None, question_width: int | None) -> None:
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


# Candidates and decisions are made for every request, within tens of microseconds: the constructor of a frozen
# dataclass would take five of them.
@dataclass(kw_only=True, slots=True, eq=False)
class Candidates:
    """Every configuration as one decision saw it; arrays (m,) in the controller's order."""

    space: KnobSpace
    actions: np.ndarray  # int64
    scores: np.ndarray  # accuracy scale (a logits policy: log-probability); only differences mean something
    values: np.ndarray  # what is maximised: scores less the price of the predicted time, see `action_logits`
    mean_ms: np.ndarray  # expected latency of the whole call
    upper_ms: np.ndarray  # calibrated upper latency of the whole call
    first_upper_ms: np.ndarray  # calibrated upper latency of the first token
    feasible: np.ndarray  # bool
    chosen: int  # position; -1 where nothing fits, until the caller's rule has picked one


@dataclass(kw_only=True, slots=True, eq=False)
class Asked:
    """What a decision was made of, for whoever asks why; arrays are referred to, not copied."""

    controller: "Controller"
    context: Context
    full_ms: float  # expected latency of the full configuration, without slow-down
    reachable: bool  # whether any choice can meet the average budget


@dataclass(kw_only=True, slots=True, eq=False)
class Decision:
    """The configuration of one request and why. Times in milliseconds, or costs in the unit of `quantity`.

    Predictions are NaN where times are known only afterwards. They and the score are read from `candidates` when asked.
    `reason`: "policy" = the best feasible configuration; "cheapest" and "best_effort" = nothing fits and the
    caller asked for this; "rejected" = nothing fits and the caller asked for an error (it travels in the error).
    """

    configuration: Configuration
    action: int
    reason: Reason
    budget_ms: float | None  # hard limit on the whole call, shares and classes resolved
    first_token_budget_ms: float | None
    average_budget_ms: float | None
    elapsed_ms: float  # spent when the decision was asked for
    unexpected_ms: float  # the part of it that the latency estimate does not hold
    slowdown: float  # factor on all predictions
    price: float  # accuracy per full configuration's latency
    decision_ms: float  # time this decision took
    candidates: Candidates = field(repr=False)
    times: "Times" = field(repr=False)  # of its workload
    context: Context = field(repr=False)
    controller: "Controller" = field(repr=False)
    reachable: bool = field(repr=False)  # whether any choice can meet the average budget

    @property
    def only_time_counts(self) -> bool:
        """Whether the price is beyond what the policy reads, so that the cheapest that fits was taken."""
        return self.price > self.controller.policy.spec.highest_price

    @property
    def quantity(self) -> Quantity:
        """What budgets and predictions are in."""
        return self.controller.quantity

    @property
    def feasible(self) -> int:
        """How many configurations fit."""
        return int(np.count_nonzero(self.candidates.feasible))

    @property
    def tested(self) -> int:
        """Out of how many."""
        return len(self.candidates.feasible)

    @property
    def score(self) -> float:
        """Of the choice, accuracy scale (a logits policy: log-probability up to a constant)."""
        return float(self.candidates.scores[self.candidates.chosen])

    @property
    def predicted_ms(self) -> float:
        """Expected latency of the whole call, slow-down included."""
        return self._predicted(self.candidates.mean_ms[self.candidates.chosen])

    @property
    def upper_ms(self) -> float:
        """Calibrated upper latency of the whole call, slow-down included."""
        return self._predicted(self.candidates.upper_ms[self.candidates.chosen])

    @property
    def first_token_upper_ms(self) -> float:
        """Calibrated upper latency of the first token, slow-down included; NaN of costs, which have none."""
        if self.quantity.kind != LATENCY:
            return math.nan
        return self._predicted(self.candidates.first_upper_ms[self.candidates.chosen])

    @property
    def full_ms(self) -> float:
        """Expected latency of the full configuration on this request, without slow-down."""
        return self._predicted(self.times.full_ms)

    def _predicted(self, value: SupportsFloat) -> float:
        return float(value) if self.quantity.known_before else math.nan

    @property
    def asked(self) -> Asked:
        """What the decision was made of."""
        return Asked(
            controller=self.controller,
            context=self.context,
            full_ms=self.times.full_ms,
            reachable=self.reachable,
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-able summary, without the losers; None for what is known only afterwards."""
        value = {name: getattr(self, name) for name in SAID}
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

    def explanation(self, *, top: int = 8, method: str = "occlusion") -> "Explanation":
        """Why this configuration; computed now, from what the decision was made of.

        `top`: configurations of the highest value in text and JSON. `method`: how the shares of image, question and
        budget come about, "occlusion" or "integrated_gradients", see `attribution`.

        Raises:
            ControllerError: another method, or `top` below 1.
        """
        from paceline.runtime.explanation import explanation_of

        return explanation_of(self, top=top, method=method)

    def explain(self, top: int = 8, *, method: str = "occlusion") -> str:
        """`explanation` as text."""
        return self.explanation(top=top, method=method).to_text()


class RejectedError(InfeasibleBudgetError):
    """No configuration fits and the caller asked for rejection; `decision` holds what was considered."""

    def __init__(self, message: str, decision: Decision) -> None:
        super().__init__(message)
        self.decision = decision
