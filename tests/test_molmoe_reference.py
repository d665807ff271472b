"""Our MolmoE against the plain reference, from pixels and a question to the logits at every position."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from molmoe_models import MID, SMALL, picture, random_model
from molmoe_reference import Reference
from paceline.models.molmoe import knob_state
from paceline.models.molmoe.decoder import MixtureOfExperts
from paceline.models.molmoe.knob_state import KnobState

FLOATS = replace(SMALL, resize_bits=32, num_blocks=3)


@pytest.mark.parametrize(
    ("options", "height", "width", "max_crops", "tiling"),
    [
        (FLOATS, 70, 110, 6, (2, 3)),
        (FLOATS, 110, 70, 1, (1, 1)),
        (replace(FLOATS, mask_row_shift=1, router_cap=None, top_k=2), 64, 120, 2, (1, 2)),
        (MID, 200, 400, 4, (1, 4)),
        (MID, 330, 250, 6, (3, 2)),
    ],
)
def test_logits_match_the_reference(options, height, width, max_crops, tiling):
    model = random_model(options)
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}
    reference = Reference(options, weights)
    image = picture(7, height, width)
    overview = model.overview(image, "what is the red one?")
    assert (
        model.tiling(overview.image_size, max_crops) == tiling == reference.tiling(height, width, max_crops)
    )
    with torch.inference_mode():
        embedded = model.embeddings(overview.state, tiling, model.image_tokens(overview.state, tiling))[None]
        hidden = model.decoder(embedded, torch.arange(embedded.shape[1])[None])
        ours = model.decoder.logits(hidden)[0].numpy()
    grid = model.workload(overview, max_crops).vision_tokens - model.crop_options.overview_tokens
    ids = model.tokenizer.layout(
        model.crop_options.pooled_side,
        (
            tiling[0] * window(options) + sum(options.margins) // 2,
            tiling[1] * window(options) + sum(options.margins) // 2,
        ),
        overview.state.prompt_ids,
    )
    assert ids.count(model.tokenizer.image_patch) == grid + model.crop_options.overview_tokens
    plain = reference.logits(np.asarray(image), tiling, ids, model.tokenizer.image_patch)
    assert ours.std() > 0.3
    np.testing.assert_allclose(ours, plain, atol=1e-2 * ours.std())


def window(options):
    """Tokens along the side of a crop's window."""
    return (options.crop_size // options.patch_size - sum(options.margins)) // 2


@pytest.mark.parametrize("top_k", [1, 2, 5, 8])
@pytest.mark.parametrize("tokens", [1, 7, 600])
def test_every_way_to_mix_experts_gives_the_plain_sum(tokens, top_k):
    moe = random_model(SMALL).decoder.blocks[1].get_submodule("moe")
    assert isinstance(moe, MixtureOfExperts)
    x = torch.randn(tokens, SMALL.width, generator=torch.Generator().manual_seed(tokens))
    with torch.inference_mode():
        weights, experts = moe.route(x, top_k)
        plain = torch.zeros_like(x)
        for token in range(tokens):
            for weight, expert in zip(weights[token], experts[token], strict=True):
                gate, up = (moe.gate_up[expert] @ x[token]).chunk(2)
                plain[token] += weight * ((torch.nn.functional.silu(gate) * up) @ moe.down[expert])
        for method in (moe._grouped, moe._dense, moe._pieces, *([moe._single] if tokens == 1 else [])):
            torch.testing.assert_close(method(x, weights, experts), plain, atol=1e-5, rtol=1e-4)
        with knob_state.knobs(KnobState(top_k=top_k)):
            routed = moe.route(moe.norm(x), top_k)
            torch.testing.assert_close(
                moe(x[None])[0], moe._grouped(moe.norm(x), *routed), atol=1e-5, rtol=1e-4
            )


def test_the_weights_of_a_token_are_not_renormalised():
    moe = random_model(MID).decoder.blocks[0].get_submodule("moe")
    assert isinstance(moe, MixtureOfExperts)
    x = torch.randn(50, MID.width, generator=torch.Generator().manual_seed(0))
    weights, _ = moe.route(x, 2)
    everything, _ = moe.route(x, 8)
    assert (weights.sum(dim=1) < 0.999).any()
    torch.testing.assert_close(everything.sum(dim=1), torch.ones(50))
    torch.testing.assert_close(weights.max(dim=1).values, torch.softmax(moe.router(x), -1).max(dim=1).values)
