"""Turning a knob is exact: it equals a model built that way, cache, padding and 8 generated tokens included."""

import copy
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import nn

from molmoe_models import KNOBS, MID, SMALL, elastic, picture, random_model
from paceline.models.molmoe import knob_state
from paceline.models.molmoe.generation import GenerationOptions
from paceline.models.molmoe.knob_state import KnobState
from paceline.models.molmoe.model import MolmoE
from paceline.models.phase_clock import PhaseClock
from paceline.models.protocol import Overview

EIGHT = GenerationOptions(max_new_tokens=8)
QUESTIONS = ["how many digits?", "what is the red one?", "w1 w2 w3 w4 w5 w6 w7 w8 w9 ?"]


@pytest.fixture(scope="module")
def model() -> MolmoE:
    return random_model()


def overviews(model: MolmoE) -> list[Overview]:
    sizes = [(70, 110), (110, 70), (64, 64)]
    return [
        model.overview(picture(seed, *size), question)
        for seed, (size, question) in enumerate(zip(sizes, QUESTIONS, strict=True))
    ]


def tokens(model: MolmoE, overview: Overview, max_crops: int, knobs: KnobState) -> list[int]:
    """Eight tokens, whatever they are: no end token stops them."""
    tiling = model.tiling(overview.image_size, max_crops)
    endless = copy.copy(model)
    endless.tokenizer = copy.copy(model.tokenizer)
    endless.tokenizer.end_of_text = -1
    return list(endless.token_ids(overview.state, tiling, knobs, EIGHT, PhaseClock(model.device)))


def batch_logits(model: MolmoE, knobs: KnobState) -> torch.Tensor:
    """Logits of a left-padded batch at 8 generated steps: (8, batch, vocabulary)."""
    seen = []

    def keep(_module, _inputs, output):
        seen.append(output)

    handle = model.decoder.head.register_forward_hook(keep)
    endless = copy.copy(model)
    endless.tokenizer = copy.copy(model.tokenizer)
    endless.tokenizer.end_of_text = -1
    try:
        endless.generate_batch(overviews(model), 6, knobs, EIGHT)
    finally:
        handle.remove()
    return torch.stack(seen)


def physically(model: MolmoE, kept: tuple[int, ...]) -> MolmoE:
    """A model that only has these blocks."""
    smaller = copy.deepcopy(model)
    smaller.decoder.blocks = nn.ModuleList(smaller.decoder.blocks[index] for index in kept)
    return smaller


@pytest.mark.parametrize("kept", [(0, 1), (0, 2, 5), (0, 1, 3, 4, 5)])
def test_skipping_blocks_equals_a_model_without_them(model, kept):
    smaller = physically(model, kept)
    assert torch.equal(batch_logits(model, KnobState(active_blocks=kept)), batch_logits(smaller, KnobState()))
    for overview in overviews(model):
        assert tokens(model, overview, 6, KnobState(active_blocks=kept)) == tokens(
            smaller, overview, 6, KnobState()
        )


@pytest.mark.parametrize("top_k", [1, 3, 8])
def test_top_k_equals_a_model_built_with_it(model, top_k):
    built = MolmoE(replace(SMALL, top_k=top_k), model.tokenizer)
    built.load_state_dict(model.state_dict())
    built.requires_grad_(False).eval()
    assert torch.equal(batch_logits(model, KnobState(top_k=top_k)), batch_logits(built, KnobState()))
    for overview in overviews(model):
        assert tokens(model, overview, 2, KnobState(top_k=top_k)) == tokens(built, overview, 2, KnobState())


def test_the_knobs_change_the_logits(model):
    full = batch_logits(model, KnobState())
    assert not torch.allclose(full, batch_logits(model, KnobState(top_k=2)), atol=1e-3)
    assert not torch.allclose(full, batch_logits(model, KnobState(active_blocks=(0, 1, 2, 3, 4))), atol=1e-3)


@pytest.mark.parametrize("max_crops", [1, 6])
@pytest.mark.parametrize("options", [SMALL, MID], ids=["own-masks", "shifted-masks"])
def test_reusing_the_overview_equals_computing_it_again(options, max_crops):
    model = random_model(options)
    overview = model.overview(picture(3, 150, 260), QUESTIONS[0])
    tiling = model.tiling(overview.image_size, max_crops)
    assert (tiling == (1, 1)) == (max_crops == 1)
    with torch.inference_mode():
        reused = model.image_tokens(overview.state, tiling)
        every = model.all_image_tokens(overview.state.pixels, tiling)
    torch.testing.assert_close(reused, every, atol=3e-4, rtol=1e-4)


