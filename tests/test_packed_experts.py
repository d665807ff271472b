"""Experts in the processor's own order: the same sums, and only where they pay and can be had."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from molmoe_models import SMALL, picture, random_model
from paceline.errors import ModelError
from paceline.models.molmoe import packed
from paceline.models.molmoe.checkpoint import save_model
from paceline.models.molmoe.decoder import MixtureOfExperts
from paceline.models.molmoe.elastic import ElasticMolmoE
from paceline.models.molmoe.packed import ExpertLoop, PackedExperts, PlainExperts, can_pack
from paceline.models.registry import load_model
from public_molmoe import write_public

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("top_k", [1, 3, 8])
@pytest.mark.parametrize("tokens", [1, 2, 40])
def test_packed_experts_give_the_plain_sum(tokens, top_k, kind):
    moe = random_model(SMALL).decoder.blocks[1].get_submodule("moe").to(kind)
    assert isinstance(moe, MixtureOfExperts)
    x = torch.randn(tokens, SMALL.width, generator=torch.Generator().manual_seed(tokens)).to(kind)
    with torch.inference_mode():
        weights, experts = moe.route(x, top_k)
        plain = torch.zeros(x.shape)
        for token in range(tokens):
            for weight, expert in zip(weights[token], experts[token], strict=True):
                gate, up = (moe.gate_up[expert].float() @ x[token].float()).chunk(2)
                plain[token] += weight.float() * ((functional.silu(gate) * up) @ moe.down[expert].float())
        ways = [PackedExperts.of(moe.gate_up, moe.down), PlainExperts.of(moe.gate_up, moe.down)]
        ways += [PlainExperts(moe.gate_up, moe.down, fast=True)]
        tolerance = 1e-5 if kind == torch.float32 else 0.05
        for way in ways:
            mixed = way.mix(x, weights, experts)
            assert mixed.dtype == kind
            torch.testing.assert_close(mixed.float(), plain, atol=tolerance, rtol=tolerance)


def test_large_experts_that_are_not_packed_are_looped_over(monkeypatch):
    """What a model that nobody packed runs, with oneDNN where it multiplies and without."""
    options = replace(SMALL, width=512, num_heads=4, expert_hidden=512, num_experts=4, top_k=2)
    moe = MixtureOfExperts(options).requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in moe.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
    called = []
    monkeypatch.setattr(
        PlainExperts, "mix", lambda self, *a: called.append(self.fast) or ExpertLoop.mix(self, *a)
    )
    for tokens in (1, 3, 60):
        x = torch.randn(1, tokens, 512, generator=generator)
        with torch.inference_mode():
            flat = moe.norm(x)[0]
            dense = moe._dense(flat, *moe.route(flat, 2))
            torch.testing.assert_close(moe(x)[0], dense, atol=1e-4, rtol=1e-3)
    monkeypatch.setattr(packed, "_has_product", lambda: False)
    with torch.inference_mode():
        torch.testing.assert_close(moe(x)[0], dense, atol=1e-4, rtol=1e-3)
    assert called == [True, True, True, False]


def test_a_loaded_model_packs_what_is_large_and_answers_the_same(tmp_path, monkeypatch):
    directory = write_public(tmp_path / "model")
    plain = load_model(directory)
    monkeypatch.setattr(packed, "PACKED_WEIGHTS", 1)
    model = load_model(directory)
    assert isinstance(model, ElasticMolmoE)
    assert isinstance(plain, ElasticMolmoE)
    experts = [[b.get_submodule("moe") for b in m.model.decoder.blocks] for m in (plain, model)]
    assert all(moe.packed is None for moe in experts[0])
    assert all(moe.packed is not None and moe.gate_up.is_meta and moe.down.is_meta for moe in experts[1])
    assert model.describe()["parameters"] == plain.describe()["parameters"]
    for configuration in (model.knobs.full, model.knobs.cheapest, model.default_configuration):
        overviews = [
            [m.overview(picture(s, 170, 250), "what is the red one ?") for s in (1, 2)]
            for m in (plain, model)
        ]
        answers = [
            m.generate_together(o, configuration, 4) for m, o in zip((plain, model), overviews, strict=True)
        ]
        assert [a.tokens for a in answers[0]] == [a.tokens for a in answers[1]]
    with pytest.raises(ModelError, match="experts are packed for this processor"):
        save_model(model.model, tmp_path / "saved")


def test_packing_needs_a_large_weight_of_a_type_that_it_knows(monkeypatch):
    large = torch.randn(2, 520, 512, generator=torch.Generator().manual_seed(0))
    assert can_pack(large)
    assert can_pack(large.bfloat16())
    assert not can_pack(large[:, :400])
    assert not can_pack(large.double())
    assert not can_pack(large.to("meta"))
    rows = torch.randn(5, 512)
    np.testing.assert_allclose(packed.product(rows, packed.pack(large[1])), rows @ large[1].T, atol=1e-3)

    def missing(*_):
        raise AttributeError("no such operator")

    monkeypatch.setattr(packed, "product", missing)
    assert not can_pack(large)
    monkeypatch.setattr(packed, "product", lambda rows, weight: torch.zeros(len(rows), 520))
    assert not can_pack(large)  # an operator of that name that does something else
