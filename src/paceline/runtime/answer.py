"""An answer, and what was added to the model's own time to make it."""

from dataclasses import dataclass

from paceline.knobs import Configuration
from paceline.models.protocol import Timings, Workload
from paceline.runtime.decision import Decision


@dataclass(frozen=True, kw_only=True, slots=True)
class Overhead:
    """What a request takes beside the model's overview and generation, in milliseconds.

    The overview is none of it: the model needs it with or without a controller.
    """

    features_ms: float  # reading the features that the policy uses
    workloads_ms: float  # tiles and tokens of every configuration
    decision_ms: float  # from there to a configuration
    bookkeeping_ms: float  # checks of the arguments, average budget and drift

    @property
    def total_ms(self) -> float:
        """All of it."""
        return self.features_ms + self.workloads_ms + self.decision_ms + self.bookkeeping_ms


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One answer, what it took and why it was made this way. Times in milliseconds."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: str  # "stop" or "length"
    configuration: Configuration
    latency_ms: (
        float  # the whole call: overview, decision and generation; of a list: until its own group's end
    )
    first_token_ms: float  # from the start of the call
    overview_ms: float
    overhead: Overhead
    waited_ms: float  # time the caller had spent before the call; it counts towards the budgets
    timings: Timings  # phases of the generation, of the whole group where several were answered together
    workload: Workload
    decision: Decision
    group: int = 1  # requests of a list that were generated together with it, itself included
    others_ms: float = (
        0.0  # time within `latency_ms` that went to other requests of the list before its own group
    )

    @property
    def overhead_ms(self) -> float:
        """What the controller added."""
        return self.overhead.total_ms

    @property
    def within_budget(self) -> bool | None:
        """Whether every hard budget was met; None without one."""
        limits = [
            (self.decision.budget_ms, self.latency_ms),
            (self.decision.first_token_budget_ms, self.first_token_ms),
        ]
        met = [self.waited_ms + took <= limit for limit, took in limits if limit is not None]
        return all(met) if met else None
