"""Which of several waiting requests can meet their deadlines on one model, and how long each may take. Pure functions.

One request after the other, earliest deadline first (Jackson 1955); where not all can be met, the longest is left out
(Moore 1968), so that as many as possible are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ROUNDING_MS = 1e-6
"""Plans are sums of many times: deadlines missed by less than this are met."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A waiting request as the planner sees it. Times in milliseconds, deadlines since the call began."""

    index: int
    deadline_ms: float  # infinite: none
    least_ms: float  # upper bound on its work, done as cheaply as it can be


def on_time(jobs: Sequence[Job], now_ms: float) -> list[Job]:
    """The most jobs that meet their deadlines from now on, one after the other, in this order.

    >>> jobs = [Job(index=i, deadline_ms=d, least_ms=w) for i, (d, w) in enumerate([(10, 8), (9, 3), (12, 4)])]
    >>> [job.index for job in on_time(jobs, now_ms=0)]  # all three take 15
    [1, 2]
    """
    kept: list[Job] = []
    end_ms = now_ms
    for job in sorted(jobs, key=lambda job: (job.deadline_ms, job.index)):
        kept.append(job)
        end_ms += job.least_ms
        if end_ms > job.deadline_ms + ROUNDING_MS:
            longest = max(kept, key=lambda job: job.least_ms)
            kept.remove(longest)
            end_ms -= longest.least_ms
    return kept


def allowances(jobs: Sequence[Job], now_ms: float) -> list[float]:
    """How long each job may take so that all meet their deadlines; `jobs` as `on_time` orders them.

    Each gets its least work and an equal share of the slack before the deadline that leaves it the least share.

    >>> jobs = [Job(index=i, deadline_ms=40, least_ms=w) for i, w in enumerate([10, 5])]
    >>> allowances(jobs, now_ms=5)  # 20 ms of slack for two
    [20.0, 15.0]
    """
    least = np.array([job.least_ms for job in jobs])
    work = np.cumsum(least)
    slack = np.array([job.deadline_ms for job in jobs]) - work
    counts = np.arange(1, len(jobs) + 1)
    allowed, start_ms = [], now_ms
    for place, least_ms in enumerate(least.tolist()):
        before = work[place] - least_ms - start_ms
        share = float(np.min((slack[place:] + before) / counts[: len(jobs) - place]))
        allowed.append(least_ms + max(share, 0.0))
        start_ms += allowed[-1]
        if math.isinf(start_ms):  # nobody from here on has a deadline
            return allowed + [math.inf] * (len(jobs) - len(allowed))
    return allowed


def first_allowance(jobs: Sequence[Job], now_ms: float) -> float:
    """What `allowances` gives the first job."""
    work = np.cumsum([job.least_ms for job in jobs])
    slack = np.array([job.deadline_ms for job in jobs]) - now_ms - work
    return jobs[0].least_ms + max(float(np.min(slack / np.arange(1, len(jobs) + 1))), 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A job with its work chosen."""

    work_ms: float  # upper bound
    latest_start_ms: float  # to meet its deadlines; infinite: none


def group_fits(group: Sequence[Step], after: Sequence[Step], now_ms: float) -> bool:
    """Whether `group`, run together from now, and then `after`, one by one, are all in time.

    Running together takes at most as long as one after the other, and everybody returns at the end: for each member
    the others' work may come before its own.
    """
    total_ms = sum(step.work_ms for step in group)
    if any(now_ms + total_ms - step.work_ms > step.latest_start_ms + ROUNDING_MS for step in group):
        return False
    start_ms = now_ms + total_ms
    for step in after:
        if start_ms > step.latest_start_ms + ROUNDING_MS:
            return False
        start_ms += step.work_ms
    return True
