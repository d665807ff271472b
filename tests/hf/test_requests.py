"""Requests at their edges: forged prompts, stop strings, ends, streams that nobody reads to the end."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationMixin, PreTrainedModel

from hf.checkpoints import picture
from hf.exactness import NEW_TOKENS
from hf.opened import Small, open_small
from paceline.errors import ModelError, PromptError
from paceline.models.transformers import knob_state
from paceline.models.transformers.elastic import ElasticTransformers
from paceline.models.transformers.generation import StopStrings, greedy
from paceline.models.transformers.instrumented import reserved_tokens
from paceline.models.transformers.opening import load_transformers

GetSmall = Callable[[str], Small]


# Prompts


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("gemma3", "<image_soft_token>"),
        ("gemma3", "<end_of_image>"),
        ("molmo2", "<im_patch>"),
        ("molmo2", "<low_res_im_start>"),
        ("llama4", "<|patch|>"),
        ("internvl", "</img>"),
        ("internvl", "<eos>"),
        ("idefics3", "<row_1_col_2>"),
        ("smolvlm", "<end_of_utterance>"),
        ("qwen2_5_vl", "<|vision_start|>"),
        ("glm4v_moe", "<|begin_of_video|>"),
    ],
)
def test_questions_with_special_tokens_are_refused(small: GetSmall, name: str, token: str) -> None:
    model = small(name).model
    with pytest.raises(PromptError, match="prompt: got the special tokens .* inside the question") as caught:
        model.overview(picture(60, 60), f"What is {token} here?")
    assert f"[{token!r}]" in str(caught.value)
    model.overview(picture(60, 60), f"What is {token[1:]} here?")  # text that only looks like one


def test_families_that_nobody_described_refuse_them_too(tmp_path: Path) -> None:
    from hf import small_llava

    small_llava.build(tmp_path)
    model = load_transformers(tmp_path, name="mine")
    with pytest.raises(PromptError, match=r"got the special tokens \['<eos>'\]"):
        model.overview(picture(60, 60), "Why?<eos>")


def test_reserved_are_special_tokens_and_those_that_stand_for_images() -> None:
    """By hand: a special one, one that the configuration names, not the unknown one nor what is only added."""
    names = {0: "<unk>", 3: "<eos>", 5: "<image>", 7: "<loc1>"}
    tokenizer = SimpleNamespace(
        added_tokens_decoder={index: SimpleNamespace(special=index in (0, 3)) for index in names},
        all_special_ids=[0, 3],
        unk_token_id=0,
        convert_ids_to_tokens=names.get,
    )
    config = SimpleNamespace(image_token_id=5, pad_token_id=7, hidden_size=3)
    checkpoint: Any = SimpleNamespace(processor=SimpleNamespace(tokenizer=tokenizer), config=config)
    assert reserved_tokens(checkpoint) == {3: "<eos>", 5: "<image>"}


def test_questions_that_are_no_text_are_refused(small: GetSmall) -> None:
    with pytest.raises(PromptError, match=r"prompt: character 1 is '\\ud800', half of a pair of surrogates"):
        small("internvl").model.overview(picture(60, 60), "a\ud800b")


# Ends of answers


@pytest.mark.parametrize(
    ("stop", "found"), [(("b c",), 4), (("zz", "c"), 4), (("b ", "c"), 3), (("ca",), None)]
)
def test_stop_strings_are_sought_in_the_answer_alone(stop: tuple[str, ...], found: int | None) -> None:
    """The prompt is "bc", the answer "ab c"."""
    ids = [1, 2, 0, 1, 3, 2]
    criterion = StopStrings(stop, 2, lambda ids: "".join("abc "[index] for index in ids))
    stopped = [bool(criterion(torch.tensor([ids[: 2 + count]]), None).all()) for count in range(1, 5)]
    assert stopped == [found is not None and count >= found for count in range(1, 5)]


def test_an_answer_ends_before_a_stop_string(small: GetSmall, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also before one that is white space, at its beginning or its end."""
    opened = small("internvl")
    overview, configuration = opened.overview(), opened.model.default_configuration
    whole = opened.model.generate(overview, configuration, NEW_TOKENS).tokens
    for place in (0, 2, len(whole) - 1):
        first = whole.index(whole[place])

        def decode(ids: list[int], last: int = whole[place]) -> str:
            return "".join("\n" if index == last else "x" for index in ids)

        monkeypatch.setattr(opened.shared, "decode", decode)
        answer = opened.model.generate(overview, configuration, NEW_TOKENS, stop=("\n",))
        assert answer.tokens == whole[: first + 1]
        assert (answer.text, answer.finish_reason) == ("x" * first, "stop")
        earlier = opened.model.generate(overview, configuration, NEW_TOKENS, stop=("\n", "x\n"))
        assert earlier.text == "x" * (first - 1)  # of two that end there the one that begins first


