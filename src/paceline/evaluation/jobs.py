"""Fit some learners and make their choices: what runs in a process of its own where asked."""

import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context

import numpy as np

from paceline.evaluation.choices import Budgets, Choices, contender_choices
from paceline.learning.learners.contender import Contender
from paceline.learning.learners.registry import FittedLearners, fit_learners, jobs_of
from paceline.learning.learners.task import LearnerTask
from paceline.learning.problem import Problem
from paceline.learning.progress import Progress, SilentProgress
from paceline.learning.trained import TrainedPolicy

TIMED_DECISIONS = 30

CONTENDER = {"grpo": "paceline"}
"""Learner -> name of its contender in the results where they differ."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LearnerJob:
    """Learners to fit together, and what they are asked."""

    task: LearnerTask
    names: tuple[str, ...]
    budgets: Budgets
    test: Problem  # also in task.asked


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class JobResult:
    """What came of a job; arrays and numbers alone, so that it can cross processes."""

    choices: Choices  # by the names of the results
    seconds: dict[str, float]  # of training, by learner
    decision_us: dict[str, float]  # of one decision at batch 1, by learner
    policies: dict[str, TrainedPolicy]  # by learner

    def beside(self, other: "JobResult") -> "JobResult":
        """Both together."""
        return JobResult(
            choices=self.choices.beside(other.choices),
            seconds=self.seconds | other.seconds,
            decision_us=self.decision_us | other.decision_us,
            policies=self.policies | other.policies,
        )


def run_job(job: LearnerJob) -> JobResult:
    """Fit and choose."""
    return judge_fitted(fit_learners(job.task, job.names), job)


def judge_fitted(fitted: FittedLearners, job: LearnerJob) -> JobResult:
    """The choices of learners that are fitted."""
    contenders = {CONTENDER.get(name, name): contender for name, contender in fitted.contenders.items()}
    return JobResult(
        choices=contender_choices(contenders, job.task.validation, job.test, job.budgets),
        seconds=fitted.seconds,
        decision_us={
            name: fitted.decision_us.get(name) or decision_us(contender, job.test, job.budgets.hard_ms)
            for name, contender in fitted.contenders.items()
        },
        policies=fitted.policies,
    )


def run_jobs(
    tasks: Sequence[LearnerTask],
    tests: Sequence[Problem],
    names: tuple[str, ...],
    budgets: Budgets,
    processes: int,
    progress: Progress,
) -> list[JobResult]:
    """The result of every task with all learners, in order; `processes` jobs run at the same time."""
    jobs = [
        (index, LearnerJob(task=task, names=group, budgets=budgets, test=test))
        for index, (task, test) in enumerate(zip(tasks, tests, strict=True))
        for group in jobs_of(names)
    ]
    done: dict[int, JobResult] = {}  # by place among the jobs: who was done first must not matter
    if processes == 1:
        for place, (_, job) in enumerate(jobs):
            done[place] = run_job(job)
    else:
        progress.start(len(jobs), "learners")
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
            quiet = [replace(job, task=replace(job.task, progress=SilentProgress())) for _, job in jobs]
            waiting = {pool.submit(run_job, job): place for place, job in enumerate(quiet)}
            try:
                for found in as_completed(waiting):
                    done[waiting[found]] = found.result()
                    progress.advance()
            except BaseException:  # an error or Ctrl-C: nobody waits for what the others were doing
                pool.shutdown(wait=False, cancel_futures=True)
                for child in active_children():
                    child.terminate()
                    child.join()
                raise
    empty = JobResult(choices=Choices(hard={}), seconds={}, decision_us={}, policies={})
    parts = [
        [done[place] for place, (owner, _) in enumerate(jobs) if owner == index]
        for index in range(len(tasks))
    ]
    return [_together(part, empty) for part in parts]


def _together(parts: list[JobResult], start: JobResult) -> JobResult:
    for part in parts:
        start = start.beside(part)
    return start


def decision_us(contender: Contender, test: Problem, budgets_ms: Sequence[float]) -> float:
    """Median time of choosing for one sample, in microseconds."""
    rows = [test.select(np.array([row % test.samples])) for row in range(TIMED_DECISIONS + 3)]
    seconds = []
    for index, row in enumerate(rows):
        budget = budgets_ms[index % len(budgets_ms)]
        start = time.perf_counter()
        contender.choose(row, budget, 0.0)
        seconds.append(time.perf_counter() - start)
    return 1e6 * float(np.median(seconds[3:]))


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
