"""How much image, question and budget each have in a choice. numpy only.

What is split is a smooth quantity that the choice maximises: f = log of the probability of the chosen configuration
under softmax(values / temperature) over the feasible configurations. A hidden part is replaced by its training mean:
zeros as scaled image or question features; no limit, and no price, as budget, so that nothing is excluded.
"""

from dataclasses import asdict, dataclass, replace
from itertools import product
from math import factorial
from typing import TYPE_CHECKING, Any

import numpy as np

from paceline.errors import ControllerError
from paceline.runtime.replay import Replay, Variants

if TYPE_CHECKING:
    from paceline.runtime.decision import Decision

PARTS = ("image", "question", "budget")
STEPS = {"occlusion": 1, "integrated_gradients": 64}
"""Methods, and into how many steps each divides the way from everything hidden to everything shown."""
NEGLIGIBLE = 1e-4
"""Contributions to a log-probability that together are no more than what rounding can make."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contribution:
    """One part of the request."""

    part: str  # of PARTS
    value: float  # of f; the parts' values sum to f(shown) - f(hidden)
    share: float | None  # |value| over the sum of all |values|; None where all are 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Attribution:
    """The parts' contributions to the log-probability of the choice."""

    method: str  # of STEPS
    shown: float  # f with the whole request
    hidden: float  # f with everything hidden
    contributions: tuple[Contribution, ...]  # in the order of PARTS

    @property
    def nothing(self) -> bool:
        """Whether no part moves the choice."""
        return all(item.share is None for item in self.contributions)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able value."""
        return asdict(self) | {"contributions": [asdict(item) for item in self.contributions]}


def check_method(method: str) -> None:
    """Raise ControllerError unless `method` is one of STEPS."""
    if method not in STEPS:
        raise ControllerError(f"explanation method: got {method!r}, expected one of {list(STEPS)}")


def attribution(decision: "Decision", replay: Replay, method: str) -> Attribution:
    """Contributions of image, question and budget to a choice by a method of STEPS.

    "occlusion": exact Shapley values of the three parts, each hidden or shown. "integrated_gradients": a straight way
    of small steps from hidden to shown, and the change of f in every step split by exact Shapley values; its limit is
    the path integral of the gradient (Aumann-Shapley), and unlike a gradient it sees the jumps where a configuration
    becomes infeasible. Features move linearly, limits geometrically from one that excludes nothing, the price
    linearly. Either way the contributions sum to f(shown) - f(hidden).
    """
    steps = STEPS[method]
    ends = np.linspace(0.0, 1.0, steps + 1)
    corners = np.array(list(product((0, 1), repeat=len(PARTS))))  # (8, 3), as `shapley` reads them
    places = ends[np.arange(steps)[:, None, None] + corners]  # (steps, 8, 3)
    # A corner that steps share is asked once: asked twice, rounding would keep the sum from adding up.
    asked, again = np.unique(places.reshape(-1, len(PARTS)), axis=0, return_inverse=True)
    values = _log_probability(decision, replay, asked)[again.reshape(steps, -1)]
    totals = shapley(values).sum(axis=0)
    size = float(np.abs(totals).sum())
    return Attribution(
        method=method,
        shown=float(values[-1, -1]),
        hidden=float(values[0, 0]),
        contributions=tuple(
            Contribution(
                part=part,
                value=float(value),
                share=float(abs(value)) / size if size > NEGLIGIBLE else None,
            )
            for part, value in zip(PARTS, totals, strict=True)
        ),
    )


def shapley(values: np.ndarray) -> np.ndarray:
    """Shapley values (games, parts): what a part adds to a coalition, on the mean over the orders in which parts join.

    `values`: (games, 2 ** parts), of the coalitions counted up in binary, the last part as the lowest digit.

    >>> shapley(np.array([[0.0, 0.0, 0.0, 6.0, 0.0, 6.0, 0.0, 6.0]])).tolist()  # budget with image or with question
    [[1.0, 1.0, 4.0]]
    """
    count = len(PARTS)
    cube = values.reshape(-1, *(2,) * count)
    result = np.zeros((len(values), count))
    for part in range(count):
        gain = np.diff(cube, axis=part + 1).squeeze(part + 1)  # (steps, 2, 2): what showing this part adds
        for others in product((0, 1), repeat=count - 1):
            size = sum(others)
            weight = factorial(size) * factorial(count - 1 - size) / factorial(count)
            result[:, part] += weight * gain[(slice(None), *others)]
    return result


def _log_probability(decision: "Decision", replay: Replay, places: np.ndarray) -> np.ndarray:
    """f (k,) at places (k, parts) between hidden (0) and shown (1)."""
    logits, feasible = replay.weigh(_at(decision, replay, places))
    masked = np.where(feasible, logits, -np.inf)
    top = masked.max(axis=1)
    total = top + np.log(np.exp(masked - top[:, None]).sum(axis=1))
    return logits[:, decision.candidates.chosen] - total


def _at(decision: "Decision", replay: Replay, places: np.ndarray) -> Variants:
    """What to ask where features and budgets are partly shown."""
    seen, spent, budget = decision.candidates, decision.unexpected_ms, places[:, 2]
    asked = replay.variants(len(places))
    widest = max(float(seen.upper_ms.max()), replay.longest_read_ms)
    return replace(
        asked,
        budget_ms=_limits(asked.budget_ms, widest, spent, budget),
        first_token_budget_ms=_limits(
            asked.first_token_budget_ms, float(seen.first_upper_ms.max()), spent, budget
        ),
        price=decision.price * budget,
        shown=places[:, :2],
    )


def _limits(limit_ms: np.ndarray, widest_ms: float, spent_ms: float, place: np.ndarray) -> np.ndarray:
    """Limits (k,) on the way from none (0) over the least that excludes nothing to the one given (1)."""
    left = np.maximum(limit_ms - spent_ms, np.finfo(np.float64).tiny)
    widest = np.maximum(left, widest_ms)
    with np.errstate(invalid="ignore"):
        moved = spent_ms + widest * (left / widest) ** place
    moved = np.where(place == 1, limit_ms, moved)
    return np.where((place == 0) | np.isinf(limit_ms), np.inf, moved)
