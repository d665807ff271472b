"""A run that goes on from its checkpoint is the run that was never interrupted; others are refused."""

import dataclasses

import numpy as np
import pytest
import torch

from paceline.errors import TrainError
from paceline.evaluation.times import fit_latency
from paceline.learning.options import TrainOptions
from paceline.learning.train import train_controller_policy
from paceline.outcomes.preparation import KEY, Preparation
from quick_options import HASTY_REFERENCE
from small_training import (
    SMALL,
    InterruptedTrainingError,
    Recorder,
    assert_equal_policies,
    make_latency,
    make_table,
    make_trainer,
)
from solvers import solver_table


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"group_size": 4},
        {"algorithm": "supervised"},
        {"algorithm": "grpo_scratch", "kl_weight": 0.1, "kl_reference": "previous", "relabel": False},
        {"algorithm": "ppo"},
        {"algorithm": "dpo"},
    ],
)
def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, changes):
    options = dataclasses.replace(SMALL, **changes)
    whole = train_controller_policy(make_table(), make_latency(), options)
    for stop_after in (2, 5):  # in the warm start, then in the second stage
        with pytest.raises(InterruptedTrainingError):
            train_controller_policy(
                make_table(), make_latency(), options, checkpoint_dir=tmp_path, progress=Recorder(stop_after)
            )
    recorder = Recorder()
    resumed = train_controller_policy(
        make_table(), make_latency(), options, checkpoint_dir=tmp_path, progress=recorder
    )
    assert any(message.startswith("resumed at epoch") for message in recorder.messages)
    assert_equal_policies(whole, resumed)
    assert {k: v for k, v in whole.facts.items() if k != "seconds"} == {
        k: v for k, v in resumed.facts.items() if k != "seconds"
    }


def test_a_finished_run_is_not_repeated(tmp_path):
    first = train_controller_policy(make_table(), make_latency(), SMALL, checkpoint_dir=tmp_path)
    again = train_controller_policy(make_table(), make_latency(), SMALL, checkpoint_dir=tmp_path)
    assert_equal_policies(first, again)


def test_resuming_with_other_options_or_data_is_refused(tmp_path):
    train_controller_policy(make_table(), make_latency(), SMALL, checkpoint_dir=tmp_path)
    other = dataclasses.replace(SMALL, kl_weight=0.5)
    with pytest.raises(TrainError, match=r"another run, kl_weight \(.*-> 0.5\) changed"):
        train_controller_policy(make_table(), make_latency(), other, checkpoint_dir=tmp_path)
    fewer = make_table().select(np.arange(5, len(make_table().accuracy)))
    with pytest.raises(TrainError, match="another run, train .* changed"):
        train_controller_policy(fewer, make_latency(), SMALL, checkpoint_dir=tmp_path)


SOLVERS = {"grpo": TrainOptions(reference=HASTY_REFERENCE), "grpo_warm": SMALL}


@pytest.mark.parametrize("algorithm", SOLVERS)
def test_resuming_with_other_runtimes_is_refused(algorithm, tmp_path):
    """The same samples, accuracies and mean times; two samples have exchanged how long the first solver took."""
    table, options = solver_table(), SOLVERS[algorithm]
    times = table.latency_ms.copy()
    times[[0, 4], 0] = times[[4, 0], 0]
    other, latency = dataclasses.replace(table, latency_ms=times), fit_latency(table)
    train_controller_policy(table, latency, options, checkpoint_dir=tmp_path)
    with pytest.raises(TrainError, match="another run, train .* changed"):
        train_controller_policy(other, latency, options, checkpoint_dir=tmp_path)


@pytest.mark.parametrize("algorithm", SOLVERS)
def test_resuming_with_another_recipe_of_preparation_is_refused(algorithm, tmp_path):
    """A balance that an import recorded is no option, but draws other samples."""
    table, options = make_table(), SOLVERS[algorithm]
    recipe = Preparation(noise=0.1).to_json()
    manifest = dataclasses.replace(table.manifest, options=table.manifest.options | {KEY: recipe})
    other = dataclasses.replace(table, manifest=manifest)
    train_controller_policy(table, make_latency(), options, checkpoint_dir=tmp_path)
    with pytest.raises(TrainError, match=rf"another run, {KEY}.* changed"):
        train_controller_policy(other, make_latency(), options, checkpoint_dir=tmp_path)


def test_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "training.safetensors").write_bytes(b"not tensors")
    with pytest.raises(TrainError, match="damaged checkpoint"):
        train_controller_policy(make_table(), make_latency(), SMALL, checkpoint_dir=tmp_path)


def test_result_depends_on_the_seed_only():
    first, second = (train_controller_policy(make_table(), make_latency(), SMALL) for _ in range(2))
    torch.manual_seed(99)
    third = train_controller_policy(make_table(), make_latency(), dataclasses.replace(SMALL, seed=1))
    assert_equal_policies(first, second)
    assert (first.arrays["head.weight"] != third.arrays["head.weight"]).any()


def test_a_restored_trainer_has_all_the_state():
    trainer, other = make_trainer(), make_trainer()
    for _ in range(2):
        trainer._run_epoch(trainer.stages[0])
    saved = trainer.checkpoint("run")
    other.restore(saved)
    copied = other.checkpoint("run")
    assert copied.state == saved.state
    assert copied.tensors.keys() == saved.tensors.keys()
    for name, tensor in saved.tensors.items():
        assert torch.equal(tensor, copied.tensors[name]), name
    assert other.recent == trainer.recent
    assert len(other.recent) == 3
