"""A controller for the fake model, fitted in a fraction of a second: random features and a ridge head."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from fakes import KINDS, OVERVIEW_MS, FakeModel, FakeTask, fake_table
from paceline.latency.estimate import LatencyEstimator
from paceline.models.protocol import Generation, Overview
from paceline.outcomes.table import OutcomeTable
from paceline.policies.spec import PolicySpec
from paceline.runtime.controller import Controller
from paceline.runtime.decision import Context

HIDDEN = 48


@dataclass(frozen=True)
class FakeTraining:
    """What `train_controller_policy` leaves, made without torch."""

    spec: PolicySpec
    arrays: dict[str, np.ndarray]
    facts: dict[str, Any] = field(default_factory=lambda: {"algorithm": "ridge"})


def fit_latency(table: OutcomeTable, times: np.ndarray) -> LatencyEstimator:
    work = (table.tiles, table.vision_tokens, table.prompt_tokens, table.output_tokens)
    return LatencyEstimator.fit(table.space, table.actions, *work, times)


def fake_training(table: OutcomeTable, latency: LatencyEstimator) -> FakeTraining:
    """A policy that predicts accuracy from random features of the stored ones; it ignores the budget."""
    train = table.split_rows("train")
    mean = latency.mean(table.actions, train.tiles, train.vision_tokens, train.prompt_tokens).mean(axis=0)
    spec = PolicySpec(
        head="joint",
        members=1,
        image_width=table.image_width,
        question_width=table.features.shape[1] - table.image_width,
        hidden=HIDDEN,
        budget_low_ms=float(mean.min()),
        budget_high_ms=float(mean.max()),
        full_latency_ms=float(mean[-1]),
        actions=tuple(int(action) for action in table.actions),
    )
    rng = np.random.default_rng(0)
    arrays = {name: np.zeros(shape, dtype=np.float32) for name, shape in spec.array_shapes().items()}
    arrays["feature_mean"] = train.features.mean(axis=0)
    arrays["feature_scale"] = (1.0 / (train.features.std(axis=0) + 1e-6)).astype(np.float32)
    arrays["input.weight"][0, : spec.feature_width] = rng.normal(0, 0.5, (spec.feature_width, 2 * HIDDEN))
    arrays["input.bias"] = rng.normal(0, 0.5, (1, 1, 2 * HIDDEN)).astype(np.float32)
    arrays["fusion.weight"] = rng.normal(0, 0.2, (1, 2 * HIDDEN, HIDDEN)).astype(np.float32)
    inputs = (train.features - arrays["feature_mean"]) * arrays["feature_scale"]
    hidden = np.maximum(inputs @ arrays["input.weight"][0, : spec.feature_width] + arrays["input.bias"][0], 0)
    hidden = np.maximum(hidden @ arrays["fusion.weight"][0], 0)
    design = np.concatenate([hidden, np.ones((len(hidden), 1))], axis=1)
    target = 4.0 * train.accuracy - 2.0  # a logit
    weights = np.linalg.solve(design.T @ design + 0.1 * np.eye(design.shape[1]), design.T @ target)
    arrays["head.weight"][0], arrays["head.bias"][0, 0] = weights[:-1], weights[-1]
    return FakeTraining(spec, arrays)


@cache
def table() -> OutcomeTable:
    made = fake_table(240, 80, 200)
    made.manifest.audit["overview_ms"] = OVERVIEW_MS
    made.manifest.options["max_new_tokens"] = 4
    return made


@cache
def controller() -> Controller:
    latency = fit_latency(table(), table().latency_ms)
    first = fit_latency(table(), table().first_token_ms)
    return Controller.from_training(fake_training(table(), latency), table(), latency, first)


@cache
def rows_to_serve() -> OutcomeTable:
    return table().split_rows("test")


def context(index: int = 0) -> Context:
    """The request of one sample of the test split."""
    rows = rows_to_serve()
    return Context(
        image_features=rows.image_features[index],
        question_features=rows.question_features[index],
        tiles=rows.tiles[index],
        vision_tokens=rows.vision_tokens[index],
        prompt_tokens=rows.prompt_tokens[index],
    )


class FakeClock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def pass_ms(self, milliseconds: float) -> None:
        self.seconds += milliseconds / 1000.0


class TimedModel(FakeModel):
    """The fake model on a fake clock, `speed` times slower than profiled; `stall_ms` delays the overview."""

    def __init__(self, clock: FakeClock, speed: float = 1.0, ranking: list[int] | None = None) -> None:
        super().__init__(ranking)
        self.clock = clock
        self.speed = speed
        self.stall_ms = 0.0

    def overview(self, image, prompt) -> Overview:
        known = prompt if prompt.split()[0] in KINDS else f"plain {prompt}"
        made = super().overview(image, known)
        self.clock.pass_ms(self.speed * made.elapsed_ms + self.stall_ms)
        return made

    def generate(self, overview, configuration, max_new_tokens) -> Generation:
        made = super().generate(overview, configuration, max_new_tokens)
        self.clock.pass_ms(self.speed * made.timings.total_ms)
        return made

    def with_block_ranking(self, ranking) -> "TimedModel":
        return TimedModel(self.clock, self.speed, list(ranking))


def requests(count: int, seed: int = 7):
    """(image, prompt) of fresh questions."""
    task = FakeTask()
    return [(task.image(sample), sample.question) for sample in task.samples("test", count, seed)]
