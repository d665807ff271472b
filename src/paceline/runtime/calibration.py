"""Machine calibration: a dozen short measurements that scale a controller's estimates to this machine."""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from paceline.errors import ControllerError, OutcomesError
from paceline.knobs import Configuration
from paceline.models.protocol import ElasticModel, Generation
from paceline.runtime.controller import Controller
from paceline.runtime.hardware import hardware_facts
from paceline.runtime.storage import write_atomically

SCHEMA_VERSION = 1
CONFIGURATIONS = 4
"""Measured configurations: the cheapest, the slowest and two between."""
ROUNDS = 3
LIMIT_SECONDS = 10.0
"""No further round starts after this; one warm-up and one full round are always measured."""
LONGEST_ANSWER = 64
IMAGE_SIZE = (224, 160)
PROMPT = "How many digits are there?"


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineCalibration:
    """Measured and predicted times of the same calls, in milliseconds, and where they come from."""

    key: str  # hash of controller, model and hardware
    model: str
    made_at: str  # ISO 8601, UTC
    seconds: float  # how long measuring took, warm-up included
    measured_ms: tuple[float, ...]  # whole calls
    predicted_ms: tuple[float, ...]  # by the uncalibrated controller, for the answers' actual lengths
    first_measured_ms: tuple[float, ...]  # first tokens
    first_predicted_ms: tuple[float, ...]
    overview_ms: float  # median
    schema_version: int = SCHEMA_VERSION

    def apply(self, controller: Controller) -> Controller:
        """The controller, scaled to the machine that was measured."""
        try:
            return controller.rescaled(
                latency=controller.latency.rescaled(np.array(self.measured_ms), np.array(self.predicted_ms)),
                first_token_latency=controller.first_token_latency.rescaled(
                    np.array(self.first_measured_ms), np.array(self.first_predicted_ms)
                ),
                overview_ms=self.overview_ms,
            )
        except OutcomesError as error:
            raise ControllerError(f"calibration of {self.model}: {error}") from error

    @property
    def ratio(self) -> float:
        """Median of measured over predicted."""
        return float(np.median(np.array(self.measured_ms) / np.array(self.predicted_ms)))

    def to_json(self) -> dict[str, Any]:
        """A JSON value from which `from_json` makes an equal calibration."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> "MachineCalibration":
        """The calibration written by `to_json`; ControllerError for anything else."""
        try:
            if value["schema_version"] != SCHEMA_VERSION:
                raise ControllerError(
                    f"calibration: schema version {value['schema_version']}, expected {SCHEMA_VERSION}"
                )
            lists = ("measured_ms", "predicted_ms", "first_measured_ms", "first_predicted_ms")
            made = cls(**{**value, **{name: tuple(float(item) for item in value[name]) for name in lists}})
        except (TypeError, KeyError, ValueError) as error:
            raise ControllerError(f"calibration: damaged ({error!r})") from error
        counts = {len(getattr(made, name)) for name in lists}
        times = [item for name in lists for item in getattr(made, name)] + [made.overview_ms]
        if len(counts) != 1 or 0 in counts or not all(math.isfinite(item) and item > 0 for item in times):
            raise ControllerError(
                "calibration: damaged (its times are not positive, finite and equally many)"
            )
        return made


def synthetic_image(size: tuple[int, int] = IMAGE_SIZE) -> Image.Image:
    """A deterministic picture of (width, height) pixels: a gradient under a grid of discs."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    discs = ((x % 32 - 16) ** 2 + (y % 32 - 16) ** 2 < 100) * 120
    channels = [255 * x // width, 255 * y // height, discs + 60]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def measure_machine(
    model: ElasticModel,
    controller: Controller,
    *,
    image: Image.Image | None = None,
    prompt: str = PROMPT,
    clock: Callable[[], float] = time.perf_counter,
) -> MachineCalibration:
    """Time a dozen short calls of `model` and predict the same calls with `controller`.

    Four configurations from the cheapest to the slowest, one warm-up each, then three interleaved rounds at batch 1;
    no round starts after 10 s. `image` defaults to a synthetic picture. `clock` returns seconds.
    """
    controller.check_space(model.knobs, model.name)
    image = image or synthetic_image()
    max_new_tokens = min(max(1, math.ceil(controller.guard.output_tokens)), LONGEST_ANSWER)
    chosen = _spread_configurations(model, controller, image, prompt)
    started = clock()
    overviews, rows = [], []
    for turn in range(ROUNDS + 1):
        if turn > 1 and clock() - started > LIMIT_SECONDS:
            break
        for position in range(len(chosen)):
            configuration = chosen[(position + turn) % len(chosen)]
            before = clock()
            overview = model.overview(image, prompt)
            between = clock()
            generation = model.generate(overview, configuration, max_new_tokens)
            after = clock()
            if turn:  # the first turn warms up
                overview_ms = 1000.0 * (between - before)
                whole, first = _predicted(controller, configuration, generation)
                overviews.append(overview_ms)
                rows.append(
                    (1000.0 * (after - before), whole, overview_ms + generation.timings.first_token_ms, first)
                )
    measured, predicted, first_measured, first_predicted = zip(*rows, strict=True)
    return MachineCalibration(
        key=calibration_key(model, controller),
        model=model.name,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=clock() - started,
        measured_ms=measured,
        predicted_ms=predicted,
        first_measured_ms=first_measured,
        first_predicted_ms=first_predicted,
        overview_ms=float(np.median(overviews)),
    )


