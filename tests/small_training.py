"""A table with a known structure, options that train on it within a second, and progress that can stop a run."""

from functools import cache

import numpy as np
import torch

from fakes import fake_table
from paceline.latency.estimate import LatencyEstimator
from paceline.learning.contexts import context_ranges
from paceline.learning.dataset import training_problems
from paceline.learning.groups import GroupSource
from paceline.learning.inputs import FittedInputs, fit_inputs
from paceline.learning.options import TrainOptions
from paceline.learning.trained import TrainedPolicy
from paceline.learning.trainer import Trainer
from paceline.outcomes.table import OutcomeTable
from paceline.policies.network import PolicyNetwork
from paceline.policies.spec import PolicySpec

SMALL = TrainOptions(
    algorithm="grpo_warm", hidden=16, members=2, batch_size=64, warm_epochs=4, epochs=3, checkpoint_every=1
)


@cache
def make_table(train: int = 150, validation: int = 60, test: int = 100) -> OutcomeTable:
    return fake_table(train, validation, test, seed=0)


@cache
def make_latency() -> LatencyEstimator:
    train = make_table().split_rows("train")
    work = (train.tiles, train.vision_tokens, train.prompt_tokens, train.output_tokens)
    return LatencyEstimator.fit(train.space, train.actions, *work, train.latency_ms)


def make_spec(table: OutcomeTable, full_latency_ms: float) -> PolicySpec:
    return PolicySpec(
        head="joint",
        members=1,
        image_width=table.image_width,
        question_width=table.features.shape[1] - table.image_width,
        hidden=4,
        budget_low_ms=4.0,
        budget_high_ms=16.0,
        full_latency_ms=full_latency_ms,
        actions=tuple(table.actions.tolist()),
    )


def make_source(options: TrainOptions) -> tuple[GroupSource, OutcomeTable]:
    table = make_table()
    train, _ = training_problems(table, make_latency())
    spec = make_spec(table, train.full_latency_ms)
    return GroupSource(train, spec, table.space, options, inputs_of(table, train.features)), table


def inputs_of(table: OutcomeTable, features: np.ndarray) -> FittedInputs:
    return fit_inputs(features, table.image_width, table.feature_choice)


class InterruptedTrainingError(Exception):
    pass


class Recorder:
    """Progress that remembers, and can stop a run after some epochs."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.total, self.done, self.messages, self.stop_after = 0, 0, [], stop_after

    def start(self, total: int, description: str) -> None:
        self.total = total

    def advance(self, steps: int = 1) -> None:
        self.done += steps
        if self.stop_after is not None and self.done >= self.stop_after:
            raise InterruptedTrainingError

    def message(self, text: str) -> None:
        self.messages.append(text)


def make_trainer() -> Trainer:
    options = TrainOptions(algorithm="grpo_warm", members=1, hidden=4, warm_epochs=3, epochs=2)
    source, table = make_source(options)
    train, _ = training_problems(make_table(), make_latency())
    generator = torch.Generator().manual_seed(0)
    network = PolicyNetwork(source.spec, table.space, dropout=0.1, generator=generator)
    return Trainer(network, source, source, context_ranges(train), options, generator)


def assert_equal_policies(first: TrainedPolicy, second: TrainedPolicy) -> None:
    assert first.history == second.history
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(array, second.arrays[name], err_msg=name)
