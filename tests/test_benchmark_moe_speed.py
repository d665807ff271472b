"""The comparison of experts: equal weights, equal outputs, and an error where anybody computes something else."""

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra hf")

from benchmarks import moe_speed


@pytest.fixture(scope="module")
def made():
    return moe_speed.blocks("tiny", torch.float32)


@pytest.mark.parametrize("top_k", [1, 8, 32])
def test_everybody_computes_the_same(made, top_k):
    x = torch.randn(1, 20, 96, generator=torch.Generator().manual_seed(top_k))
    ours, theirs, norm = made
    calls = moe_speed.contenders(ours, theirs, norm, x, top_k)
    assert list(calls) == ["ours", "eager", "grouped_mm"]
    assert 0 <= moe_speed.assert_equal(calls, torch.float32) < 1e-5
    few = moe_speed.contenders(ours, theirs, norm, x, 2)["ours"]
    with pytest.raises(AssertionError, match=r"outputs differ from eager by .'ours'"):
        moe_speed.assert_equal(calls | {"ours": few}, torch.float32)


def test_the_implementations_are_different_ones(made, monkeypatch):
    import transformers.integrations.moe as moe

    ours, theirs, norm = made
    called = []
    original = moe._grouped_mm
    monkeypatch.setattr(moe, "_grouped_mm", lambda *a, **k: called.append(1) or original(*a, **k))
    x = torch.randn(1, 4, 96)
    calls = moe_speed.contenders(ours, theirs, norm, x, 2)
    calls["eager"](0)
    assert not called
    calls["grouped_mm"](0)
    assert called
    assert (
        theirs["eager"].experts.gate_up_proj.data_ptr()
        == theirs["grouped_mm"].experts.gate_up_proj.data_ptr()
    )
    assert norm.weight.shape == (96,)


def test_a_small_run(monkeypatch):
    monkeypatch.setattr(moe_speed, "TOP_K", (4,))
    monkeypatch.setattr(moe_speed, "TURN_SECONDS", 1e-4)
    found = moe_speed.compare("tiny", torch.float32, [1], rounds=2, prefill=16)
    cell = found["1 thread"]["prefill"]["4"]
    assert found["packed"] is False
    assert set(cell["milliseconds"]) == {"ours", "eager", "grouped_mm"}
    assert cell["over_ours"]["eager"]["lowest"] <= cell["over_ours"]["eager"]["median"]
