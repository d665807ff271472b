"""The results object: one JSON value that the command line prints, the report draws and tests read."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paceline.evaluation import metrics
from paceline.evaluation.baselines import Hull
from paceline.evaluation.choices import Choices, Frontier
from paceline.learning.problem import Problem
from paceline.outcomes.bootstrap import SceneBootstrap, interval, ratio

Shares = Mapping[str, Sequence[np.ndarray]]
"""Contender -> shares (n, m) per budget."""

RIVALS = {
    "gain": "best_static",
    "gain_over_lookup": "lookup",
    "gain_over_supervised": "supervised",
    "gain_over_outcome": "outcome",
}
"""Name of a difference -> the contender that is taken from Paceline."""


REFERENCES = ("lightgbm", "grpo_teacher", "stacking")
"""Contenders from which the closed gap of every other is told apart, paired."""


def section(
    worth: Sequence[Problem],
    shares: Shares,
    budgets_ms: Sequence[float],
    quantiles: Sequence[float | None],
    bootstrap: SceneBootstrap,
) -> dict[str, Any]:
    """Everything measured under one kind of budget, for the contenders in `shares`.

    `worth`: the test samples per budget, with accuracies as they count under it.
    """
    test = worth[0]
    value: dict[str, Any] = {"budgets_ms": list(budgets_ms), "quantiles": list(quantiles)}
    per_sample = {
        name: np.stack(
            [metrics.sample_accuracy(problem, part) for problem, part in zip(worth, parts, strict=True)],
            axis=1,
        )
        for name, parts in shares.items()
    }
    value["accuracy"] = {name: columns.mean(axis=0).tolist() for name, columns in per_sample.items()}
    if test.cutoff_ms is None:
        value |= _latencies(test, shares)
    drawn = bootstrap.means(np.concatenate(list(per_sample.values()), axis=1))
    draws = dict(zip(per_sample, np.split(drawn, len(per_sample), axis=1), strict=True))
    value["accuracy_ci"] = {name: pairs(interval(part)) for name, part in draws.items()}
    value["closed_gaps"] = closed_gaps(per_sample, draws)
    if "paceline" in shares:
        value |= _gains(per_sample, draws)
        value |= _behaviour(test, shares["paceline"])
    return value


def closed_gaps(per_sample: Mapping[str, np.ndarray], draws: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Of every contender: per budget and on the mean over budgets, with intervals, and paired differences.

    per_sample: accuracy (n, budgets) of each contender; draws: its bootstrap means (replicates, budgets). Budgets at
    which the oracle gains nothing over the best static configuration are left out of the mean.
    """
    if "oracle" not in per_sample or "best_static" not in per_sample:
        return {}
    means = {name: columns.mean(axis=0) for name, columns in per_sample.items()}

    def gap(of: Mapping[str, np.ndarray], name: str) -> np.ndarray:
        return ratio(of[name] - of["best_static"], of["oracle"] - of["best_static"])

    counted = np.isfinite(gap(means, "oracle"))
    if not counted.any():
        return {}
    drawn = {name: gap(draws, name)[:, counted].mean(axis=1) for name in per_sample}
    value = {}
    for name in per_sample:
        gaps = gap(means, name)
        value[name] = {
            "by_budget": numbers(gaps),
            "mean": float(gaps[counted].mean()),
            "mean_ci": pairs(interval(drawn[name])[:, None])[0],
        }
        for rival in REFERENCES:
            if rival in per_sample and rival != name:
                over = float((gaps - gap(means, rival))[counted].mean())
                ends = pairs(interval(drawn[name] - drawn[rival])[:, None])[0]
                value[name][f"over_{rival}"] = over
                value[name][f"over_{rival}_ci"] = ends
    return value


