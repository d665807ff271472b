"""Streaming, sampling, stop strings, phases and the lengths a request may have."""

import itertools

import pytest
import torch

from fakes import FakeModel
from molmoe_models import KNOBS, elastic, picture
from paceline.errors import ModelError, PromptError
from paceline.knobs import Configuration
from paceline.models.molmoe.elastic import ElasticMolmoE
from paceline.models.molmoe.generation import (
    GenerationOptions,
    TextStream,
    TokenChoice,
    padded_mask,
    padded_positions,
)
from paceline.models.protocol import AnswersTogether, Overview
from paceline.models.registry import load_model
from paceline.tasks.registry import load_task

QUESTION = "how many digits?"


@pytest.fixture(scope="module")
def model() -> ElasticMolmoE:
    return elastic()


@pytest.fixture(scope="module")
def overview(model) -> Overview:
    return model.overview(picture(), QUESTION)


@pytest.mark.parametrize("configuration", [KNOBS.cheapest, KNOBS.configuration(13), KNOBS.full])
def test_streaming_equals_generating(model, overview, configuration):
    generation = model.generate(overview, configuration, 8)
    assert "".join(model.stream(overview, configuration, 8)) == generation.text
    assert len(generation.tokens) == 8
    assert generation.text


def test_a_batch_equals_single_requests(model):
    overviews = [
        model.overview(picture(seed, 60 + 20 * seed, 90), "what is the red one?"[: 8 + 3 * seed])
        for seed in range(4)
    ]
    for configuration in (KNOBS.cheapest, KNOBS.full):
        single = [model.generate(item, configuration, 6).text for item in overviews]
        assert model.generate_batch(overviews, configuration, 6) == single
    assert model.generate_batch([], KNOBS.full, 6) == []


def test_questions_that_share_an_image_read_it_once_and_answer_alike(model, monkeypatch):
    prompts = ("what is red?", "is the large one red, or not at all?", "which?")
    overviews = [model.overview(picture(seed), prompt) for prompt in prompts for seed in (1, 2)]
    single = [model.generate(item, KNOBS.full, 6).text for item in overviews]
    rows: list[int] = []
    forward = model.model.decoder.forward
    monkeypatch.setattr(
        model.model.decoder, "forward", lambda x, *a, **k: (rows.append(len(x)), forward(x, *a, **k))[1]
    )
    assert model.generate_batch(overviews, KNOBS.full, 6) == single
    assert rows[:2] == [2, 6]


def test_phases_add_up_to_the_total(model, overview):
    generation = model.generate(overview, KNOBS.full, 4)
    timings = generation.timings
    assert min(timings.vision_ms, timings.prefill_ms, timings.decode_ms) > 0
    assert timings.vision_ms + timings.prefill_ms + timings.decode_ms == pytest.approx(timings.total_ms)
    assert timings.first_token_ms == pytest.approx(timings.vision_ms + timings.prefill_ms)


def test_workload_counts_tiles_and_tokens(model, overview):
    # 70 x 110 less the margin of 8 is 62 x 102; in 6 crops (2, 3) shrinks least: grid (2*3+1) x (3*3+1).
    workload = model.workload(overview, KNOBS.full)
    assert (workload.tiles, workload.vision_tokens) == (7, 16 + 70)
    # start, <im_start>, 4 rows of 5, <im_end>, <im_start>, 7 rows of 11, <im_end>, User: how many digits ? Assistant:
    assert workload.prompt_tokens == 1 + 1 + 20 + 1 + 1 + 77 + 1 + 6
    assert model.generate(overview, KNOBS.full, 1).workload == workload


def test_stop_strings_cut_the_text_and_end_generation(model, overview):
    plain = model.generate(overview, KNOBS.full, 8)
    words = plain.text.split(" ")
    stop = words[-1]
    generation = model.generate(overview, KNOBS.full, 8, stop=(stop,))
    assert generation.text == " ".join(words[: words.index(stop)])
    assert generation.finish_reason == "stop"
    decode = model.model.tokenizer.decode
    shortest = next(size for size in range(9) if stop in decode(plain.tokens[:size]))
    assert generation.tokens == plain.tokens[:shortest]
    assert "".join(model.stream(overview, KNOBS.full, 8, stop=(stop,))) == generation.text


def test_the_end_token_ends_generation(model, overview, monkeypatch):
    plain = model.generate(overview, KNOBS.full, 8)
    assert plain.finish_reason == "length"
    third = plain.tokens[2]
    monkeypatch.setattr(model.model.tokenizer, "end_of_text", third)
    generation = model.generate(overview, KNOBS.full, 8)
    assert generation.tokens == plain.tokens[: plain.tokens.index(third) + 1]
    assert generation.finish_reason == "stop"


def test_sampling_is_seeded_and_greedy_at_temperature_zero(model, overview):
    def sampled(seed, **options):
        return model.generate(overview, KNOBS.full, 8, temperature=3.0, seed=seed, **options).tokens

    assert sampled(1) == sampled(1)
    assert len({sampled(seed) for seed in range(4)}) > 1
    # A nucleus of almost nothing holds the likeliest token only.
    assert sampled(1, top_p=1e-6) == model.generate(overview, KNOBS.full, 8).tokens