def calibration_key(model: ElasticModel, controller: Controller) -> str:
    """Hash of everything that a calibration depends on."""
    facts = {"controller": controller.fingerprint, "model": model.describe(), "hardware": hardware_facts()}
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def default_cache_dir() -> Path:
    """Where calibrations are kept for this user."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("paceline")) / "calibration"


def read_calibration(directory: Path, key: str, report: Callable[[str], None]) -> MachineCalibration | None:
    """The kept calibration, or None; a damaged file is reported and measured again."""
    path = directory / f"{key}.json"
    if not path.exists():
        return None
    try:
        made = MachineCalibration.from_json(json.loads(path.read_text(encoding="utf-8")))
        if made.key != key:
            raise ControllerError("calibration: it belongs to another controller, model or machine")
    except (OSError, ValueError, RecursionError, ControllerError) as error:
        report(f"calibration in {path} cannot be used ({error}); measuring again")
        return None
    return made


def keep_calibration(directory: Path, made: MachineCalibration, report: Callable[[str], None]) -> None:
    """Store a calibration for the next process; a directory that cannot be written is reported, not fatal."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / f"{made.key}.json", json.dumps(made.to_json(), indent=1).encode())
    except OSError as error:
        report(f"the calibration could not be kept in {directory} ({error}); the next start measures again")


def _spread_configurations(
    model: ElasticModel, controller: Controller, image: Image.Image, prompt: str
) -> list[Configuration]:
    """Configurations of the controller, evenly spaced in rank of predicted latency on this image."""
    overview = model.overview(image, prompt)
    configurations = [controller.space.configuration(int(action)) for action in controller.actions]
    loads = [model.workload(overview, configuration) for configuration in configurations]
    mean = controller.latency.mean(
        controller.actions,
        np.array([load.tiles for load in loads]),
        np.array([load.vision_tokens for load in loads]),
        np.array([load.prompt_tokens for load in loads]),
    )
    ranks = np.linspace(0, len(mean) - 1, CONFIGURATIONS).round().astype(int)
    return [configurations[i] for i in np.argsort(mean, kind="stable")[np.unique(ranks)]]


def _predicted(
    controller: Controller, configuration: Configuration, generation: Generation
) -> tuple[float, float]:
    """(whole call, first token) in ms, as the controller predicts them for an answer of this actual length."""
    actions = np.array([controller.space.action(configuration)])
    load = generation.workload
    workload = [np.array([count]) for count in (load.tiles, load.vision_tokens, load.prompt_tokens)]
    whole = float(controller.latency.mean(actions, *workload)[0])
    first = float(controller.first_token_latency.mean(actions, *workload)[0])
    usual = controller.guard.output_tokens - 1.0
    if usual > 0.0:
        whole = first + max(whole - first, 0.0) * (len(generation.tokens) - 1) / usual
    return whole, first
