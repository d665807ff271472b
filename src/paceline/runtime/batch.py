"""A list of requests on one model: those that share a configuration run together, everybody's deadline in sight."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from paceline.budgets import parse_budget
from paceline.errors import InfeasibleBudgetError, PacelineError
from paceline.models.protocol import AnswersTogether, Generation, Overview
from paceline.runtime.answer import Answer, Overhead
from paceline.runtime.average import AverageBudget
from paceline.runtime.controller import Controller
from paceline.runtime.decision import Context, Decision, RejectedError
from paceline.runtime.planning import (
    ROUNDING_MS,
    Job,
    Step,
    allowances,
    first_allowance,
    group_fits,
    on_time,
)
from paceline.runtime.requests import Request, named_by_index

if TYPE_CHECKING:
    from paceline.runtime.adaptive import AdaptiveModel

LARGEST_GROUP = 32
"""Requests generated together at most: more do not go faster, and memory grows with each."""
GROWN = 1.05
"""A choice is made again when a request may take this many times longer than when it was made."""
NOT_CHOSEN = Step(work_ms=math.nan, latest_start_ms=math.nan)
"""Of a request before its first choice."""


class RejectedRequestsError(InfeasibleBudgetError):
    """Requests of a list that nothing fits and that asked for rejection; the others were answered first.

    `answers` has an entry per request in their order, None where it was rejected; `rejected` the errors by index.
    """

    def __init__(self, answers: Sequence[Answer | None], rejected: dict[int, RejectedError]) -> None:
        self.answers = tuple(answers)
        self.rejected = dict(sorted(rejected.items()))
        first, error = next(iter(self.rejected.items()))
        super().__init__(
            f"requests {list(self.rejected)} of {len(self.answers)} were rejected, the others are in this error's "
            f"`answers`; request {first}: {error}"
        )


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request on its way to its answer. Deadlines are in milliseconds since the call began."""

    index: int
    request: Request
    deadline_ms: float  # what is expected until the overview is there
    least_ms: float = math.nan  # upper latency of what leaves it the most time, the overview left out
    overview: Overview | None = None
    context: Context | None = None
    decision: Decision | None = None
    step: Step = NOT_CHOSEN  # its work under the chosen configuration
    allowed_ms: float = math.inf  # how long it could take when the decision was made
    spent: dict[str, float] = field(
        default_factory=dict
    )  # milliseconds by part of the overhead, and the overview's

    @property
    def chosen(self) -> Decision:
        """The decision of a request that has been looked at."""
        if self.decision is None:
            raise RuntimeError(f"request {self.index} has not been looked at")
        return self.decision

    @property
    def wants_rejection(self) -> bool:
        """Whether nothing fits it so far and it would rather be rejected."""
        return self.chosen.reason != "policy" and self.request.when_infeasible == "reject"

    def limits(self) -> tuple[float, float]:
        """Deadlines of the whole and of the first token; infinite: none."""
        chosen, waited = self.chosen, self.request.waited_ms
        whole, first = chosen.budget_ms, chosen.first_token_budget_ms
        return (
            math.inf if whole is None else whole - waited,
            math.inf if first is None else first - waited,
        )