def par10_section(test: Problem, shares: Shares, bootstrap: SceneBootstrap) -> dict[str, Any]:
    """Mean PAR10 in seconds and its closed gap, (SBS - contender) / (SBS - oracle), for every contender.

    SBS is the configuration with the lowest mean PAR10 on these very samples, which no contender knows in advance.
    """
    times = test.par10_ms / 1000.0
    per_sample = {name: (parts[0] * times).sum(axis=1)[:, None] for name, parts in shares.items()}
    per_sample["best_static"] = times[:, [int(times.mean(axis=0).argmin())]]
    drawn = bootstrap.means(np.concatenate(list(per_sample.values()), axis=1))
    draws = dict(zip(per_sample, np.split(drawn, len(per_sample), axis=1), strict=True))
    gaps = closed_gaps(
        {name: -column for name, column in per_sample.items()}, {name: -part for name, part in draws.items()}
    )
    solved = {
        name: float((parts[0] * (test.accuracy > 0)).sum(axis=1).mean()) for name, parts in shares.items()
    }
    return {
        "par10_s": {name: float(column.mean()) for name, column in per_sample.items()},
        "par10_s_ci": {name: pairs(interval(part))[0] for name, part in draws.items()},
        "solved": solved,
        "closed_gaps": gaps,
    }


def _latencies(test: Problem, shares: Shares) -> dict[str, Any]:
    value: dict[str, Any] = {name: {} for name in ("mean_latency_ms", "p50_latency_ms", "p95_latency_ms")}
    for name, parts in shares.items():
        value["mean_latency_ms"][name] = [float(metrics.sample_latency(test, part).mean()) for part in parts]
        spread = [metrics.latency_quantiles(test, part, (0.5, 0.95)) for part in parts]
        value["p50_latency_ms"][name] = [low for low, _ in spread]
        value["p95_latency_ms"][name] = [high for _, high in spread]
    return value


