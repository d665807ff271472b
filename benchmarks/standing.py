"""Who stands where over many tables: means, the teacher against LightGBM, the student against its teacher, rivals."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

Gaps: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Table and kind of budget -> contender -> closed gap with intervals, as results objects have it."""

TEACHER, STUDENT = "grpo_teacher", "paceline"
OTHERS = ("ppo", "dpo", "supervised", "knn", "kmeans", "lookup")


def standing(gaps: Gaps) -> dict[str, Any]:
    """Over all of `gaps`: mean closed gaps, and where intervals say that somebody is above somebody else.

    A contender is above LightGBM where the interval of their paired difference is above 0; of two other contenders one
    is above where their own intervals do not overlap.
    """
    names = set.intersection(*(set(values) for values in gaps.values()))
    means = {name: float(np.mean([values[name]["mean"] for values in gaps.values()])) for name in names}
    value: dict[str, Any] = {
        "mean_closed_gap": dict(sorted(means.items(), key=lambda item: -item[1])),
        "against_lightgbm": {
            name: {
                table: _told(values[name]["over_lightgbm_ci"])
                for table, values in gaps.items()
                if values[name].get("over_lightgbm_ci") is not None
            }
            for name in sorted(names - {"lightgbm"})
        },
    }
    if {TEACHER, STUDENT} <= names:
        value["student_share_of_teacher"] = means[STUDENT] / means[TEACHER]
        value["against_others"] = {
            own: {
                other: {
                    table: _apart(values[own]["mean_ci"], values[other]["mean_ci"])
                    for table, values in gaps.items()
                }
                for other in OTHERS
                if other in names
            }
            for own in (TEACHER, STUDENT)
        }
    return value


def markdown(gaps: Gaps) -> str:
    """Closed gaps as a Markdown table: a row per contender in order of the mean, a column per table."""
    means = standing(gaps)["mean_closed_gap"]
    header = ["learner", *gaps, "mean"]
    rows = [
        [name, *(f"{values[name]['mean']:.3f}" for values in gaps.values()), f"{mean:.3f}"]
        for name, mean in means.items()
    ]
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _told(difference: list[float]) -> str:
    low, high = difference
    return "above" if low > 0 else "below" if high < 0 else "tied"


def _apart(own: list[float], other: list[float]) -> str:
    return "above" if own[0] > other[1] else "below" if own[1] < other[0] else "overlapping"
