"""Steps of fixed shapes give the tokens of growing ones; on a device without graphs they can be run all the same."""

import logging
from collections.abc import Generator

import pytest
import torch

from molmoe_models import KNOBS, MID, SMALL, elastic, picture, random_model
from paceline.models.molmoe.decoder import MixtureOfExperts
from paceline.models.molmoe.static_decode import StaticDecoding, Step

QUESTION = "what is the red one?"
CONFIGURATIONS = [KNOBS.full, KNOBS.cheapest, {"max_crops": 2, "top_k": 2, "num_active_blocks": 4}]


def answers(model, **options):
    overviews = [model.overview(picture(seed), QUESTION) for seed in (0, 1)]
    return [
        model.generate(overview, configuration, 8, **options).tokens
        for configuration in CONFIGURATIONS
        for overview in overviews
    ]


def test_steps_of_fixed_shapes_give_the_same_tokens():
    growing, fixed = elastic(), elastic()
    fixed.model.static = StaticDecoding(fixed.model, capture=False)
    assert answers(growing) == answers(fixed) == answers(fixed)  # the second time from buffers that were used
    sampled = {"temperature": 1.0, "seed": 3}
    assert answers(growing, **sampled) == answers(fixed, **sampled)
    assert len(fixed.model.static._steps) == len(CONFIGURATIONS)
    assert len(fixed.model.static._caches) == 1


def test_a_second_request_at_the_same_time_does_without():
    plain, model = elastic(), elastic()
    model.model.static = StaticDecoding(model.model, capture=False)
    streams = [
        m.stream(m.overview(picture(seed), QUESTION), KNOBS.full, 8)
        for seed in (0, 1)
        for m in (plain, model)
    ]
    pieces = [[next(stream)] for stream in streams]  # both are under way before either ends
    for stream, found in zip(streams, pieces, strict=True):
        found += stream
    assert pieces[0] == pieces[1]
    assert pieces[2] == pieces[3]
    left = model.stream(model.overview(picture(0), QUESTION), KNOBS.full, 8)
    next(left)
    assert isinstance(left, Generator)
    left.close()  # abandoned: the steps are free again
    assert model.model.static._busy.acquire(blocking=False)


def test_a_capture_that_fails_leaves_the_slower_way(monkeypatch, caplog):
    def fail(self):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(Step, "capture", fail)
    model = elastic()
    model.model.static = StaticDecoding(model.model)
    with caplog.at_level(logging.WARNING):
        assert answers(model) == answers(elastic())
    assert [record.message for record in caplog.records] == [
        "decoding without CUDA graphs: operation not permitted when stream is capturing"
    ]


@pytest.mark.parametrize("options", [SMALL, MID])
@pytest.mark.parametrize("top_k", [1, 3, 8])
def test_one_token_by_groups_is_the_plain_sum(options, top_k):
    moe = random_model(options).decoder.blocks[1].get_submodule("moe")
    assert isinstance(moe, MixtureOfExperts)
    x = torch.randn(1, options.width, generator=torch.Generator().manual_seed(top_k))
    with torch.inference_mode():
        routed = moe.route(x, top_k)
        torch.testing.assert_close(
            moe._grouped_single(x, *routed), moe._dense(x, *routed), atol=1e-5, rtol=1e-4
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_step_gives_the_same_tokens():
    growing, captured = (elastic() for _ in range(2))
    for model in (growing, captured):
        model.model.to("cuda")
    captured.model.static = StaticDecoding(captured.model)
    assert answers(growing) == answers(captured)
    assert not captured.model.static.failed