def _gains(per_sample: Mapping[str, np.ndarray], draws: Mapping[str, np.ndarray]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for name, rival in RIVALS.items():
        if rival in per_sample:
            value[name] = numbers((per_sample["paceline"] - per_sample[rival]).mean(axis=0))
            value[f"{name}_ci"] = pairs(interval(draws["paceline"] - draws[rival]))
    if "oracle" in per_sample and "best_static" in per_sample:
        means = {name: columns.mean(axis=0) for name, columns in per_sample.items()}
        gaps = ratio(means["paceline"] - means["best_static"], means["oracle"] - means["best_static"])
        drawn = ratio(draws["paceline"] - draws["best_static"], draws["oracle"] - draws["best_static"])
        value["closed_gap"], value["closed_gap_ci"] = numbers(gaps), pairs(interval(drawn))
        counted = np.isfinite(gaps)
        value["closed_gap_mean"] = float(gaps[counted].mean()) if counted.any() else None
        ends = interval(drawn[:, counted].mean(axis=1)) if counted.any() else np.full(2, np.nan)
        value["closed_gap_mean_ci"] = pairs(ends[:, None])[0]
    return value


def _behaviour(test: Problem, parts: Sequence[np.ndarray]) -> dict[str, Any]:
    names = test.space.names
    use = np.stack([metrics.knob_use(test, part) for part in parts])
    by_kind = {}
    options = metrics.option_values(test.space, test.actions)
    for kind in np.unique(test.kind):
        rows = test.kind == kind
        kind_use = np.stack([part[rows].mean(axis=0) @ options for part in parts])
        by_kind[str(kind)] = {name: kind_use[:, k].tolist() for k, name in enumerate(names)}
    return {
        "configurations": {str(i): metrics.configuration_shares(test, part) for i, part in enumerate(parts)},
        "knob_use": {name: use[:, k].tolist() for k, name in enumerate(names)},
        "knob_use_by_kind": by_kind,
    }


def violations(test: Problem, shares: Shares, budgets_ms: Sequence[float]) -> dict[str, list[float | None]]:
    """Measured violation rate per contender and budget."""
    return {
        name: [metrics.violation_rate(test, part, b) for part, b in zip(parts, budgets_ms, strict=True)]
        for name, parts in shares.items()
    }


def equal_latency_gain(
    test: Problem, parts: Sequence[np.ndarray], hull: Hull, bootstrap: SceneBootstrap
) -> dict[str, Any]:
    """Accuracy less that of the best mix at the mean latency that was really reached, with intervals.

    The mixes are those of `hull` (chosen on train and validation); their latency and accuracy are those on `test`.
    """
    corner_ms, corner_accuracy = test.spent_ms[:, hull.columns], test.accuracy[:, hull.columns]
    reached_ms = np.stack([metrics.sample_latency(test, part) for part in parts], axis=1)
    accuracy = np.stack([metrics.sample_accuracy(test, part) for part in parts], axis=1)
    parts_of_columns = (corner_ms, corner_accuracy, reached_ms, accuracy)
    drawn = bootstrap.means(np.concatenate(parts_of_columns, axis=1))
    edges = np.cumsum([part.shape[1] for part in parts_of_columns])[:-1]
    gain = _gain_over_mix(*(part.mean(axis=0) for part in parts_of_columns))
    draws = np.stack([_gain_over_mix(*np.split(row, edges)) for row in drawn])
    return {"gain_at_equal_latency": numbers(gain), "gain_at_equal_latency_ci": pairs(interval(draws))}


def _gain_over_mix(
    corner_ms: np.ndarray, corner_accuracy: np.ndarray, reached_ms: np.ndarray, accuracy: np.ndarray
) -> np.ndarray:
    order = np.argsort(corner_ms, kind="stable")
    return accuracy - np.interp(reached_ms, corner_ms[order], corner_accuracy[order])


def full_accuracy_share(
    test: Problem, reached: Frontier, bootstrap: SceneBootstrap
) -> tuple[float | None, list[float] | None]:
    """The smallest share of full's mean latency with an accuracy not below full's, on a frontier, and its interval.

    None when no price reaches it; the interval counts only draws in which one does, if at least half do.
    """
    at_full = np.column_stack([test.accuracy[:, test.full], test.spent_ms[:, test.full]])
    columns = np.column_stack([reached.accuracy, reached.latency_ms, at_full]).astype(np.float64)
    point, drawn = columns.mean(axis=0)[None], bootstrap.means(columns)
    count = reached.accuracy.shape[1]

    def smallest(means: np.ndarray) -> np.ndarray:
        enough = means[:, :count] >= means[:, [-2]] - 1e-12
        share = np.where(enough, means[:, count : 2 * count], np.inf).min(axis=1) / means[:, -1]
        return np.where(np.isfinite(share), share, np.nan)

    return numbers(smallest(point))[0], pairs(interval(smallest(drawn))[:, None])[0]


def static_dots(test: Problem) -> list[dict[str, Any]]:
    """Accuracy and mean latency of every configuration on the test split, from the cheapest."""
    latency, accuracy = test.spent_ms.mean(axis=0), test.accuracy.mean(axis=0)
    return [
        {
            "action": int(test.actions[column]),
            "configuration": test.space.configuration(int(test.actions[column])),
            "accuracy": float(accuracy[column]),
            "latency_ms": float(latency[column]),
        }
        for column in np.argsort(latency, kind="stable")
    ]


def kinds(worth: Sequence[Problem], choices: Choices) -> dict[str, Any]:
    """Per kind of question: how many, and accuracy per kind of budget, contender and budget.

    `worth`: the test samples under each hard budget.
    """
    test, value = worth[0], {}
    modes = {"hard": (choices.hard, list(worth))}
    if choices.average:
        modes["average"] = (choices.average, [test] * len(next(iter(choices.average.values()))))
    for kind in np.unique(test.kind):
        rows = test.kind == kind
        value[str(kind)] = {
            "count": int(rows.sum()),
            "accuracy": {
                mode: {
                    name: [
                        float((part[rows] * problem.accuracy[rows]).sum(axis=1).mean())
                        for part, problem in zip(parts, problems, strict=True)
                    ]
                    for name, parts in shares.items()
                }
                for mode, (shares, problems) in modes.items()
            },
        }
    return value


def numbers(values: np.ndarray) -> list[float | None]:
    """Floats, None where NaN."""
    return [float(value) if np.isfinite(value) else None for value in values]


def pairs(ends: np.ndarray) -> list[list[float] | None]:
    """Intervals (2, k) as [low, high] each, None where NaN."""
    return [[float(low), float(high)] if np.isfinite(low + high) else None for low, high in ends.T]