class ListServing:
    """One call with a list of requests.

    Time is planned in steps. Each is either the overview of one more request or the generation of one group: the
    earliest deadline that can be met, and every request of the same choice that can come along without making anybody
    late. A group's time is bounded by the sum of its requests' upper latencies; after it the plan is made again from
    the clock, so that time saved goes to those still waiting. An overview is made while this makes nobody late and
    the request that comes next can still have the configuration chosen for it.
    """

    def __init__(
        self, adaptive: "AdaptiveModel", requests: Sequence[Request], stream: AverageBudget | None
    ) -> None:
        self._adaptive = adaptive
        self._controller: Controller = adaptive.controller
        self._stream = stream
        self._together = isinstance(adaptive.model, AnswersTogether)
        self._waiting = [
            _Waiting(index, request, _expected_deadline(request, self._controller))
            for index, request in enumerate(requests)
        ]
        self._waiting.sort(key=lambda waiting: waiting.deadline_ms)  # stable: of equals the first
        self._answers: list[Answer | None] = [None] * len(requests)
        self._rejected: dict[int, RejectedError] = {}
        self._started = adaptive.clock()
        self._accounted_ms = 0.0  # time so far that some request has in its answer

    def answers(self) -> list[Answer]:
        """Serve them all; in the order of the requests.

        Raises RejectedRequestsError when some were rejected, after the others are answered.
        """
        try:
            while self._waiting:
                self._next()
        except BaseException:
            for waiting in self._waiting:
                self._give_up(waiting)
            raise
        if self._rejected:
            raise RejectedRequestsError(self._answers, self._rejected)
        return [answer for answer in self._answers if answer is not None]

    def _now(self) -> float:
        return 1000.0 * (self._adaptive.clock() - self._started)

    @property
    def _overview_ms(self) -> float:
        return self._adaptive.drift.factor * self._controller.guard.overview_ms

    # The plan

    def _next(self) -> None:
        """One step: an overview, a rejection or a group."""
        now = self._now()
        order = on_time(self._jobs(), now)
        by_index = {waiting.index: waiting for waiting in self._waiting}
        line = [by_index[job.index] for job in order]
        unseen = [w for w in line if w.overview is None] or [w for w in self._waiting if w.overview is None]
        if unseen and self._may_look(line, order, unseen[0], now):
            self._look(unseen[0])
            return
        for waiting, allowed in zip(line, allowances(order, now), strict=True):
            if waiting.overview is not None:
                self._settle(waiting, allowed)
        planned = {waiting.index for waiting in line}
        late = [w for w in self._waiting if w.overview is not None and w.index not in planned]
        reserved = sum(job.least_ms for job in order if math.isfinite(job.deadline_ms))
        for waiting in late:
            if waiting.chosen.reason == "policy":
                self._decide(waiting, waiting.request.waited_ms + now + reserved, allowed=0.0)
        seen = [waiting for waiting in [*line, *late] if waiting.overview is not None]
        if not any(self._reject(waiting, now) for waiting in seen):
            self._generate(self._group(line, order, late, now))

    def _jobs(self) -> list[Job]:
        """Everybody still waiting; of those not looked at the least work is guessed from the others'."""
        seen = [waiting.least_ms for waiting in self._waiting if waiting.overview is not None]
        unseen_ms = self._overview_ms + (sum(seen) / len(seen) if seen else 0.0)
        return [
            Job(
                index=waiting.index,
                deadline_ms=waiting.deadline_ms,
                least_ms=unseen_ms if waiting.overview is None else waiting.least_ms,
            )
            for waiting in self._waiting
        ]

    def _may_look(self, line: list[_Waiting], order: list[Job], unseen: _Waiting, now: float) -> bool:
        """Whether after one more overview all in line are still in time and the next can have its configuration."""
        head = next((waiting for waiting in line if waiting.overview is not None), None)
        if head is None or line[0].overview is None:
            return True
        self._settle(head, first_allowance(order, now))
        looked = self._overview_ms
        after = [
            Job(index=job.index, deadline_ms=job.deadline_ms, least_ms=max(job.least_ms - looked, 0.0))
            if job.index == unseen.index
            else job
            for job in order
        ]
        if len(on_time(after, now + looked)) < len(after):
            return False
        return head.step.work_ms <= first_allowance(after, now + looked) + ROUNDING_MS

    def _group(
        self, line: list[_Waiting], order: list[Job], late: list[_Waiting], now: float
    ) -> list[_Waiting]:
        """Who is generated next: the first in line, and all of the same choice whom this makes nobody late."""
        steps = {
            waiting.index: Step(work_ms=job.least_ms, latest_start_ms=job.deadline_ms - job.least_ms)
            if waiting.overview is None
            else waiting.step
            for waiting, job in zip(line, order, strict=True)
        }
        for waiting in late:
            steps[waiting.index] = Step(work_ms=waiting.step.work_ms, latest_start_ms=math.inf)
        seen = [w for w in [*line, *late] if w.overview is not None]
        candidates = [w for w in seen if not w.wants_rejection]
        if not candidates:  # it fits now, alone
            head = seen[0]
            self._decide(head, head.request.waited_ms + now, allowed=head.deadline_ms - now)
            return [head]
        head, group = candidates[0], [candidates[0]]
        for waiting in candidates[1:] if self._together else []:
            if len(group) == LARGEST_GROUP:
                break
            alike = (
                waiting.chosen.action == head.chosen.action
                and waiting.request.max_new_tokens == head.request.max_new_tokens
            )
            if not alike:
                continue
            wider = {w.index for w in [*group, waiting]}
            after = [steps[w.index] for w in line if w.index not in wider]
            if group_fits([steps[index] for index in wider], after, now):
                group.append(waiting)
        return group

    # One request

    def _look(self, waiting: _Waiting) -> None:
        """Its overview, and a first choice with all the time that it has."""
        before = self._now()
        try:
            waiting.overview = self._adaptive.model.overview(waiting.request.image, waiting.request.prompt)
            waiting.spent["overview"] = self._now() - before
            waiting.context, workloads_ms, features_ms = self._adaptive.context(waiting.overview)
            waiting.spent |= {"workloads": workloads_ms, "features": features_ms, "decision": 0.0}
            now = self._now()
            self._accounted_ms += now - before
            self._decide(waiting, waiting.request.waited_ms + now, allowed=math.inf)
        except PacelineError as error:
            raise named_by_index(error, waiting.index) from error
        waiting.allowed_ms = waiting.deadline_ms - now

    def _settle(self, waiting: _Waiting, allowed_ms: float) -> None:
        """Its choice for the time it may take; the one it has stands if it fits and there is not much more time."""
        chosen = waiting.chosen
        fits = waiting.step.work_ms <= allowed_ms + ROUNDING_MS
        if chosen.reason == "policy" and fits and allowed_ms <= GROWN * waiting.allowed_ms:
            return
        if math.isinf(allowed_ms):
            return
        # Less the tolerance of plans: else rounding could make the least work infeasible where it just fits.
        spent = waiting.request.waited_ms + waiting.deadline_ms - allowed_ms - 2.0 * ROUNDING_MS
        elapsed = max(spent, 0.0)
        self._decide(waiting, elapsed, allowed=allowed_ms)

    def _decide(self, waiting: _Waiting, elapsed_ms: float, *, allowed: float) -> None:
        """Choose, with `elapsed_ms` spent or set aside for others; one reservation in the stream at any time."""
        before, request = self._now(), waiting.request
        if waiting.context is None:
            raise RuntimeError(f"request {waiting.index} has not been looked at")
        self._give_up(waiting)
        decision = self._controller.decide(
            waiting.context,
            **request.budgets,
            average=self._stream,
            elapsed_ms=elapsed_ms,
            slowdown=self._adaptive.drift.factor,
            when_infeasible="cheapest" if request.when_infeasible == "reject" else request.when_infeasible,
        )
        if self._stream is not None:
            self._stream.reserve(decision.predicted_ms)
        waiting.decision, waiting.allowed_ms = decision, allowed
        overview_ms, (whole, first) = self._overview_ms, waiting.limits()
        seen = decision.candidates
        work = np.maximum(seen.upper_ms - overview_ms, 0.0)
        starts = np.minimum(whole - work, first - np.maximum(seen.first_upper_ms - overview_ms, 0.0))
        waiting.step = Step(work_ms=float(work[seen.chosen]), latest_start_ms=float(starts[seen.chosen]))
        best = int(np.argmin(work) if math.isinf(min(whole, first)) else np.argmax(starts))
        waiting.least_ms = float(work[best])
        waiting.deadline_ms = float(starts[best]) + waiting.least_ms
        took = self._now() - before
        waiting.spent["decision"] += took
        self._accounted_ms += took

    def _give_up(self, waiting: _Waiting) -> None:
        """Take back what is reserved for it."""
        if self._stream is not None and waiting.decision is not None:
            self._stream.cancel(waiting.decision.predicted_ms)
        waiting.decision = None

    def _reject(self, waiting: _Waiting, now: float) -> bool:
        """Reject it if it wants that and cannot be in time even as the next and alone; else it waits for time saved."""
        if waiting.context is None or not waiting.wants_rejection:
            return False
        try:
            self._controller.decide(
                waiting.context,
                **waiting.request.budgets,
                average=self._stream,
                elapsed_ms=waiting.request.waited_ms + now,
                slowdown=self._adaptive.drift.factor,
                when_infeasible="reject",
            )
        except RejectedError as error:
            self._rejected[waiting.index] = error
            self._give_up(waiting)
            self._waiting.remove(waiting)
            return True
        return False

    def _generate(self, group: list[_Waiting]) -> None:
        """Answer a group; it ends for all of them at once."""
        before = self._now()
        generations = self._generations(group)
        ended = self._now()
        planning = (before - self._accounted_ms) / len(group)
        self._accounted_ms = ended
        predicted = [waiting.chosen.predicted_ms for waiting in group]
        for waiting, generation in zip(group, generations, strict=True):
            decision, spent = waiting.chosen, waiting.spent
            overhead = Overhead(
                features_ms=spent["features"],
                workloads_ms=spent["workloads"],
                decision_ms=spent["decision"],
                bookkeeping_ms=planning,
            )
            own = spent["overview"] + overhead.total_ms
            share = own + (ended - before) * decision.predicted_ms / sum(predicted)
            if len(group) == 1:  # a share of a group's time says nothing about the machine
                self._adaptive.drift.update(
                    measured_ms=share, predicted_ms=decision.predicted_ms / decision.slowdown
                )
            if self._stream is not None:
                self._stream.record(predicted_ms=decision.predicted_ms, measured_ms=share)
            self._waiting.remove(waiting)
            self._answers[waiting.index] = Answer(
                text=generation.text,
                tokens=generation.tokens,
                finish_reason=generation.finish_reason,
                configuration=decision.configuration,
                latency_ms=ended,
                first_token_ms=before + generation.timings.first_token_ms,
                overview_ms=spent["overview"],
                overhead=overhead,
                waited_ms=waiting.request.waited_ms,
                timings=generation.timings,
                workload=generation.workload,
                decision=decision,
                group=len(group),
                others_ms=max(before - own, 0.0),
            )

    def _generations(self, group: list[_Waiting]) -> list[Generation]:
        model, first = self._adaptive.model, group[0]
        configuration, length = first.chosen.configuration, first.request.max_new_tokens
        overviews = [waiting.overview for waiting in group if waiting.overview is not None]
        try:
            if len(group) == 1 or not isinstance(model, AnswersTogether):
                return [model.generate(overview, configuration, length) for overview in overviews]
            return model.generate_together(overviews, configuration, length)
        except PacelineError as error:
            raise named_by_index(error, first.index) from error


def _expected_deadline(request: Request, controller: Controller) -> float:
    """When a request is due, before its overview: shares and classes are of the profile's full latency."""
    full_ms = controller.policy.spec.full_latency_ms * controller.scale
    limits = [
        float(limit) for limit in (request.budget_ms, request.first_token_budget_ms) if limit is not None
    ]
    if request.budget is not None:
        classes = {name: share * full_ms for name, share in controller.guard.classes.items()}
        limits.append(parse_budget(request.budget, full_ms=full_ms, classes=classes))
    return min(limits, default=math.inf) - request.waited_ms
