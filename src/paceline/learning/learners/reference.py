"""The family of GRPO on a reference policy: plain stacking, the teacher, and the student that decides."""

from dataclasses import dataclass

import numpy as np

from paceline.learning.learners.contender import Contender, ValueContender
from paceline.learning.learners.task import LearnerTask
from paceline.learning.problem import Problem
from paceline.learning.reference.teacher import Teacher
from paceline.learning.reference.training import HeldOut, ReferenceRun, train_reference


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FittedFamily:
    """What one run of the family gives."""

    stacking: Contender
    teacher: Contender
    run: ReferenceRun


def fit_family(task: LearnerTask) -> FittedFamily:
    """Fit the teacher and its student; the teacher answers for the samples that the task will be asked."""
    held_out = HeldOut(task.table, task.latency, task.options, task.inputs)
    run = train_reference(
        task.train,
        task.asked,
        task.deadlines_ms,
        task.inputs,
        task.input_spec,
        task.preparation,
        task.options,
        task.progress,
        measure=held_out if task.train.cutoff_ms is None else None,
    )
    teacher = run.teacher

    def stacked(problem: Problem, budget_ms: float | None) -> np.ndarray:
        return teacher.channel(budget_ms).stacked_values(_part(problem, task))

    def taught(problem: Problem, budget_ms: float | None) -> np.ndarray:
        prepared = task.inputs.prepare(problem.features)
        return teacher.channel(budget_ms).values(_part(problem, task), prepared, _told(teacher, budget_ms))

    return FittedFamily(stacking=ValueContender(stacked), teacher=ValueContender(taught), run=run)


def _part(problem: Problem, task: LearnerTask) -> int:
    for index, asked in enumerate(task.asked):
        if asked is problem:
            return index
    raise ValueError("teacher: expected one of the problems that the task named in `asked`")


def _told(teacher: Teacher, budget_ms: float | None) -> float | None:
    """Residual policies of a single channel read the budget; those of deadlines have one each."""
    return budget_ms if len(teacher.channels) == 1 else None
