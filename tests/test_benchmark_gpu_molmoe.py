"""The device benchmark: counted work, a small run of all its code on a processor, and a refusal without a device."""

import math
import sys

import pytest
import torch

from benchmarks import gpu_molmoe
from benchmarks.molmoe_work import Work
from molmoe_models import MID, random_model
from paceline.models.molmoe.options import MOLMOE_1B


def counted(model, prefix, *endings):
    """Numbers in the matrices whose names begin and end so."""
    return sum(
        item.numel()
        for name, item in model.state_dict().items()
        if name.startswith(prefix) and item.dim() > 1 and (not endings or name.endswith(endings))
    )


def test_work_is_that_of_the_weights_a_token_meets():
    model = random_model(MID)
    everything = Work(options=MID, top_k=MID.num_experts, blocks=MID.num_blocks)
    head = counted(model, "decoder.head")
    weights = counted(model, "decoder.blocks.") + head
    assert everything.decode_bytes(0, 2) == 2 * weights
    assert (
        everything.decode_bytes(10, 2) - everything.decode_bytes(9, 2) == 2 * 2 * MID.width * MID.num_blocks
    )
    one = Work(options=MID, top_k=1, blocks=1)
    expert = 3 * MID.width * MID.expert_hidden
    assert everything.block_weights - one.block_weights == (MID.num_experts - 1) * expert
    # A prefill of one token meets every weight once: a multiplication and an addition each, and itself in attention.
    assert everything.prefill_operations(1) == 2 * weights + 4 * MID.width * MID.num_blocks
    growth = everything.prefill_operations(3) - everything.prefill_operations(2)
    blocks = counted(model, "decoder.blocks.0.")
    last = 2 * 3 * MID.width**2 + 4 * MID.width
    assert growth == (MID.num_blocks - 1) * (2 * blocks + 4 * MID.width * 3) + last


def test_work_of_the_vision_tower():
    model, patches = random_model(MID), MID.grid**2
    expected = 2 * patches * counted(model, "vision.patch_embedding")
    expected += 2 * (patches + 1) * counted(model, "vision.blocks.")
    expected += MID.vit_blocks * 4 * MID.vit_width * (patches + 1) ** 2
    expected += 2 * patches * counted(model, "vision.", "pool_k.weight", "pool_v.weight")
    expected += 2 * (patches // 4) * counted(model, "vision.", "pool_q.weight", "pool_out.weight")
    expected += 2 * (patches // 4) * counted(model, "vision.project")
    work = Work(options=MID, top_k=1, blocks=1)
    assert work.vision_operations(1) == expected
    assert work.vision_operations(5) == 5 * expected


def test_molmoe_1b_reads_two_gigabytes_per_token():
    """By hand: 16 blocks of 4 * 2048^2 + 64 * 2048 + 8 experts * 3 * 2048 * 1024, and 50,304 * 2048 of output."""
    work = Work(options=MOLMOE_1B, top_k=8, blocks=16)
    weights = 16 * (16_777_216 + 131_072 + 50_331_648) + 103_022_592
    assert work.decode_bytes(0, 2) == 2 * weights == 2_357_723_136


def test_all_of_it_on_a_processor(monkeypatch):
    monkeypatch.setattr(gpu_molmoe, "REQUESTS", 8)
    found = gpu_molmoe.measure("tiny", torch.device("cpu"), torch.float32, 8, 3, 4)
    assert found["device"] == "cpu"
    assert found["cuda_graphs"] is False
    assert len(found["configurations"]) == 4  # the full configuration of the default space is tiny's default
    cell = found["default"]
    assert cell["configuration"] == {"max_crops": 12, "top_k": 32, "num_active_blocks": 16}
    assert cell["total_ms"] >= cell["prefill_ms"] > 0
    assert all(math.isfinite(value) for value in cell.values() if isinstance(value, float))
    assert found["knobs"]["top_k"]["32"] == cell
    assert found["overhead"]["median_ms"] > 0
    assert found["limits"]["gigabytes_per_second"] > 0.1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_it_says_so(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_molmoe.py"])
    with pytest.raises(SystemExit, match="torch finds no CUDA device here"):
        gpu_molmoe.main()