def test_the_nucleus_keeps_the_likeliest_tokens_worth_top_p():
    # Probabilities 0.5, 0.3, 0.15, 0.05: 0.7 needs the first two.
    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log()
    choose = TokenChoice(GenerationOptions(max_new_tokens=1, temperature=1.0, top_p=0.7, seed=0))
    drawn = [choose(logits) for _ in range(4000)]
    assert set(drawn) == {1, 3}
    assert drawn.count(1) / 4000 == pytest.approx(0.5 / 0.8, abs=0.03)


class Spelled:
    """A tokenizer of single characters."""

    end_of_text = 0

    def decode(self, ids):
        return "".join(chr(index) for index in ids if index).strip()


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("yes. no", (), "yes. no"),
        ("yes. no", (".",), "yes"),
        ("a<end>b", ("<end>",), "a"),
        ("a<en>b", ("<end>",), "a<en>b"),  # held back, then given out
        ("aab", ("ab",), "a"),
        ("<end>", ("<end>",), ""),
        ("one two", ("two", "one t"), ""),
    ],
)
def test_streams_never_show_a_stop_string(text, stop, expected):
    stream, pieces = TextStream(Spelled(), stop), []  # pyright: ignore[reportArgumentType]
    for character in text:
        if stream.push(ord(character)):
            break
        pieces.append(stream.delta(last=False))
    pieces.append(stream.delta(last=True))
    assert "".join(pieces) == stream.text == expected
    for size in range(len(pieces)):
        assert expected.startswith("".join(itertools.islice(pieces, size)))


def test_padding_masks_and_positions_by_hand():
    valid = torch.tensor([[False, True, True], [True, True, True]])
    assert padded_positions(valid).tolist() == [[0, 0, 1], [0, 1, 2]]
    first, second = padded_mask(valid)[:, 0].int().tolist()
    assert first == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert second == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 1, "temperature": -1.0}, "temperature"),
        ({"max_new_tokens": 1, "temperature": float("nan")}, "temperature"),
        ({"max_new_tokens": 1, "top_p": 0.0}, "top_p"),
        ({"max_new_tokens": 1, "stop": ("",)}, "stop"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ModelError, match=message):
        GenerationOptions(**options)


def test_more_new_tokens_than_positions_are_refused(model, overview):
    with pytest.raises(PromptError, match="lower max_new_tokens"):
        model.generate(overview, KNOBS.full, 500)
    with pytest.raises(PromptError, match="lower max_new_tokens"):
        next(model.stream(overview, KNOBS.full, 500))
    with pytest.raises(PromptError, match="lower max_new_tokens"):
        model.generate_batch([overview], KNOBS.full, 500)


def test_batches_refuse_sampling(model, overview):
    options = GenerationOptions(max_new_tokens=2, temperature=1.0)
    configuration: Configuration = KNOBS.full
    with pytest.raises(ModelError, match="greedy"):
        model.model.generate_batch([overview], int(configuration["max_crops"]), None, options)  # pyright: ignore


# Together


def test_requests_answered_together_have_the_tokens_that_each_has_alone(model):
    overviews = [
        model.overview(picture(seed % 3, 60 + 20 * (seed % 3), 90), "what is the red one?"[: 8 + 2 * seed])
        for seed in range(6)
    ]
    for configuration in (KNOBS.cheapest, KNOBS.configuration(13), KNOBS.full):
        alone = [model.generate(item, configuration, 6) for item in overviews]
        together = model.generate_together(overviews, configuration, 6)
        assert [item.tokens for item in together] == [item.tokens for item in alone]
        assert [item.text for item in together] == [item.text for item in alone]
        assert [item.workload for item in together] == [item.workload for item in alone]
        assert [item.finish_reason for item in together] == [item.finish_reason for item in alone]
    assert model.generate_together([], KNOBS.full, 6) == []


def test_the_embedded_model_answers_together_as_alone():
    tiny, task = load_model("tiny"), load_task("digits")
    assert isinstance(tiny, AnswersTogether)
    samples = task.samples("test", 8, 31)
    overviews = [tiny.overview(task.image(sample), sample.question) for sample in samples]
    for configuration in (tiny.knobs.cheapest, tiny.knobs.configuration(tiny.knobs.size // 2)):
        alone = [tiny.generate(overview, configuration, 6).tokens for overview in overviews]
        assert [item.tokens for item in tiny.generate_together(overviews, configuration, 6)] == alone


def test_each_request_of_a_group_ends_with_its_own_end_token(model, overview, monkeypatch):
    other = model.overview(picture(3, 150, 260), "which?")
    alone = [model.generate(item, KNOBS.full, 8).tokens for item in (overview, other)]
    end = next(token for token in alone[0] if token not in alone[1])
    monkeypatch.setattr(model.model.tokenizer, "end_of_text", end)
    first, second = model.generate_together([overview, other], KNOBS.full, 8)
    assert first.tokens == alone[0][: alone[0].index(end) + 1]
    assert second.tokens == alone[1]
    assert (first.finish_reason, second.finish_reason) == ("stop", "length")


def test_the_phases_of_a_group_are_those_of_the_whole(model, overview):
    first, second = model.generate_together([overview, overview], KNOBS.full, 4)
    assert first.timings == second.timings
    timings = first.timings
    assert min(timings.vision_ms, timings.prefill_ms, timings.decode_ms) > 0
    assert timings.vision_ms + timings.prefill_ms + timings.decode_ms == pytest.approx(timings.total_ms)


def test_only_some_models_answer_together(model):
    assert isinstance(model, AnswersTogether)
    assert not isinstance(FakeModel(), AnswersTogether)
