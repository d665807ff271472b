"""The controller: a policy, a latency estimate and a guard that choose a configuration per request. numpy only."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any, SupportsFloat

import numpy as np
from numpy.typing import ArrayLike

from paceline.budgets import checked_ms, parse_budget
from paceline.errors import ControllerError, PromptError
from paceline.knobs import Configuration, KnobSpace
from paceline.latency.estimate import LatencyEstimator
from paceline.latency.quantity import LATENCY, Quantity
from paceline.outcomes.feature_makers import TEXT, feature_maker
from paceline.outcomes.table import OutcomeTable
from paceline.policies.numpy_policy import NumpyPolicy
from paceline.policies.text_features import TextFeatures
from paceline.runtime.average import AverageBudget, PriceTable
from paceline.runtime.decision import (
    Candidates,
    Context,
    Decision,
    Reason,
    RejectedError,
    check_counts,
    check_number,
    check_when_infeasible,
)
from paceline.runtime.exports import Exports
from paceline.runtime.guard import Guard, Trained
from paceline.runtime.hard_budgets import HardBudgets
from paceline.runtime.many import BatchDecision, ContextBatch, decide_batch
from paceline.runtime.verdicts import rejection
from paceline.runtime.weighing import Limits, ScoredWeigher, Times, Weigher

KEPT_WORKLOADS = 256
"""Distinct workloads whose predicted times are kept; one per image size and prompt length."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Controller:
    """Chooses the configuration that is most likely to answer well within the budget.

    Immutable apart from a cache; one instance serves any number of threads. Get one with `load` or
    `from_training`; `decide` needs numpy alone and takes one or a few tens of microseconds.
    """

    space: KnobSpace
    policy: NumpyPolicy
    latency: LatencyEstimator  # of the whole call, overview included
    first_token_latency: LatencyEstimator  # from the start of the call, overview included
    guard: Guard
    prices: PriceTable
    block_ranking: tuple[int, ...] = ()  # order in which blocks are kept; empty: the model's own
    metrics: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    clock: Callable[[], float] = time.perf_counter  # seconds
    exports: Exports | None = None  # files that `paceline export` wrote
    text_features: TextFeatures | None = None  # where a request is no more than a text
    make_weigher: "Callable[[Controller], Weigher] | None" = field(default=None, repr=False)  # None: numpy
    actions: np.ndarray = field(init=False, repr=False)  # int64 (m,): what it chooses from, ascending
    weigher: Weigher = field(init=False, repr=False)  # what computes a decision
    quantity: Quantity = field(init=False, repr=False)  # what budgets are in: latencies, runtimes or costs
    _action_ids: list[int] = field(init=False, repr=False)  # `actions` as plain numbers
    _columns: tuple[int | None, int | None] = field(init=False, repr=False)  # of the policy's features
    _plain: bool = field(init=False, repr=False)  # whether budgets are latencies
    full_column: int | None = field(
        init=False, repr=False
    )  # the full configuration's position, if it was tested
    _configurations: list[Configuration] = field(init=False, repr=False)
    _kept: dict[bytes, Times] = field(init=False, repr=False)
    budgets: HardBudgets = field(init=False, repr=False)
    _lock: Lock = field(init=False, repr=False)

    def __post_init__(self) -> None:
        actions = np.asarray(self.policy.spec.actions, dtype=np.int64)
        if (
            len(actions) == 0
            or np.any(np.diff(actions) <= 0)
            or actions[0] < 0
            or actions[-1] >= self.space.size
        ):
            raise ControllerError(
                f"controller: its policy scores actions {actions.tolist()[:8]}..., expected ascending ids from 0 to "
                f"{self.space.size - 1}; it belongs to another knob space"
            )
        for name, estimate in (("latency", self.latency), ("first-token latency", self.first_token_latency)):
            if estimate.space != self.space:
                raise ControllerError(
                    f"controller: its {name} estimate is of another knob space, {_describe(estimate.space)}; "
                    f"expected {_describe(self.space)}"
                )
        full = self.space.size - 1
        actions.setflags(write=False)  # decisions hand them out
        object.__setattr__(self, "actions", actions)
        quantity = Quantity.of(self.latency.facts)
        object.__setattr__(self, "quantity", quantity)
        object.__setattr__(self, "_action_ids", actions.tolist())
        object.__setattr__(self, "_columns", self.policy.spec.columns)
        object.__setattr__(self, "_plain", quantity.kind == LATENCY)
        object.__setattr__(
            self, "full_column", int(np.searchsorted(actions, full)) if full in actions else None
        )
        object.__setattr__(self, "_configurations", [self.space.configuration(int(a)) for a in actions])
        object.__setattr__(self, "weigher", (self.make_weigher or _numpy_weigher)(self))
        object.__setattr__(self, "_kept", {})
        object.__setattr__(self, "budgets", HardBudgets(quantity, self.guard.classes))
        object.__setattr__(self, "_lock", Lock())

    @classmethod
    def load(
        cls,
        path_or_name: str | Path,
        *,
        backend: str = "auto",
        provider: str = "cpu",
        precision: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> "Controller":
        """The controller in a directory, or a shipped one by its name ("tiny").

        Args:
            backend: what computes decisions: "native", "numpy", "onnx", "torch", or "auto", which measures once which
                of the first three is fastest and keeps the answer under `cache_dir`.
            provider, precision: of backend "onnx", see `backends.with_backend`.

        Raises:
            ControllerError: nothing there, a newer schema, or a missing, truncated or changed file; a backend that
                does not exist or needs files that were not exported.
            DependencyError: the backend's library or compiled part is not installed.
        """
        from paceline.runtime.backends import with_backend
        from paceline.runtime.storage import load_controller

        loaded = load_controller(path_or_name)
        return with_backend(loaded, backend, provider=provider, precision=precision, cache_dir=cache_dir)

    @property
    def backend(self) -> str:
        """What computes its decisions: "native", "numpy", "onnx" or "torch"."""
        return self.weigher.backend

    def save(self, path: str | Path) -> None:
        """Write controller.json, policy.safetensors and latency.safetensors into a directory, exported files too.

        text_features.safetensors goes with them where there are some.
        """
        from paceline.runtime.storage import save_controller

        save_controller(self, Path(path))

    @classmethod
    def from_training(
        cls,
        trained: Trained,
        table: OutcomeTable,
        latency: LatencyEstimator,
        first_token_latency: LatencyEstimator,
        *,
        overview_ms: float | None = None,
        metrics: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> "Controller":
        """The controller of a trained policy; prices are fitted on the table's validation split.

        `overview_ms`: the expected time of the overview on the profiled machine; by default what the manifest's
        audit says, else 0, which counts an overview twice until the controller is calibrated to a machine.
        """
        from paceline.runtime.building import build_controller

        return build_controller(
            trained,
            table,
            latency,
            first_token_latency,
            overview_ms=overview_ms,
            metrics=metrics or {},
            provenance=provenance or {},
        )

    @property
    def scale(self) -> float:
        """This machine's time over the profile's."""
        return self.latency.scale

    @property
    def fingerprint(self) -> str:
        """Hash of what decides: policy, estimates, guard and prices."""
        from paceline.runtime.storage import controller_fingerprint

        return controller_fingerprint(self)

    def rescaled(
        self, *, latency: LatencyEstimator, first_token_latency: LatencyEstimator, overview_ms: float
    ) -> "Controller":
        """This controller with the estimates and the overview time of another machine."""
        return replace(
            self,
            latency=latency,
            first_token_latency=first_token_latency,
            guard=replace(self.guard, overview_ms=overview_ms),
        )

    def check_space(self, space: KnobSpace, owner: str) -> None:
        """Raise ControllerError unless `space`, the knobs of `owner`, has every knob and option of this one."""
        there = {knob.name: set(knob.options) for knob in space.knobs}
        own = {knob.name: set(knob.options) for knob in self.space.knobs}
        if there.keys() != own.keys() or any(not own[name] <= there[name] for name in own):
            raise ControllerError(
                f"controller: it was trained for the knobs {_describe(self.space)}, {owner} has {_describe(space)}; "
                "use this model's controller or train one with paceline profile and paceline train"
            )

    @property
    def made_from_texts(self) -> bool:
        """Whether the features that it was trained on were made from questions' texts."""
        trained = dict(self.provenance.get("profile") or {})
        return feature_maker(dict(self.provenance.get("model") or {}), trained).get("kind") == TEXT

    def text_context(self, prompt: str) -> Context:
        """A new request, of which `decide` needs no more than its text, as of a router between text models.

        Raises ControllerError where the policy reads other features or its times depend on an image, PromptError for no
        text.
        """
        if not isinstance(prompt, str):
            raise PromptError(f"prompt: got {type(prompt).__name__}, expected a text")
        if self.text_features is None and self.made_from_texts:
            raise ControllerError(
                "controller: it has no text_features.safetensors, expected what makes features of a text; its outcomes "
                "were imported by an older version, or copied without that file, or their models see more than a text: "
                "import and train again, or decide about a recorded sample"
            )
        if self.text_features is None:
            raise ControllerError(
                "controller: it decides about more than a text, expected one trained on imported questions of text "
                "models (paceline import --question); decide about an image and a prompt, or a recorded sample"
            )
        nothing = np.zeros(len(self.actions), np.int64)
        return Context(
            image_features=np.empty(0, np.float32),
            question_features=self.text_features.read([prompt])[0],
            tiles=nothing,
            vision_tokens=nothing,
            prompt_tokens=nothing,
        )

    def decide(
        self,
        context: Context,
        *,
        budget_ms: SupportsFloat | None = None,
        first_token_budget_ms: SupportsFloat | None = None,
        budget: SupportsFloat | str | None = None,
        average: AverageBudget | SupportsFloat | str | None = None,
        elapsed_ms: float = 0.0,
        slowdown: float = 1.0,
        when_infeasible: str = "cheapest",
    ) -> Decision:
        """Choose a configuration.

        A configuration is feasible when its upper latency, which is that of the WHOLE call, overview included, is
        at most the budget less the unexpected part of the time already spent. With the overview's expected time o,
        slow-down s and elapsed time e (measured from the start of the call, queue and overview included):

            s * upper(a) <= budget - max(0, e - s * o)

        so an overview that took its expected time is not paid twice, a queue or a stall is paid in full, and a fast
        overview earns nothing. `elapsed_ms=0` judges the call as a whole, before it starts. The same rule holds for
        the first token. Among the feasible configurations the best score less price x time wins, ties going to the
        cheaper; without an average budget the price is 0.

        A controller of solver runtimes, which are known only afterwards, excludes nothing: its policy reads the budget
        as a deadline. Budgets of a controller of costs are in the costs' unit.

        Args:
            context: features and workloads of the request.
            budget_ms: hard limit of the whole call in milliseconds.
            first_token_budget_ms: hard limit of the time to the first token.
            budget: another way to say `budget_ms`: "80%" of the full configuration's expected latency on this
                request, "low", "medium", "high", a time such as "60ms" or a cost such as "0.002usd". Shares do not
                grow with `slowdown`.
            average: mean of a stream: an `AverageBudget` (steered), or a number or text such as "40ms", "0.001usd" (the
                fitted price).
            elapsed_ms: time spent on this call so far.
            slowdown: factor on all predictions, from a `DriftTracker`.
            when_infeasible: what to do when nothing fits: "cheapest" (least expected latency), "best_effort" (least
                late) or "reject".

        Raises:
            BudgetError: a budget that is not positive and finite, in another unit than the controller's, or two ways to
                say the same one.
            ControllerError: no `Context`, or features of another width, or NaN.
            InfeasibleBudgetError: nothing fits and the caller asked for "reject".
        """
        started = self.clock()
        if not isinstance(context, Context):
            raise ControllerError(f"context: got {type(context).__name__}, expected a Context")
        context.check(*self._columns, len(self._action_ids))
        if when_infeasible != "cheapest":
            check_when_infeasible(when_infeasible)
        if not (type(elapsed_ms) is float and 0.0 <= elapsed_ms < math.inf):
            elapsed_ms = check_number("elapsed_ms", elapsed_ms, least=0.0)
        if not (type(slowdown) is float and 1e-6 <= slowdown < math.inf):
            slowdown = check_number("slowdown", slowdown, least=1e-6)
        times = self.times(context)
        if self._plain and type(budget_ms) is float and first_token_budget_ms is budget is None:
            whole_ms, first_ms = budget_ms, None
            if not 0.0 < budget_ms < math.inf:
                checked_ms("budget_ms", budget_ms)
        else:
            whole_ms, first_ms = self.budgets.limits(budget_ms, first_token_budget_ms, budget, times.full_ms)
        average_ms, price, reachable = (None, 0.0, True) if average is None else self.average_price(average)
        unexpected_ms = max(0.0, elapsed_ms - slowdown * self.guard.overview_ms) if elapsed_ms else 0.0
        limits = Limits(
            whole_ms=None if whole_ms is None else whole_ms - unexpected_ms,
            first_ms=None if first_ms is None else first_ms - unexpected_ms,
            reachable=reachable,
            price=price,
            slowdown=slowdown,
        )
        reason, seen = self._weigh(context, times, limits, when_infeasible)
        decision = Decision(
            configuration=self._configurations[seen.chosen].copy(),
            action=self._action_ids[seen.chosen],
            reason=reason,
            budget_ms=whole_ms,
            first_token_budget_ms=first_ms,
            average_budget_ms=average_ms,
            elapsed_ms=elapsed_ms,
            unexpected_ms=unexpected_ms,
            slowdown=slowdown,
            price=price,
            decision_ms=1000.0 * (self.clock() - started),
            candidates=seen,
            times=times,
            context=context,
            controller=self,
            reachable=reachable,
        )
        if reason == "rejected":
            raise RejectedError(rejection(decision), decision)
        return decision

    def decide_batch(
        self,
        contexts: ContextBatch | Sequence[Context],
        *,
        budget_ms: ArrayLike | Sequence[float | None] | None = None,
        first_token_budget_ms: ArrayLike | Sequence[float | None] | None = None,
        budget: SupportsFloat | str | Sequence[SupportsFloat | str | None] | None = None,
        average: AverageBudget | SupportsFloat | str | None = None,
        price: ArrayLike = 0.0,
        elapsed_ms: ArrayLike = 0.0,
        slowdown: float = 1.0,
        when_infeasible: str = "cheapest",
    ) -> BatchDecision:
        """`decide` for n requests at once, with far less time per request; the same rule for each.

        Args:
            contexts: the requests, one by one or as stacked arrays.
            budget_ms, first_token_budget_ms: one for all or one per request; None or inf for no limit.
            budget: another way to say `budget_ms`, likewise; as in `decide`. Costs are said so.
            average: mean of the stream that all of them belong to, as in `decide`; its price is asked once.
            price: of time, accuracy per full latency, one for all or one per request, in place of `average`.
            elapsed_ms: likewise; see `decide`.
            slowdown: factor on all predictions.
            when_infeasible: "cheapest" or "best_effort".

        Raises:
            BudgetError: budgets that are not positive, or as many as there are requests.
            ControllerError: features or workloads of another size, or NaN.
        """
        return decide_batch(
            self,
            contexts,
            budget_ms=budget_ms,
            first_token_budget_ms=first_token_budget_ms,
            budget=budget,
            average=average,
            price=price,
            elapsed_ms=elapsed_ms,
            slowdown=slowdown,
            when_infeasible=when_infeasible,
        )

    def configuration(self, column: int) -> Configuration:
        """The configuration at a position of `actions`."""
        return self._configurations[column].copy()

    def _weigh(
        self, context: Context, times: Times, limits: Limits, when_infeasible: str
    ) -> tuple[Reason, Candidates]:
        """Weigh all configurations and pick one, whatever fits."""
        seen = self.weigher(context, times, limits)
        if seen.chosen >= 0:
            return "policy", seen
        if when_infeasible == "cheapest":
            seen.chosen = int(np.argmin(seen.mean_ms))
            return "cheapest", seen
        seen.chosen = _least_late(seen.upper_ms, limits.whole_ms, seen.first_upper_ms, limits.first_ms)
        return ("best_effort" if when_infeasible == "best_effort" else "rejected"), seen

    def times(self, context: Context) -> Times:
        """Predicted times of a workload, computed once."""
        key = context.tiles.tobytes() + context.vision_tokens.tobytes() + context.prompt_tokens.tobytes()
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        check_counts(context)
        workload = (context.tiles, context.vision_tokens, context.prompt_tokens)
        mean, upper = self.latency.mean_and_upper(self.actions, *workload)
        _, first_upper = self.first_token_latency.mean_and_upper(self.actions, *workload)
        full_ms = float(np.max(mean) if self.full_column is None else mean[self.full_column])
        spec = self.policy.spec
        per_price = 1.0 / (spec.full_latency_ms * self.scale) if spec.output == "accuracy" else 0.0
        charge = (per_price * mean).astype(np.float32)
        for kept_array in (mean, upper, first_upper, charge):  # decisions hand them out
            kept_array.setflags(write=False)
        times = Times(
            mean_ms=mean, upper_ms=upper, first_upper_ms=first_upper, charge=charge, full_ms=full_ms
        )
        with self._lock:
            if len(self._kept) >= KEPT_WORKLOADS:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = times
        return times

    def check_budgets(
        self,
        *,
        budget_ms: SupportsFloat | None = None,
        first_token_budget_ms: SupportsFloat | None = None,
        budget: SupportsFloat | str | None = None,
        average: AverageBudget | SupportsFloat | str | None = None,
    ) -> None:
        """Raise BudgetError for budgets that no request could have, before any work is done for one."""
        self.budgets.limits(budget_ms, first_token_budget_ms, budget, full_ms=1.0)
        self.average_price(average)

    def average_price(
        self, average: AverageBudget | SupportsFloat | str | None
    ) -> tuple[float | None, float, bool]:
        """(average budget in ms, price of time, whether any choice can meet it); BudgetError for what is none."""
        if average is None:
            return None, 0.0, True
        self.quantity.check_average(average)
        if isinstance(average, AverageBudget):
            stream = average
        elif isinstance(average, str):
            unit = self.quantity.unit
            stream = AverageBudget(parse_budget(average, full_ms=None, unit=unit, name="average budget"))
        else:
            stream = AverageBudget(average)
        reachable = stream.average_budget_ms >= self.lowest_average_ms * (1.0 - 1e-9)
        return stream.average_budget_ms, stream.price(self.prices, self.scale), reachable

    @property
    def lowest_average_ms(self) -> float:
        """The least mean latency that choosing can reach, on the validation questions and this machine."""
        return float(self.prices.budgets_ms[0]) * self.scale


def _numpy_weigher(controller: Controller) -> Weigher:
    return ScoredWeigher(
        controller.policy,
        "numpy",
        space=controller.space,
        actions=controller.actions,
        scale=controller.scale,
    )


def _least_late(
    upper_ms: np.ndarray, whole_ms: float | None, first_upper_ms: np.ndarray, first_ms: float | None
) -> int:
    """Position of the configuration that overruns its limits least: of two limits, the worse overrun counts."""
    if first_ms is None:
        return int(np.argmin(upper_ms))
    late = first_upper_ms - first_ms
    return int(np.argmin(late if whole_ms is None else np.maximum(late, upper_ms - whole_ms)))


def _describe(space: KnobSpace) -> str:
    return ", ".join(f"{knob.name} {list(knob.options)}" for knob in space.knobs)
