"""How much a learner's result depends on its seed."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from paceline.evaluation.choices import averaged_choices, baseline_choices
from paceline.evaluation.contest import ContestOptions, Grid, judge
from paceline.evaluation.jobs import JobResult
from paceline.learning.learners.task import LearnerTask
from paceline.learning.problem import Problem

MODES = ("hard", "average", "par10")


def stability(
    task: LearnerTask, test: Problem, runs: Sequence[JobResult], grid: Grid, options: ContestOptions
) -> dict[str, Any]:
    """Mean closed gap of every learner by kind of budget and seed, with its mean and standard deviation.

    {"hard": {contender: {"closed_gap": [one per seed], "mean": x, "std": y}}, ...}; and under "curves" the validation
    rewards of those learners that keep them, one list per seed. "over_seeds" has the closed gaps, with intervals, of
    what a seed picked by chance would choose: the chance of training is averaged out of them.
    """
    base = baseline_choices(task.fit, test, grid.budgets(options.violation_rate))
    judged = [judge(task.fit, test, base.beside(run.choices), grid, options) for run in runs]
    value: dict[str, Any] = spreads(judged, set(base.hard))
    together = base.beside(averaged_choices([run.choices for run in runs]))
    averaged = judge(task.fit, test, together, grid, options)
    value["over_seeds"] = {mode: averaged[mode]["closed_gaps"] for mode in MODES if mode in averaged}
    value["curves"] = {
        name: [
            [
                entry["validation_reward"]
                for entry in run.policies[name].history
                if "validation_reward" in entry
            ]
            for run in runs
        ]
        for name in runs[0].policies
    }
    return value


def spreads(judged: Sequence[Mapping[str, Any]], baselines: Collection[str]) -> dict[str, Any]:
    """By kind of budget and learner: the mean closed gap of every run, their mean and their standard deviation."""
    return {
        mode: {
            name: _spread([one[mode]["closed_gaps"][name]["mean"] for one in judged])
            for name in sorted(set(judged[0][mode]["closed_gaps"]) - set(baselines))
        }
        for mode in MODES
        if mode in judged[0]
    }


def _spread(values: list[float]) -> dict[str, Any]:
    return {"closed_gap": values, "mean": float(np.mean(values)), "std": float(np.std(values, ddof=1))}
