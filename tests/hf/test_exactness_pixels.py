"""Families whose image knob counts pixels: every knob does exactly what a model built that way does."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from hf import exactness
from hf.checkpoints import picture
from hf.exactness import NEW_TOKENS
from hf.opened import Small, open_small
from paceline.models.registry import load_model
from paceline.models.transformers.elastic import ElasticTransformers
from paceline.models.transformers.knob_state import TurnedKnobs, turned
from paceline.models.transformers.proofs import logits, with_top_k, without_blocks
from paceline.models.transformers.tower import remembering

NAMES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "glm4v", "glm4v_moe", "ernie4_5_vl_moe")
DEEPSTACK = ("qwen3_vl", "qwen3_vl_moe")  # features are added after blocks 0 and 1, which always run
TOP_K = {
    "qwen3_vl_moe": "num_experts_per_tok",
    "glm4v_moe": "num_experts_per_tok",
    "ernie4_5_vl_moe": "moe_k",
}
GetSmall = Callable[[str], Small]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kept", [(0, 1, 5), (0, 1, 2, 4), (0, 2, 3)])
def test_skipping_blocks_equals_a_model_without_them(
    small: GetSmall, name: str, kept: tuple[int, ...]
) -> None:
    if name in DEEPSTACK:
        kept = tuple(sorted({0, 1, 3, *kept}))
    exactness.check_depth(small(name), kept)


def test_skipping_sliding_blocks_equals_a_model_without_them(tmp_path: Path) -> None:
    sliding = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 3}
    opened = open_small("qwen2_5_vl", tmp_path, **sliding)
    exactness.check_depth(opened, (0, 1, 3, 5))


@pytest.mark.parametrize("name", NAMES)
def test_knobs_are_exact_in_bfloat16(small: GetSmall, name: str) -> None:
    model = load_model(small(name).directory, dtype="bfloat16")
    assert isinstance(model, ElasticTransformers)
    shared, overview = model.shared, model.overview(picture(90, 60), "How many?")
    inputs = shared.process_again([overview], small(name).image_options()[0])
    kept = (0, 1, 3, 4)
    with without_blocks(shared.model, kept), with_top_k(shared.routers, 2):
        expected = logits(shared.model, inputs)
    assert expected.dtype == torch.float32  # generation's own, of numbers that bfloat16 has
    with turned(TurnedKnobs(top_k=2, kept_blocks=frozenset(kept))):
        assert torch.equal(logits(shared.model, inputs), expected)
    assert shared.model.dtype == torch.bfloat16
    assert overview.image_features.dtype == "float32"


@pytest.mark.parametrize("name", DEEPSTACK)
def test_blocks_that_take_image_features_cannot_be_skipped(small: GetSmall, name: str) -> None:
    shared = small(name).shared
    inputs = shared.process_again([small(name).overview()], small(name).image_options()[0])
    with turned(TurnedKnobs(kept_blocks=frozenset({0, 2, 3, 4}))):
        found = exactness.logits_of(shared.model, inputs)
    assert not torch.equal(found, exactness.logits_of(exactness.with_blocks(shared, (0, 2, 3, 4)), inputs))


@pytest.mark.parametrize("name", TOP_K)
def test_fewer_experts_equal_a_model_built_with_them(small: GetSmall, name: str, tmp_path: Path) -> None:
    exactness.check_top_k(
        small(name), lambda top_k: open_small(name, tmp_path / str(top_k), **{TOP_K[name]: top_k})
    )


@pytest.mark.parametrize("router", ["text_moe", "vision_moe"])
def test_both_routers_of_ernie_read_the_knob(small: GetSmall, router: str) -> None:
    shared = small("ernie4_5_vl_moe").shared
    inputs = shared.process_again([small("ernie4_5_vl_moe").overview()], None)
    chosen: list[int] = []
    gate = getattr(shared.blocks[1].mlp, router).gate
    handle = gate.register_forward_hook(lambda *given: chosen.append(given[2][2].shape[-1]))
    try:
        with turned(TurnedKnobs(top_k=3)):
            exactness.answer_of(shared.model, inputs)
    finally:
        handle.remove()
    assert chosen == [3] * (NEW_TOKENS if router == "text_moe" else 1)  # images are in the prompt alone


@pytest.mark.parametrize("name", NAMES)
def test_the_overview_is_reused_as_a_whole(small: GetSmall, name: str) -> None:
    opened = small(name)
    shared = opened.shared
    with exactness.counted_rows(shared) as seen:
        overview = opened.overview()
    assert len(seen) == 1
    for place, option in enumerate(opened.image_options()):
        configuration = opened.configuration(option)
        with exactness.counted_rows(shared) as seen:
            answer = opened.model.generate(overview, configuration, NEW_TOKENS)
        assert len(seen) == (0 if place == 0 else 1)
        inputs = shared.process_again([overview], option)
        memory = overview.state.memory.fork()
        with turned(TurnedKnobs()), remembering(memory):
            again = shared.image_tokens(shared.encode(inputs)[0])
        assert memory.reused == (place == 0)
        assert torch.equal(again, shared.image_tokens(shared.encode(inputs)[0]))
        assert answer.tokens == exactness.answer_of(shared.model, inputs)


@pytest.mark.parametrize("name", NAMES)
def test_a_small_image_is_never_seen_twice(small: GetSmall, name: str) -> None:
    overview = small(name).overview(30, 30)  # below the cheapest option: every option shows the same pixels
    with exactness.counted_rows(small(name).shared) as seen:
        for option in small(name).image_options():
            small(name).model.generate(overview, small(name).configuration(option), 2)
    assert seen == []


@pytest.mark.parametrize("name", NAMES)
def test_threads_and_streams_are_what_they_are_alone(small: GetSmall, name: str) -> None:
    exactness.check_threads(small(name))
    exactness.check_threads_of_callers(small(name))


@pytest.mark.parametrize("name", NAMES)
def test_positions_are_never_written_on_the_model(small: GetSmall, name: str) -> None:
    inner: Any = small(name).shared.model.base_model
    before = inner.__dict__["rope_deltas"]
    overviews = [small(name).overview(*size) for size in exactness.IMAGES]
    configuration = small(name).model.knobs.full
    with ThreadPoolExecutor(len(overviews)) as pool:
        list(pool.map(lambda item: small(name).model.generate(item, configuration, NEW_TOKENS), overviews))
    list(small(name).model.stream(overviews[0], configuration, NEW_TOKENS))
    small(name).model.generate_batch(overviews, configuration, NEW_TOKENS)
    small(name).model.block_importance(overviews[:1], ["three"], "loss")
    assert inner.__dict__["rope_deltas"] is before


@pytest.mark.parametrize("name", NAMES)
def test_an_exception_leaves_nothing_behind(small: GetSmall, name: str) -> None:
    exactness.check_exception(small(name))


@pytest.mark.parametrize("name", NAMES)
def test_uninstalling_restores_the_model(small: GetSmall, name: str) -> None:
    exactness.check_uninstall(small(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_deep_copy_runs_its_own_weights(small: GetSmall, name: str) -> None:
    exactness.check_copy(small(name))