def test_the_one_crop_of_a_whole_image_is_the_overview_and_is_not_read_again(model, monkeypatch):
    overview = model.overview(picture(3, 150, 260), QUESTIONS[0])
    monkeypatch.setattr(model.vision, "features", lambda patches: pytest.fail("the tower read a crop"))
    with torch.inference_mode():
        tokens_of_one_crop = model.image_tokens(overview.state, (1, 1))
    assert len(tokens_of_one_crop) == 2 * len(overview.state.tokens)
    assert model.workload(overview, 1).tiles == 1
    assert model.workload(overview, 2).tiles == 3


def test_the_cache_and_the_batch_agree_with_recomputing_everything(model):
    """Greedy tokens from plain full forwards, without cache, padding or skipping of positions."""
    rows = []
    with torch.inference_mode():
        for overview in overviews(model):
            tiling = model.tiling(overview.image_size, 6)
            embedded = model.embeddings(overview.state, tiling, model.image_tokens(overview.state, tiling))[
                None
            ]
            chosen: list[int] = []
            for _ in range(8):
                positions = torch.arange(embedded.shape[1])[None]
                logits = model.decoder.logits(model.decoder(embedded, positions))[0, -1]
                chosen.append(int(logits.argmax()))
                embedded = torch.cat((embedded, model.decoder.embed(torch.tensor([[chosen[-1]]]))), dim=1)
            rows.append(chosen)
    assert [tokens(model, overview, 6, KnobState()) for overview in overviews(model)] == rows
    batched = batch_logits(model, KnobState()).argmax(dim=-1).T.tolist()
    assert batched == rows
    assert len({tuple(row) for row in rows}) == 3


def test_left_padding_changes_nothing(model):
    """Each row of a padded batch has the logits that it has alone."""
    alone = []
    for overview in overviews(model):
        tiling = model.tiling(overview.image_size, 6)
        with torch.inference_mode():
            row = model.embeddings(overview.state, tiling, model.image_tokens(overview.state, tiling))[None]
            alone.append(model.decoder.logits(model.decoder(row, torch.arange(row.shape[1])[None]))[0, -1])
    torch.testing.assert_close(batch_logits(model, KnobState())[0], torch.stack(alone), atol=1e-4, rtol=1e-4)


def test_24_threads_with_different_configurations_equal_their_serial_runs():
    model = elastic()
    seen = [model.overview(picture(seed), QUESTIONS[seed % 3]) for seed in range(24)]
    jobs = [(seen[i], KNOBS.configuration((i * 7 + 3) % KNOBS.size)) for i in range(24)]
    serial = [model.generate(overview, configuration, 8).tokens for overview, configuration in jobs]
    with ThreadPoolExecutor(max_workers=24) as pool:
        futures = [
            pool.submit(model.generate, overview, configuration, 8) for overview, configuration in jobs
        ]
        threaded = [future.result().tokens for future in futures]
    assert threaded == serial
    assert len(set(serial)) > 3


def test_an_exception_inside_leaves_nothing_behind(model, monkeypatch):
    overview = overviews(model)[0]
    expected = tokens(model, overview, 6, KnobState())

    def fail(*_args, **_kwargs):
        raise RuntimeError("broken in block 2")

    with monkeypatch.context() as patch:
        patch.setattr(model.decoder.blocks[2], "forward", fail)
        with pytest.raises(RuntimeError, match="broken in block 2"):
            tokens(model, overview, 6, KnobState(top_k=1, active_blocks=(0, 2)))
    assert knob_state.current() == KnobState()
    assert not torch.is_inference_mode_enabled()
    assert tokens(model, overview, 6, KnobState()) == expected


def test_a_suspended_stream_leaks_no_knobs_into_its_caller():
    model = elastic()
    overview = model.overview(picture(), QUESTIONS[2])
    cheap, full = KNOBS.cheapest, KNOBS.full
    expected_full = model.generate(overview, full, 8).text
    expected_cheap = model.generate(overview, cheap, 8).text
    stream = model.stream(overview, cheap, 8)
    pieces = [next(stream)]
    assert knob_state.current() == KnobState()
    assert not torch.is_inference_mode_enabled()
    assert model.generate(overview, full, 8).text == expected_full
    assert "".join([*pieces, *stream]) == expected_cheap
    assert expected_cheap != expected_full


def test_an_abandoned_stream_leaves_nothing_behind():
    model = elastic()
    stream = model.stream(model.overview(picture(), QUESTIONS[0]), KNOBS.cheapest, 8)
    next(stream)
    assert isinstance(stream, Generator)
    stream.close()
    assert knob_state.current() == KnobState()
