"""Judging policies on the same samples: accuracy, closed gap and paired differences, with intervals over scenes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paceline.evaluation.choices import Budgets, baseline_choices, priced
from paceline.evaluation.metrics import sample_accuracy
from paceline.evaluation.pricing import one_hot
from paceline.learning.learners.contender import Contender
from paceline.learning.problem import Problem
from paceline.outcomes.bootstrap import SceneBootstrap, interval, ratio

Reached = dict[str, np.ndarray]
"""Mode ("hard" or "average") -> accuracy (test samples, budgets)."""
VIOLATION_RATE = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Budgets in ms to judge under."""

    hard_ms: Sequence[float]
    average_ms: Sequence[float] = ()


def reached(contender: Contender, prices_on: Problem, test: Problem, limits: Limits) -> Reached:
    """What a policy reaches; prices of average budgets are found on `prices_on`, without its outcomes."""
    shape = test.accuracy.shape
    found = {"hard": [one_hot(contender.choose(test, budget, 0.0), *shape) for budget in limits.hard_ms]}
    if limits.average_ms:
        choose = priced(contender, prices_on, test)
        found["average"] = [choose(budget) for budget in limits.average_ms]
    return {
        mode: np.stack([sample_accuracy(test, part) for part in parts], axis=1)
        for mode, parts in found.items()
    }


def bounds(fit: Problem, test: Problem, limits: Limits) -> dict[str, Reached]:
    """What the best static configuration (chosen on `fit`) and the oracle reach."""
    budgets = Budgets(
        hard_ms=list(limits.hard_ms), average_ms=list(limits.average_ms), violation_rate=VIOLATION_RATE
    )
    choices = baseline_choices(fit, test, budgets)
    value: dict[str, Reached] = {}
    for name in ("best_static", "oracle"):
        modes = {"hard": choices.hard[name]} | (
            {"average": choices.average[name]} if limits.average_ms else {}
        )
        value[name] = {
            mode: np.stack([sample_accuracy(test, part) for part in parts], axis=1)
            for mode, parts in modes.items()
        }
    return value


def stacked(parts: Sequence[dict[str, Reached]]) -> dict[str, Reached]:
    """The samples of several data sets one after the other, by contender."""
    return {
        name: {mode: np.concatenate([part[name][mode] for part in parts]) for mode in parts[0][name]}
        for name in parts[0]
    }


def compared(
    found: Mapping[str, Reached], scene: np.ndarray, pairs: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """By mode: every contender's accuracy and closed gap, and the differences of `pairs`, with 95 % intervals."""
    bootstrap = SceneBootstrap(scene, seed=0)
    value: dict[str, Any] = {}
    for mode in found["oracle"]:
        columns = {name: modes[mode] for name, modes in found.items()}
        drawn = np.split(
            bootstrap.means(np.concatenate(list(columns.values()), axis=1)), len(columns), axis=1
        )
        draws = dict(zip(columns, drawn, strict=True))
        means = {name: part.mean(axis=0)[None] for name, part in columns.items()}
        gaps, gap_draws = _gaps(means), _gaps(draws)
        value[mode] = {
            "accuracy": {name: float(part.mean()) for name, part in means.items()},
            "accuracy_ci": {name: _ends(part.mean(axis=1)) for name, part in draws.items()},
            "closed_gap": {name: float(part[0]) for name, part in gaps.items()},
            "closed_gap_ci": {name: _ends(part) for name, part in gap_draws.items()},
            "differences": {
                f"{first} - {second}": {
                    "accuracy": float((means[first] - means[second]).mean()),
                    "accuracy_ci": _ends((draws[first] - draws[second]).mean(axis=1)),
                    "closed_gap": float(gaps[first][0] - gaps[second][0]),
                    "closed_gap_ci": _ends(gap_draws[first] - gap_draws[second]),
                }
                for first, second in pairs
            },
        }
    return value


def _gaps(means: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Closed gaps of the means over budgets (draws, budgets) -> (draws,)."""
    averaged = {name: part.mean(axis=1) for name, part in means.items()}
    worst, best = averaged["best_static"], averaged["oracle"]
    return {name: ratio(part - worst, best - worst) for name, part in averaged.items()}


def _ends(draws: np.ndarray) -> list[float]:
    low, high = interval(draws)
    return [float(low), float(high)]


def lines(title: str, value: Mapping[str, Any]) -> list[str]:
    """A table to print."""
    rows = [title]
    for mode, part in value.items():
        rows.append(f"  {mode} budgets{'accuracy':>29}{'closed gap':>14}")
        for name, accuracy in part["accuracy"].items():
            low, high = part["closed_gap_ci"][name]
            rows.append(
                f"    {name:34}{accuracy:.4f}    {part['closed_gap'][name]:+.3f} [{low:+.3f}, {high:+.3f}]"
            )
        for name, difference in part["differences"].items():
            low, high = difference["accuracy_ci"]
            rows.append(f"    {name:44}{difference['accuracy']:+.4f} [{low:+.4f}, {high:+.4f}]")
    return rows
