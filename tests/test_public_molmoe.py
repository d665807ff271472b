"""Checkpoints in the public layout against the plain reference: from pixels and a question to logits and tokens."""

import numpy as np
import pytest
import torch

from molmoe_models import picture
from paceline.models.molmoe import knob_state
from paceline.models.molmoe.decoder import KeyValueCache, MixtureOfExperts
from paceline.models.molmoe.elastic import ElasticMolmoE
from paceline.models.molmoe.generation import left_pad, padded_mask, padded_positions
from paceline.models.molmoe.knob_state import KnobState
from paceline.models.registry import load_model
from public_molmoe import write_public
from public_reference import PublicReference, choose_tiling

QUESTION = "what is the red one ?"
CLOSE = 1e-3  # logits have a standard deviation of 1.4; what is left is float32's rounding from the pixels on


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[ElasticMolmoE, PublicReference]:
    directory = write_public(tmp_path_factory.mktemp("public") / "model")
    model = load_model(directory)
    assert isinstance(model, ElasticMolmoE)
    return model, PublicReference(directory)


def embedded(model, image, max_crops, question=QUESTION):
    """Our input embeddings of a request."""
    state, molmo = model.overview(image, question).state, model.model
    tiling = molmo.tiling((image.height, image.width), max_crops)
    with torch.inference_mode():
        return molmo.embeddings(state, tiling, molmo.image_tokens(state, tiling)), tiling


def expected(reference, image, tiling, question=QUESTION):
    tokens = reference.image_tokens(np.asarray(image), tiling)
    return reference.embeddings(reference.ids(tiling, question), tokens)


@pytest.mark.parametrize(
    ("height", "width", "max_crops", "tiling"),
    [
        (200, 300, 6, (2, 3)),
        (300, 200, 4, (3, 1)),
        (170, 150, 2, (2, 1)),
        (90, 400, 6, (1, 1)),  # lower than the margins: no tiling is better than another
        (168, 168, 6, (1, 1)),
        (120, 600, 5, (1, 5)),
    ],
)
def test_logits_are_those_of_the_equations(both, height, width, max_crops, tiling):
    model, reference = both
    image = picture(7, height, width)
    ours, chosen = embedded(model, image, max_crops)
    assert chosen == tiling == choose_tiling(height, width, max_crops, 56, 112)
    theirs = expected(reference, image, tiling)
    np.testing.assert_allclose(ours, np.stack(theirs), atol=CLOSE, rtol=CLOSE)
    with torch.inference_mode():
        hidden = model.model.decoder(ours[None], torch.arange(len(ours))[None])
        logits = model.model.decoder.logits(hidden)[0]
    assert logits.std() > 1
    np.testing.assert_allclose(logits, reference.logits(theirs), atol=CLOSE)


@pytest.mark.parametrize(("top_k", "blocks"), [(1, (0, 1, 2)), (3, (0, 2)), (8, (0,))])
def test_knobs_are_experts_and_blocks_of_the_equations(both, top_k, blocks):
    model, reference = both
    image = picture(3, 150, 220)
    ours, tiling = embedded(model, image, 2)
    theirs = reference.logits(expected(reference, image, tiling), top_k=top_k, blocks=list(blocks))
    with torch.inference_mode(), knob_state.knobs(KnobState(top_k, blocks)):
        logits = model.model.decoder.logits(model.model.decoder(ours[None], torch.arange(len(ours))[None]))
    np.testing.assert_allclose(logits[0], theirs, atol=CLOSE)


def test_left_padding_shifts_nothing(both):
    model, reference = both
    images = [picture(1, 168, 168), picture(2, 200, 300)]
    rows = [embedded(model, image, 6) for image in images]
    with torch.inference_mode():
        x, valid = left_pad([row for row, _ in rows])
        hidden = model.model.decoder(x, padded_positions(valid), padded_mask(valid))
        logits = model.model.decoder.logits(hidden)
    for place, (image, (row, tiling)) in enumerate(zip(images, rows, strict=True)):
        theirs = expected(reference, image, tiling)
        padding = x.shape[1] - len(row)
        padded = [np.zeros(x.shape[2])] * padding + theirs
        flags = [False] * padding + [True] * len(theirs)
        alone, inside = reference.logits(theirs), reference.logits(padded, valid=flags)[padding:]
        np.testing.assert_allclose(inside, alone, atol=1e-9)
        np.testing.assert_allclose(logits[place, padding:], alone, atol=CLOSE)


