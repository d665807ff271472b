"""Results objects as `compare` writes them: all learners with seeds, runtimes with PAR10, cross-validated folds."""

from typing import Any

import numpy as np

from paceline.evaluation.jobs import CONTENDER
from paceline.learning.learners.registry import LEARNERS
from synthetic_results import make_results

GAPS = {
    "paceline": 0.46, "grpo_teacher": 0.48, "stacking": 0.45, "grpo_warm": 0.35, "grpo_scratch": 0.22, "ppo": 0.18,
    "dpo": 0.12, "supervised": 0.05, "outcome": 0.33, "lightgbm": 0.39, "voting": 0.30, "knn": 0.25, "kmeans": 0.20,
    "lookup": 0.10, "full": -0.4, "cheapest": -3.1, "random": -1.2, "best_static": 0.0, "oracle": 1.0,
}  # fmt: skip
"""Mean closed gap of every contender there is."""
BUDGETS = 6
SEEDS = 3


def closed_gaps(names: Any = GAPS, budgets: int = BUDGETS) -> dict[str, Any]:
    """As `evaluation.results.closed_gaps` gives them; the first budget has no gap to close."""
    value: dict[str, Any] = {}
    for name in names:
        gap = GAPS[name]
        by_budget = [None, *[gap] * (budgets - 1)] if budgets > 1 else [gap]
        value[name] = {"by_budget": by_budget, "mean": gap, "mean_ci": [gap - 0.06, gap + 0.05]}
        if name != "lightgbm" and "lightgbm" in names:
            over = gap - GAPS["lightgbm"]
            value[name] |= {"over_lightgbm": over, "over_lightgbm_ci": [over - 0.03, over + 0.02]}
    return value


def costs(learners: tuple[str, ...] = LEARNERS) -> dict[str, Any]:
    """Training seconds and decision microseconds that differ from learner to learner."""
    return {
        CONTENDER.get(name, name): {
            "learner": name,
            "training_s": 0.25 + 10 * k,
            "decision_us": 50.0 + 1000 * k,
        }
        for k, name in enumerate(learners)
    }


def all_learners(count: int = 120) -> dict[str, Any]:
    """Both kinds of budget, all contenders, three seeds."""
    results = make_results(count)
    for mode in ("hard", "average"):
        section = results[mode]
        low, high = (np.array(section["accuracy"][name]) for name in ("best_static", "oracle"))
        section["accuracy"] |= {
            name: (low + gap * (high - low)).clip(0, 1).tolist() for name, gap in GAPS.items()
        }
        section["closed_gaps"] = closed_gaps()
    results["learners"] = costs()
    names = sorted(results["learners"])
    spread = {
        name: {
            "closed_gap": [GAPS[name] - 0.02, GAPS[name], GAPS[name] + 0.02],
            "mean": GAPS[name],
            "std": 0.02,
        }
        for name in names
    }
    curves = {name: [[0.1, 0.2 + 0.1 * seed] for seed in range(SEEDS)] for name in ("ppo", "dpo")}
    curves["grpo"] = [[] for _ in range(SEEDS)]  # the student keeps none
    results["stability"] = {"hard": spread, "average": spread, "curves": curves}
    return results


def cross_validated(count: int = 120) -> dict[str, Any]:
    """Two folds of all learners; no training histories, no overhead, no frontiers."""
    results = all_learners(count)
    for key in (
        "stability",
        "overhead",
        "latency_share_at_full_accuracy",
        "latency_share_at_full_accuracy_ci",
    ):
        del results[key]
    for mode in ("hard", "average"):
        for key in ("static_feasible", "gain_at_equal_latency", "gain_at_equal_latency_ci"):
            results[mode].pop(key, None)
    fold = {"closed_gaps": {mode: closed_gaps() for mode in ("hard", "average")}}
    results["folds"] = [{"fold": name, "samples": count // 2, **fold} for name in ("coco", "text <b>")]
    results["samples"] = {"test": count, "folds": 2}
    return results


def runtimes(count: int = 120) -> dict[str, Any]:
    """Times known only afterwards: deadlines and PAR10, neither average budgets nor latencies."""
    results = all_learners(count)
    del results["average"], results["stability"]["average"]
    for key in ("latency_share_at_full_accuracy", "latency_share_at_full_accuracy_ci"):
        del results[key]
    for metric in ("mean_latency_ms", "p50_latency_ms", "p95_latency_ms", "violation_rate"):
        del results["hard"][metric]
    for kind in results["kinds"].values():
        del kind["accuracy"]["average"]
    times = {name: 1000.0 - 500.0 * gap for name, gap in GAPS.items()}
    results["par10"] = {
        "par10_s": times,
        "par10_s_ci": {name: [time - 90.0, time + 80.0] for name, time in times.items()},
        "solved": dict.fromkeys(GAPS, 0.875),
        "closed_gaps": closed_gaps(budgets=1),
    }
    return results
