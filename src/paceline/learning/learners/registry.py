"""All learners by name, and what one run of each gives."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from paceline.errors import TrainError
from paceline.learning.learners.contender import Contender
from paceline.learning.learners.policy_contender import policy_contender
from paceline.learning.learners.reference import fit_family
from paceline.learning.learners.simple import VotingForest, fit_kmeans, fit_knn, fit_trees
from paceline.learning.learners.task import LearnerTask
from paceline.learning.options import TrainOptions
from paceline.learning.train import train_controller_policy
from paceline.learning.trained import TrainedPolicy

FAMILY = ("grpo", "grpo_teacher", "stacking")
"""Given by one run: the teacher is fitted once."""
NETWORKS = ("grpo_warm", "grpo_scratch", "ppo", "dpo", "supervised", "outcome")
SIMPLE: dict[str, Callable[[LearnerTask], Contender]] = {
    "lightgbm": fit_trees,
    "voting": VotingForest,
    "knn": fit_knn,
    "kmeans": fit_kmeans,
}
LEARNERS = (*FAMILY, *NETWORKS, *SIMPLE)
"""In the order of the tables."""
DESCRIPTIONS = {
    "grpo": "student of the teacher: one small network decides (default)",
    "grpo_teacher": "stacked outcome models, optimised group-relatively by a residual",
    "stacking": "the mean of the same outcome models, without policy optimisation",
    "grpo_warm": "GRPO of a network after outcome prediction",
    "grpo_scratch": "GRPO of a network from random weights, groups of sampled actions",
    "ppo": "proximal policy optimisation with a value network",
    "dpo": "direct preference optimisation on pairs of a group",
    "supervised": "the best feasible configuration as a label",
    "outcome": "a network predicts accuracies, the highest is chosen",
    "lightgbm": "gradient-boosted trees predict accuracies, the highest is chosen",
    "voting": "trees vote on pairs of configurations",
    "knn": "mean accuracies of the nearest samples",
    "kmeans": "mean accuracies of the nearest cluster",
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FittedLearners:
    """Contenders by learner, with what their training took."""

    contenders: dict[str, Contender]
    seconds: dict[str, float]
    policies: dict[str, TrainedPolicy]  # of those that a controller can be made of
    decision_us: dict[str, float] = field(default_factory=dict)  # where it was measured while fitting


def parse_learners(text: str) -> tuple[str, ...]:
    """Names separated by commas, or "all".

    >>> parse_learners("knn, grpo")
    ('knn', 'grpo')
    """
    names = tuple(name.strip() for name in text.split(","))
    if names == ("all",):
        return LEARNERS
    unknown = [name for name in names if name not in LEARNERS]
    if unknown or len(set(names)) != len(names):
        raise TrainError(
            f"learners: got {text!r}, expected 'all' or some of {', '.join(LEARNERS)}, each once"
        )
    return names


def check_options(learners: tuple[str, ...], options: TrainOptions) -> None:
    """Raise TrainError for options that one of the learners cannot have."""
    for name in learners:
        if name not in SIMPLE:
            replace(options, algorithm="grpo" if name in FAMILY else name)


def jobs_of(learners: tuple[str, ...]) -> list[tuple[str, ...]]:
    """What can run apart: the family in one job, every other learner in its own.

    >>> jobs_of(("stacking", "knn", "grpo"))
    [('stacking', 'grpo'), ('knn',)]
    """
    family = tuple(name for name in learners if name in FAMILY)
    others = [(name,) for name in learners if name not in FAMILY]
    return [family, *others] if family else others


def fit_learners(task: LearnerTask, names: tuple[str, ...]) -> FittedLearners:
    """Fit one job of `jobs_of`."""
    started = time.perf_counter()
    if names[0] in FAMILY:
        return _fit_family(task, names)
    (name,) = names
    if name in SIMPLE:
        contenders = {name: SIMPLE[name](task)}
        return FittedLearners(
            contenders=contenders, seconds={name: time.perf_counter() - started}, policies={}
        )
    policy = train_controller_policy(
        task.table, task.latency, replace(task.options, algorithm=name), progress=task.progress
    )
    return from_policy(name, policy, task, time.perf_counter() - started)


def from_policy(name: str, policy: TrainedPolicy, task: LearnerTask, seconds: float) -> FittedLearners:
    """What a policy that was trained elsewhere contends with."""
    contender = policy_contender(policy.numpy_policy(), task.table.actions, scale=task.latency.scale)
    return FittedLearners(contenders={name: contender}, seconds={name: seconds}, policies={name: policy})


def _fit_family(task: LearnerTask, names: tuple[str, ...]) -> FittedLearners:
    family = fit_family(replace(task, options=replace(task.options, algorithm="grpo")))
    student = policy_contender(
        family.run.student.numpy_policy(), task.table.actions, scale=task.latency.scale
    )
    contenders = {"grpo": student, "grpo_teacher": family.teacher, "stacking": family.stacking}
    spent = family.run.seconds
    seconds = {
        "grpo": sum(spent.values()),
        "grpo_teacher": spent["stacking"] + spent["residual"],
        "stacking": spent["stacking"],
    }
    return FittedLearners(
        contenders={name: contenders[name] for name in names},
        seconds={name: seconds[name] for name in names},
        policies={"grpo": family.run.student} if "grpo" in names else {},
        decision_us={name: family.run.teacher.decision_us for name in names if name != "grpo"},
    )
