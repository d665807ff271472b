"""Timing one configuration of one sample, and facts about measured times.

Latency is measured at batch 1: the overview, then one `generate` with phase marks read inside it. Which calls follow
each other is drawn at random, so that a drift of the machine does not become a difference between configurations.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from paceline.errors import ProfileError
from paceline.knobs import Configuration
from paceline.models.protocol import ElasticModel, Workload

Clock = Callable[[], float]
"""Seconds since any moment, never going back."""

CLOCK_CALLS = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One timed call: the overview and one answer, in milliseconds."""

    text: str
    latency_ms: float  # the whole call: overview and generate
    first_token_ms: float  # the same up to the first token
    overview_ms: float
    vision_ms: float
    prefill_ms: float
    decode_ms: float
    output_tokens: int
    workload: Workload


def measure(
    model: ElasticModel, image: Image.Image, prompt: str, configuration: Configuration, max_new_tokens: int
) -> Measurement:
    """Answer one request and read its times.

    Raises:
        ProfileError: times that are not positive and finite.
    """
    overview = model.overview(image, prompt)
    generation = model.generate(overview, configuration, max_new_tokens)
    timings = generation.timings
    latency_ms = overview.elapsed_ms + timings.total_ms
    first_token_ms = overview.elapsed_ms + timings.first_token_ms
    for name, value in (("latency", latency_ms), ("time to the first token", first_token_ms)):
        if not (math.isfinite(value) and value > 0):
            raise ProfileError(
                f"model {model.name}: {name} under {configuration} is {value} ms, expected a positive, finite time; "
                "the model's timings are wrong"
            )
    return Measurement(
        text=generation.text,
        latency_ms=latency_ms,
        first_token_ms=first_token_ms,
        overview_ms=overview.elapsed_ms,
        vision_ms=timings.vision_ms,
        prefill_ms=timings.prefill_ms,
        decode_ms=timings.decode_ms,
        output_tokens=len(generation.tokens),
        workload=generation.workload,
    )


def interleaved(
    samples: list[int], configurations: int, repeats: int, rng: np.random.Generator
) -> Iterator[tuple[int, int, int]]:
    """(repeat, sample, configuration index) of every timed call: each repeat a fresh random order of all pairs."""
    for repeat in range(repeats):
        for pair in rng.permutation(len(samples) * configurations).tolist():
            yield repeat, samples[pair // configurations], pair % configurations


def clock_facts(clock: Clock = time.perf_counter) -> dict[str, float]:
    """What reading the clock costs (median of consecutive reads) and its smallest step, in milliseconds."""
    marks = np.array([clock() for _ in range(CLOCK_CALLS)])
    steps = np.diff(marks)
    moving = steps[steps > 0]
    return {
        "clock_cost_ms": float(np.median(steps) * 1e3),
        "clock_step_ms": float(moving.min() * 1e3) if moving.size else 0.0,
    }
