"""An elastic model with a controller in front: every request gets the configuration that fits its budget."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, SupportsFloat, TypedDict, Unpack, overload

import numpy as np
from PIL import Image

from paceline.errors import ControllerError
from paceline.latency.drift import DriftTracker
from paceline.models.feature_sets import chosen_features
from paceline.models.protocol import ElasticModel, Overview
from paceline.outcomes.feature_makers import MODEL, feature_maker, maker_label, model_identity
from paceline.runtime.answer import Answer, Overhead
from paceline.runtime.average import AverageBudget
from paceline.runtime.batch import ListServing
from paceline.runtime.calibration import (
    MachineCalibration,
    calibration_key,
    default_cache_dir,
    keep_calibration,
    measure_machine,
    read_calibration,
)
from paceline.runtime.controller import Controller
from paceline.runtime.decision import Context, check_when_infeasible
from paceline.runtime.requests import check_length, check_waited, is_list, listed

KEPT_WORKLOADS = 256
"""Workload arrays kept, one per image size and prompt length."""
KEPT_STREAMS = 64
"""Average budgets given as plain numbers whose streams are kept; the least recently used is dropped."""

logger = logging.getLogger(__name__)


class ListOptions(TypedDict, total=False):
    """Arguments of `generate` with lists of images or prompts: one value for all, or one per request."""

    budget_ms: SupportsFloat | Sequence[SupportsFloat | None] | None
    first_token_budget_ms: SupportsFloat | Sequence[SupportsFloat | None] | None
    budget: SupportsFloat | str | Sequence[SupportsFloat | str | None] | None
    average_budget_ms: SupportsFloat | AverageBudget | None  # one stream for all
    max_new_tokens: int | Sequence[int | None] | None
    when_infeasible: str | Sequence[str]
    waited_ms: float | Sequence[float]


class AdaptiveModel:
    """Answers questions about images within latency budgets. Safe to share between threads.

    >>> adaptive = AdaptiveModel(model, Controller.load("tiny"))            # doctest: +SKIP
    >>> adaptive.generate(image, "How many digits are there?", budget_ms=60).text   # doctest: +SKIP
    '7'
    """

    def __init__(
        self,
        model: ElasticModel,
        controller: Controller,
        *,
        calibrate: bool = True,
        cache_dir: str | Path | None = None,
        on_message: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Put `controller` in front of `model`.

        `calibrate`: scale the controller to this machine at first use, with a dozen short measurements kept under
        `cache_dir` (by default the user's cache directory). What happens is told to `on_message`, by default the
        log at level warning. `clock` returns seconds.

        Raises:
            ControllerError: the model's knob space is not the controller's, or the controller was trained on imported
                features that this model does not make, or on costs or solver runtimes.
        """
        controller.quantity.check_live()
        controller.check_space(model.knobs, f"the model {model.name}")
        _refuse_other_features(model, controller)
        ranking = list(controller.block_ranking)
        if ranking and ranking != list(getattr(model, "block_ranking", ())):
            model = model.with_block_ranking(ranking)
        self.model = model
        self.drift = DriftTracker()
        self.calibration: MachineCalibration | None = None
        self._uncalibrated = controller
        self._controller = controller
        self._calibrated = not calibrate
        self._cache_dir = None if cache_dir is None else Path(cache_dir)
        self._on_message = on_message
        self.clock = clock
        self._configurations = [controller.space.configuration(int(a)) for a in controller.actions]
        self._workloads: OrderedDict[Hashable, tuple[np.ndarray, ...]] = OrderedDict()
        self._streams: OrderedDict[float, AverageBudget] = OrderedDict()
        self._lock = Lock()
        self._calibrating = Lock()

    @property
    def controller(self) -> Controller:
        """The controller in use, scaled to this machine once calibrated."""
        return self._controller

    def calibrate(
        self, *, force: bool = False, image: Image.Image | None = None, prompt: str | None = None
    ) -> MachineCalibration:
        """Scale the controller to this machine: from the cache, or measured again with `force`.

        `image` and `prompt` replace the synthetic request that is timed. Call it at start-up to keep the
        measurements out of the first request.
        """
        with self._calibrating:
            return self._calibrate(force, image, prompt)

    def average(self, average_budget_ms: SupportsFloat) -> AverageBudget:
        """The stream behind `generate(average_budget_ms=<this number>)`."""
        fresh = AverageBudget(average_budget_ms)
        key = fresh.average_budget_ms
        with self._lock:
            stream = self._streams.pop(key, fresh)
            self._streams[key] = stream
            if len(self._streams) > KEPT_STREAMS:
                self._streams.popitem(last=False)
        return stream

    @overload
    def generate(
        self,
        image: Image.Image,
        prompt: str,
        *,
        budget_ms: SupportsFloat | None = None,
        first_token_budget_ms: SupportsFloat | None = None,
        budget: SupportsFloat | str | None = None,
        average_budget_ms: SupportsFloat | AverageBudget | None = None,
        max_new_tokens: int | None = None,
        when_infeasible: str = "cheapest",
        waited_ms: float = 0.0,
    ) -> Answer: ...

    @overload
    def generate(
        self,
        image: Sequence[Image.Image],
        prompt: str | Sequence[str],
        **options: Unpack[ListOptions],
    ) -> list[Answer]: ...

    @overload
    def generate(
        self,
        image: Image.Image,
        prompt: list[str] | tuple[str, ...],
        **options: Unpack[ListOptions],
    ) -> list[Answer]: ...

    def generate(
        self,
        image: Image.Image | Sequence[Image.Image],
        prompt: str | Sequence[str],
        *,
        budget_ms: Any = None,
        first_token_budget_ms: Any = None,
        budget: Any = None,
        average_budget_ms: SupportsFloat | AverageBudget | None = None,
        max_new_tokens: Any = None,
        when_infeasible: Any = "cheapest",
        waited_ms: Any = 0.0,
    ) -> Answer | list[Answer]:
        """Answer `prompt` about `image` within the budgets; see `Controller.decide` for what they mean.

        `average_budget_ms`: a number shares one stream per value, an `AverageBudget` is a stream of your own.
        `max_new_tokens`: by default what was profiled; the latency estimate holds the answer lengths of the profile.
        `waited_ms`: time this request has already spent, in a queue for example.
        The first use calibrates the controller to this machine first; that time is not part of the answer's.

        Lists of images and prompts are several requests, answered in their order; one image may serve a list of
        prompts, one prompt a list of images, and the other arguments are one value for all or one per request.
        Requests that share a configuration run together where the model can do that. A request's latency counts from
        the start of the call to the end of its own group, and its hard budget limits that; an average budget counts
        its own share of the work. "reject" lets the others be answered first.

        Raises:
            BudgetError: a budget that is not positive and finite, or two ways to say the same one.
            InfeasibleBudgetError: nothing fits and `when_infeasible` is "reject"; of a list, a `RejectedRequestsError`
                with the answers of the others.
            ImageError, PromptError: from the model, or for lists of different lengths.
        """
        entered = self.clock()
        stream = average_budget_ms
        if stream is not None and not isinstance(stream, AverageBudget):
            stream = self.average(stream)
        # Types asked first, and checks of defaults left out: after a model's work every line of Python starts cold.
        if not (isinstance(image, Image.Image) and isinstance(prompt, str)) and (
            is_list(image) or is_list(prompt)
        ):
            return self._generate_list(
                image,
                prompt,
                stream,
                {
                    "budget_ms": budget_ms,
                    "first_token_budget_ms": first_token_budget_ms,
                    "budget": budget,
                    "waited_ms": waited_ms,
                    "max_new_tokens": max_new_tokens,
                    "when_infeasible": when_infeasible,
                },
            )
        if when_infeasible != "cheapest":
            check_when_infeasible(when_infeasible)
        budgets = {
            "budget_ms": budget_ms,
            "first_token_budget_ms": first_token_budget_ms,
            "budget": budget,
        }
        if not (budget_ms is first_token_budget_ms is budget is None):
            self._controller.check_budgets(**budgets)
        length = self._controller.guard.max_new_tokens
        if max_new_tokens is not None:
            check_length(max_new_tokens)
            length = max_new_tokens
        if type(waited_ms) is not float or waited_ms != 0.0:
            check_waited(waited_ms)
        checked = self.clock()
        if not self._calibrated:
            self._calibrate_at_first_use()

        controller = self._controller
        started = self.clock()
        overview: Overview = self.model.overview(image, prompt)  # pyright: ignore[reportArgumentType]
        overview_done = self.clock()
        context, workloads_ms, features_ms = self.context(overview)
        deciding = self.clock()
        decision = controller.decide(
            context,
            **budgets,
            average=stream,
            elapsed_ms=waited_ms + 1000.0 * (deciding - started),
            slowdown=self.drift.factor,
            when_infeasible=when_infeasible,
        )
        if stream is not None:
            stream.reserve(decision.predicted_ms)
        try:
            generating = self.clock()
            generation = self.model.generate(overview, decision.configuration, length)
            ended = self.clock()
        except BaseException:
            if stream is not None:
                stream.cancel(decision.predicted_ms)
            raise
        latency_ms = 1000.0 * (ended - started)
        self.drift.update(measured_ms=latency_ms, predicted_ms=decision.predicted_ms / decision.slowdown)
        if stream is not None:
            stream.record(predicted_ms=decision.predicted_ms, measured_ms=latency_ms)
        return Answer(
            text=generation.text,
            tokens=generation.tokens,
            finish_reason=generation.finish_reason,
            configuration=decision.configuration,
            latency_ms=latency_ms,
            first_token_ms=1000.0 * (generating - started) + generation.timings.first_token_ms,
            overview_ms=1000.0 * (overview_done - started),
            overhead=Overhead(
                features_ms=features_ms,
                workloads_ms=workloads_ms,
                decision_ms=1000.0 * (generating - deciding),
                bookkeeping_ms=1000.0 * (checked - entered + self.clock() - ended),
            ),
            waited_ms=waited_ms,
            timings=generation.timings,
            workload=generation.workload,
            decision=decision,
        )

    def _generate_list(
        self, images: Any, prompts: Any, stream: AverageBudget | None, options: dict[str, Any]
    ) -> list[Answer]:
        profiled = self._controller.guard.max_new_tokens
        requests = listed(images, prompts, options, profiled, self._controller.check_budgets)
        self._calibrate_at_first_use()
        return ListServing(self, requests, stream).answers()

    def context(self, overview: Overview) -> tuple[Context, float, float]:
        """The controller's view of a request, and the milliseconds for its workloads and for its features.

        Workloads are kept under the overview's key, else under the image size and the first configuration's workload:
        they depend on image size and prompt length only.
        """
        started = self.clock()
        key = overview.workload_key
        if key is None:
            key = overview.image_size, self.model.workload(overview, self._configurations[0])
        with self._lock:
            kept = self._workloads.get(key)
        if kept is None:
            loads = [self.model.workload(overview, configuration) for configuration in self._configurations]
            kept = tuple(
                np.array([getattr(load, name) for load in loads], dtype=np.int64)
                for name in ("tiles", "vision_tokens", "prompt_tokens")
            )
            for counts in kept:  # contexts hand them out
                counts.setflags(write=False)
            with self._lock:
                self._workloads[key] = kept
                if len(self._workloads) > KEPT_WORKLOADS:
                    self._workloads.popitem(last=False)
        tiles, vision_tokens, prompt_tokens = kept
        reading = self.clock()
        image, question = chosen_features(self.model.name, overview, self._controller.policy.spec.inputs)
        context = Context(
            image_features=image,
            question_features=question,
            tiles=tiles,
            vision_tokens=vision_tokens,
            prompt_tokens=prompt_tokens,
        )
        return context, 1000.0 * (reading - started), 1000.0 * (self.clock() - reading)

    def _calibrate_at_first_use(self) -> None:
        if not self._calibrated:
            with self._calibrating:
                if not self._calibrated:
                    self._calibrate(False, None, None)

    def _calibrate(self, force: bool, image: Image.Image | None, prompt: str | None) -> MachineCalibration:
        directory = self._cache_dir or default_cache_dir()
        key = calibration_key(self.model, self._uncalibrated)
        made = None if force else read_calibration(directory, key, self._report)
        if made is not None:
            self._report(
                f"{made.model}: using the calibration of {made.made_at} from {directory / key}.json: this machine "
                f"takes {made.ratio:.2f} x the profile's time"
            )
        else:
            self._report(
                f"{self.model.name}: calibrating the controller to this machine, a dozen short calls"
            )
            options = {} if prompt is None else {"prompt": prompt}
            made = measure_machine(self.model, self._uncalibrated, image=image, clock=self.clock, **options)
            self._report(
                f"{made.model}: this machine takes {made.ratio:.2f} x the profile's time ({len(made.measured_ms)} "
                f"measurements in {made.seconds:.1f} s, kept in {directory})"
            )
            keep_calibration(directory, made, self._report)
        self._controller = made.apply(self._uncalibrated)
        self.drift.reset()
        self.calibration = made
        self._calibrated = True
        return made

    def _report(self, message: str) -> None:
        if self._on_message is None:
            logger.warning(message)
        else:
            self._on_message(message)


def _refuse_other_features(model: ElasticModel, controller: Controller) -> None:
    """Refuse imported features that a live request does not have; sweeps have those of their own model."""
    described = dict(controller.provenance.get("profile") or {}).get("features")
    if described is None:
        return
    maker = feature_maker({}, {"features": described})
    own = {"kind": MODEL, "model": model_identity(model.describe())}
    if maker != own:
        raise ControllerError(
            f"controller: it was trained on features made by {maker_label(maker)}, live requests have those of "
            f"{maker_label(own)}; import the outcomes again with --features {model.name} --images DIR and train"
        )
