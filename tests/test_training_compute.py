"""Precision, gradient checkpointing and device of training, on a CPU."""

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from command_line import message, run, run_json
from fakes import fake_table
from paceline.errors import TrainError
from paceline.evaluation.times import fit_latency
from paceline.learning.compute import Compute
from paceline.learning.options import TrainOptions
from paceline.learning.train import train_controller_policy
from paceline.learning.trained import TrainedPolicy
from paceline.outcomes.store import write_table
from paceline.policies.network import PolicyNetwork
from paceline.policies.spec import PolicySpec

SMALL = TrainOptions(algorithm="grpo_warm", hidden=32, members=2, batch_size=64, warm_epochs=8, epochs=3)


@cache
def trained(**changes: object) -> TrainedPolicy:
    table = fake_table(200, 60, 0)
    return train_controller_policy(table, fit_latency(table), dataclasses.replace(SMALL, **changes))


def make_network() -> tuple[PolicyNetwork, tuple[Tensor, Tensor, tuple[Tensor, Tensor]]]:
    table = fake_table(2, 1, 0)
    spec = PolicySpec(
        head="joint", members=2, image_width=3, question_width=5, hidden=64, budget_low_ms=4.0,
        budget_high_ms=16.0, full_latency_ms=16.0, actions=tuple(range(27)),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    network = PolicyNetwork(spec, table.space, dropout=0.4, generator=generator)
    batch = torch.randn(2, 50, 8, generator=generator), torch.randn(2, 50, 32, generator=generator)
    return network, (*batch, network.draw_masks(50, generator))


def gradients(compute: Compute) -> tuple[Tensor, list[Tensor], int]:
    """Outputs and gradients of a loss, and how many numbers the forward pass keeps for them."""
    network, inputs = make_network()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = compute.outputs(network, *inputs)
    outputs.square().mean().backward()
    found = [parameter.grad for parameter in network.parameters()]
    return outputs.detach(), [gradient for gradient in found if gradient is not None], sum(kept.values())


def test_checkpointed_activations_give_the_same_gradients_from_less():
    plain, checkpointed = (gradients(Compute(gradient_checkpointing=on)) for on in (False, True))
    assert torch.equal(plain[0], checkpointed[0])
    assert len(plain[1]) == len(checkpointed[1]) > 8
    for first, second in zip(plain[1], checkpointed[1], strict=True):
        assert first.abs().max() > 0
        assert torch.equal(first, second)
    assert checkpointed[2] < 0.7 * plain[2]


def test_checkpointing_changes_nothing_that_is_learned():
    plain, checkpointed = trained(), trained(gradient_checkpointing=True)
    assert plain.history == checkpointed.history
    for name, array in plain.arrays.items():
        np.testing.assert_array_equal(array, checkpointed.arrays[name], err_msg=name)


def test_mixed_precision_multiplies_in_bfloat16_and_answers_in_float32():
    network, inputs = make_network()
    seen: list[torch.dtype] = []
    network.head.register_forward_hook(lambda module, given, output: seen.append(output.dtype))
    exact = Compute().outputs(network, *inputs)
    mixed = Compute(precision="bfloat16").outputs(network, *inputs)
    assert seen == [torch.float32, torch.bfloat16]
    assert exact.dtype == mixed.dtype == torch.float32
    assert not torch.equal(exact, mixed)
    torch.testing.assert_close(exact, mixed, rtol=0.05, atol=0.02)
    _, found, _ = gradients(Compute(precision="bfloat16"))
    assert {gradient.dtype for gradient in found} == {torch.float32}


def test_mixed_precision_learns_as_much():
    exact, mixed = trained(), trained(precision="bfloat16")
    gain = exact.facts["validation_reward"] - exact.history[0]["validation_reward"]
    assert gain > 0.05
    assert mixed.facts["validation_reward"] > exact.facts["validation_reward"] - 0.2 * gain
    assert {array.dtype for array in mixed.arrays.values()} == {np.dtype(np.float32)}
    assert any((array != mixed.arrays[name]).any() for name, array in exact.arrays.items())


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_not_there():
    with pytest.raises(TrainError, match="device: got 'cuda', but torch finds no GPU.*--device cpu"):
        train_controller_policy(
            fake_table(20, 8, 0), fit_latency(fake_table(20, 8, 0)), dataclasses.replace(SMALL, device="cuda")
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(
    "changes", [{}, {"precision": "bfloat16", "gradient_checkpointing": True}, {"group_size": 4}]
)
def test_training_on_a_gpu_learns_as_much(changes):
    found = trained(device="cuda", **changes)
    assert found.facts["validation_reward"] > trained().facts["validation_reward"] - 0.03


@pytest.mark.parametrize(("name", "value"), [("device", "tpu"), ("precision", "float16")])
def test_unknown_devices_and_precisions(name, value):
    with pytest.raises(TrainError, match=f"{name}: got '{value}', expected one of"):
        TrainOptions(**{"algorithm": "grpo_warm", name: value})


@pytest.fixture
def outcomes(tmp_path: Path) -> Path:
    write_table(tmp_path / "outcomes", fake_table(60, 20, 10))
    return tmp_path / "outcomes"


def test_the_command_line_takes_precision_and_checkpointing(outcomes, tmp_path):
    words = ("--algorithm", "outcome", "--epochs", 1, "--precision", "bfloat16", "--gradient-checkpointing")
    options = run_json("train", outcomes, "--out", tmp_path / "c", *words)["facts"]["options"]
    assert (options["precision"], options["gradient_checkpointing"], options["device"]) == (
        "bfloat16",
        True,
        "cpu",
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--device", "cuda"), "torch finds no GPU"),
        (("--device", "tpu"), "expected one of ['cpu', 'cuda']"),
        (("--precision", "int8"), "expected one of ['float32', 'bfloat16']"),
    ],
)
def test_faults_of_the_command_line_end_in_one_message(outcomes, tmp_path, words, expected):
    result = run("train", outcomes, "--out", tmp_path / "c", *words)
    assert result.exit_code == 2
    assert expected in message(result)
    assert not (tmp_path / "c").exists()
