"""Train on the simulated second device and on the CPU; print as JSON what differs. See test_second_device.py."""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import paceline.learning.options as options_module
from fakes import fake_table
from input_tables import token_table
from paceline.evaluation.times import fit_latency
from paceline.learning.compute import Compute
from paceline.learning.options import ALGORITHMS, TrainOptions
from paceline.learning.train import train_controller_policy
from paceline.learning.trained import TrainedPolicy
from paceline.outcomes.table import OutcomeTable
from simulated_device import DEVICE, SecondDevice, register
from small_training import InterruptedTrainingError, Recorder

SMALL: dict[str, Any] = {"hidden": 16, "members": 2, "batch_size": 64, "warm_epochs": 3, "epochs": 2}
WARM = {"algorithm": "grpo_warm"}
CASES: dict[str, dict[str, Any]] = {
    **{name: {"algorithm": name} for name in ALGORITHMS if name != "grpo"},
    **{
        f"head {head}": {"algorithm": "grpo_scratch", "head": head}
        for head in ("independent", "embedding", "autoregressive", "continuous")
    },
    "gradient checkpointing": {**WARM, "gradient_checkpointing": True},
    "drawn": {**WARM, "group_size": 6, "divide_by_std": False, "kl_reference": "previous"},
    "untested": {**WARM, "head": "embedding", "score_untested": True},
    "learned projection": {**WARM, "reduce": "learned:4"},
    "augmented": {**WARM, "augment": "noise=.1,dropout=.1,mix=.2", "balance": "budget"},
    "reward v2": {**WARM, "reward": "v2", "baseline": "full"},
    "linear share": {**WARM, "budget_form": "share", "budget_encoding": "linear"},
    "tokens": {**WARM, "image_features": "attention", "question_features": "attention"},
}


def trained(table: OutcomeTable, options: TrainOptions, **others: Any) -> TrainedPolicy:
    return train_controller_policy(table, fit_latency(table), options, **others)


def difference(first: TrainedPolicy, second: TrainedPolicy) -> float:
    """Of the weights, at most."""
    return max(float(np.abs(array - second.arrays[name]).max()) for name, array in first.arrays.items())


def resumed(table: OutcomeTable, options: TrainOptions) -> TrainedPolicy:
    """A run that was interrupted in each of its stages."""
    with tempfile.TemporaryDirectory() as directory:
        for epochs in (2, 4):
            try:
                trained(table, options, checkpoint_dir=Path(directory), progress=Recorder(epochs))
            except InterruptedTrainingError:
                continue
            raise AssertionError("it was to be interrupted")
        return trained(table, options, checkpoint_dir=Path(directory))


def forgotten(table: OutcomeTable, options: TrainOptions) -> str:
    """The error of a trainer that leaves its batches where they are."""
    placed = Compute.placed
    Compute.placed = lambda self, groups: groups
    try:
        trained(table, options)
    except RuntimeError as error:
        return str(error)
    finally:
        Compute.placed = placed
    return ""


def main() -> None:
    """Weights' largest differences and operators on the device, by case."""
    register()
    options_module.DEVICES = (*options_module.DEVICES, DEVICE)
    plain, tokens = fake_table(120, 50, 0), token_table()
    found: dict[str, Any] = {}
    for name, changes in CASES.items():
        table = tokens if name == "tokens" else plain
        options = TrainOptions(**{**SMALL, **changes})
        expected = trained(table, options)
        with SecondDevice():
            before = SecondDevice.operations
            made = trained(table, dataclasses.replace(options, device=DEVICE))
        found[name] = {
            "difference": difference(expected, made),
            "operations": SecondDevice.operations - before,
        }
    options = TrainOptions(**{**SMALL, **WARM, "checkpoint_every": 1})
    there = dataclasses.replace(options, device=DEVICE)
    with SecondDevice():
        found["resumed"] = {"difference": difference(trained(plain, options), resumed(plain, there))}
        found["forgotten"] = {"error": forgotten(plain, there)}
    json.dump(found, sys.stdout)