def test_decoding_with_the_cache_equals_reading_everything_again(both):
    model, reference = both
    molmo, image = model.model, picture(5, 130, 260)
    ours, tiling = embedded(model, image, 6)
    sequence = expected(reference, image, tiling)
    table = np.concatenate(
        [reference.w[f"model.transformer.wte.{n}"] for n in ("embedding", "new_embedding")]
    )
    tokens = []
    with torch.inference_mode():
        cache = KeyValueCache(len(ours) + 6)
        step, start = ours, 0
        for _ in range(6):
            positions = torch.arange(start, start + len(step))[None]
            scores = molmo.decoder.logits(molmo.decoder(step[None], positions, cache=cache)[:, -1])[0]
            theirs = reference.logits(sequence)[-1]
            np.testing.assert_allclose(scores, theirs, atol=CLOSE)
            tokens.append(int(theirs.argmax()))
            sequence = [*sequence, table[tokens[-1]]]
            start += len(step)
            step = molmo.decoder.embed(torch.tensor(tokens[-1:]))
    overview = model.overview(image, QUESTION)
    configuration = model.default_configuration
    generated = model.generate(overview, configuration, 6)
    assert list(generated.tokens) == tokens[: len(generated.tokens)]
    other = model.overview(picture(6, 168, 168), "how many dogs are there ?")
    together = model.generate_together([other, overview], configuration, 6)
    assert together[1].tokens == generated.tokens


def test_a_crop_of_nothing_gives_nothing_but_its_padding(both):
    """Only where all patches are -1 the features are 0; the same test in the reference."""
    model, reference = both
    tower = model.model.vision
    empty = torch.full((1, 144, 588), -1.0)
    almost = empty.clone()
    almost[0, 143, 587] = -1.001
    with torch.inference_mode():
        assert (tower.features(empty) == 0).all()
        features = tower.features(almost)[0]
        mask = torch.rand(1, 144, generator=torch.Generator().manual_seed(0)).round(decimals=1)
        mask[0, :40], mask[0, 40:60], mask[0, 60:80] = 0, 1, -1
        tokens = tower(torch.cat((empty, almost)), mask.repeat(2, 1))
    np.testing.assert_allclose(
        features, np.stack(reference.tower(list(almost[0].double().numpy()))), atol=CLOSE
    )
    for place, crop in enumerate((empty, almost)):
        grid = reference.pooled(list(crop[0].double().numpy()), mask[0].double().numpy())
        np.testing.assert_allclose(tokens[place], np.stack([t for row in grid for t in row]), atol=CLOSE)


def test_in_bfloat16_norms_router_and_pooling_stay_in_float32(tmp_path):
    directory = write_public(tmp_path / "model")
    wide, narrow = load_model(directory), load_model(directory, dtype="bfloat16")
    assert isinstance(narrow, ElasticMolmoE)
    assert isinstance(wide, ElasticMolmoE)
    assert {parameter.dtype for parameter in narrow.model.parameters()} == {torch.bfloat16}
    moe = narrow.model.decoder.blocks[0].get_submodule("moe")
    assert isinstance(moe, MixtureOfExperts)
    x = torch.randn(40, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.inference_mode():
        weights, experts = moe.route(x, 3)
        exact = (x @ moe.router.weight.T).float().softmax(dim=-1)
        torch.testing.assert_close(weights, exact.gather(1, experts).bfloat16(), rtol=0, atol=0)
        norm = narrow.model.decoder.norm
        plain = x.float() / (x.float().pow(2).mean(dim=-1, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(norm(x), plain.bfloat16() * norm.weight, rtol=0, atol=0)
    image = picture(7, 200, 300)
    rows = [embedded(model, image, 6)[0].float() for model in (wide, narrow)]
    assert torch.nn.functional.cosine_similarity(*rows, dim=-1).median() > 0.999
    answers = [
        model.generate(model.overview(image, QUESTION), model.default_configuration, 4)
        for model in (wide, narrow)
    ]
    assert answers[0].workload == answers[1].workload
