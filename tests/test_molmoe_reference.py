"""Our MolmoE against the plain reference, from pixels and a question to the logits at every position."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from molmoe_models import MID, SMALL, picture, random_model
from molmoe_reference import Reference

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
    np.testing.assert_allclose(ours, plain, atol=2e-3 * ours.std())


def window(options):
    """Tokens along the side of a crop's window."""
    return (options.crop_size // options.patch_size - sum(options.margins)) // 2