def test_answers_end_with_the_end_token(small: GetSmall, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of several that are answered together ends early; what pads it is no text of it."""
    opened = small("internvl")
    configuration = opened.model.default_configuration
    overviews = [opened.overview(), opened.overview(60, 60, "Why?")]
    whole = [opened.model.generate(overview, configuration, NEW_TOKENS).tokens for overview in overviews]
    other = next(token for token in whole[1] if token not in whole[0])
    for place in (0, 3):
        end = whole[0][place]
        if end in whole[1]:
            continue
        settings: Any = opened.shared.model.generation_config
        monkeypatch.setattr(settings, "eos_token_id", [end])
        monkeypatch.setattr(settings, "pad_token_id", other)  # which a tokenizer would print
        model = ElasticTransformers(opened.shared)
        answer = model.generate(overviews[0], configuration, NEW_TOKENS)
        assert answer.tokens == whole[0][: place + 1]
        assert answer.finish_reason == "stop"
        assert answer.text == opened.shared.decode(whole[0][:place]).strip()
        second = model.generate(overviews[1], configuration, NEW_TOKENS)
        assert second.finish_reason == "length"
        assert model.generate_batch(overviews, configuration, NEW_TOKENS) == [answer.text, second.text]


def test_answers_are_greedy_whatever_the_checkpoint_asks_for(
    small: GetSmall, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = small("internvl")
    overview, configuration = opened.overview(), opened.model.default_configuration
    expected = opened.model.generate(overview, configuration, NEW_TOKENS).tokens
    settings: Any = opened.shared.model.generation_config
    asked = {"do_sample": True, "temperature": 9.0, "top_k": 50, "num_beams": 3, "max_length": 5}
    for name, value in {**asked, "cache_implementation": "static"}.items():
        monkeypatch.setattr(settings, name, value)
    model = ElasticTransformers(opened.shared)
    assert [model.generate(overview, configuration, NEW_TOKENS).tokens for _ in range(3)] == [expected] * 3
    assert "".join(model.stream(overview, configuration, NEW_TOKENS)).strip()
    assert (greedy(opened.shared.model).cache_implementation, settings.cache_implementation) == (
        None,
        "static",
    )
    assert greedy(opened.shared.model).disable_compile  # on a GPU a fixed cache would have it compiled


@pytest.mark.parametrize("count", [0, -1])
def test_answers_of_no_length_are_refused(small: GetSmall, count: int) -> None:
    model, overview = small("internvl").model, small("internvl").overview()
    for ask in (model.generate, model.stream):
        with pytest.raises(ModelError, match=f"max_new_tokens: got {count}, expected at least 1"):
            ask(overview, model.knobs.full, count)
    with pytest.raises(ModelError, match=f"max_new_tokens: got {count}, expected at least 1"):
        model.generate_batch([overview], model.knobs.full, count)


def test_phases_are_timed_apart(small: GetSmall) -> None:
    """The tower takes 40 ms more than it does, the prompt none, every further token 10 ms."""
    opened = small("internvl")
    overview, calls = opened.overview(), []
    tower: Any = opened.shared.family.tower(opened.shared.model)

    def wait(*given: Any) -> None:
        calls.append(given)
        time.sleep(0.010 if len(calls) > 1 else 0)

    handles = [
        opened.shared.blocks[0].register_forward_pre_hook(wait),
        tower.register_forward_pre_hook(lambda *given: time.sleep(0.040)),
    ]
    try:
        answer = opened.model.generate(overview, opened.model.default_configuration, NEW_TOKENS)
    finally:
        for handle in handles:
            handle.remove()
    times = answer.timings
    assert len(answer.tokens) == len(calls) == NEW_TOKENS
    assert times.vision_ms > 40
    assert times.decode_ms > 10 * (NEW_TOKENS - 1)
    assert times.first_token_ms == pytest.approx(times.vision_ms + times.prefill_ms)
    assert times.total_ms == pytest.approx(times.first_token_ms + times.decode_ms)


def test_question_features_are_those_of_its_tokens(small: GetSmall) -> None:
    opened = small("internvl")
    overview = opened.overview(question="Why?")
    embedded = opened.shared.model.get_input_embeddings().weight[opened.shared.question_ids("Why?")]
    assert len(embedded) == 4
    np.testing.assert_allclose(overview.question_features, embedded.mean(0).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stop", ["abc", ("",), (1,)])
def test_stop_strings_that_are_none_are_refused(small: GetSmall, stop: Any) -> None:
    model, overview = small("internvl").model, small("internvl").overview()
    with pytest.raises(ModelError, match="stop: got .*, expected a tuple of non-empty strings"):
        model.generate(overview, model.knobs.full, 1, stop=stop)


# Streams


def test_a_stream_that_nobody_reads_starts_nothing(small: GetSmall) -> None:
    model, threads = small("internvl").model, threading.active_count()
    stream = model.stream(small("internvl").overview(), model.knobs.cheapest, NEW_TOKENS)
    assert threading.active_count() == threads
    del stream


def test_a_stream_left_early_ends_its_thread(small: GetSmall, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = small("internvl")
    monkeypatch.setattr(  # pieces are words: they come when a space does
        opened.shared.processor.tokenizer, "decode", lambda ids, **options: "x " * len(ids)
    )
    threads, steps = threading.active_count(), []
    handle = opened.shared.blocks[0].register_forward_pre_hook(lambda *given: steps.append(given))
    try:
        stream: Any = opened.model.stream(opened.overview(), opened.model.knobs.cheapest, 500)
        next(stream)
        assert knob_state.current() is None  # the caller's own context is never turned
        stream.close()
    finally:
        handle.remove()
    assert threading.active_count() == threads
    assert len(steps) < 100


def test_an_error_in_a_stream_reaches_its_reader(small: GetSmall) -> None:
    opened = small("internvl")
    overview, calls = opened.overview(), []

    def fail(*given: Any) -> None:
        calls.append(given)
        if len(calls) == 3:
            raise RuntimeError("out of memory, say")

    handle = opened.shared.blocks[0].register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="out of memory, say"):
            list(opened.model.stream(overview, opened.model.knobs.cheapest, NEW_TOKENS))
    finally:
        handle.remove()


# What `generate` would write on the model


def test_experts_are_computed_alike_in_every_phase(small: GetSmall, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU `generate` would switch them for all requests as long as one decodes."""
    model: Any = small("qwen3_vl_moe").shared.model
    plain: Any = GenerationMixin
    monkeypatch.setattr(PreTrainedModel, "device", property(lambda self: torch.device("cuda")))
    before = model.get_experts_implementation()
    assert "grouped_mm" in before.values()
    with model._optimize_model_for_decode():
        assert model.get_experts_implementation() == before
    with plain._optimize_model_for_decode(model):  # without our instruments it does
        assert model.get_experts_implementation() != before
    assert model.get_experts_implementation() == before


# After uninstalling


def test_requests_after_uninstalling_are_refused(tmp_path: Path) -> None:
    opened = open_small("internvl", tmp_path)
    overview, model = opened.overview(), opened.model
    other = model.with_block_ranking(range(6))
    model.uninstall()
    for elastic in (model, other):
        with pytest.raises(
            ModelError, match="model internvl: its instruments were taken off by uninstall, .* load it again"
        ):
            elastic.generate(overview, elastic.knobs.cheapest, 1)
    with pytest.raises(ModelError, match="its instruments were taken off by uninstall"):
        model.overview(picture(60, 60), "Why?")
