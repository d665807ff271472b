"""Families whose image knob counts tiles or crops: what they declare, and that images become what they say."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hf import exactness, small_llama4
from hf.checkpoints import picture
from hf.opened import SAVES_A_ROW, TILE_FAMILIES, Small
from paceline.errors import DependencyError, KnobError
from paceline.knobs import Knob, KnobSpace
from paceline.models.transformers.elastic import ElasticTransformers
from paceline.models.transformers.opening import load_transformers

GetSmall = Callable[[str], Small]
SIZES = ((60, 60), (90, 60), (33, 140), (640, 31), (300, 700), (8, 9))
LARGE_SIZES = ((1500, 900), (3200, 420))
OPTIONS = {
    "internvl": ("max_tiles", (1, 2, 4, 6)),
    "llava_onevision": ("max_tiles", (1, 2, 3, 4, 6)),
    "llava_next": ("max_tiles", (2, 3, 4)),
    "idefics3": ("max_tiles", (1, 4, 9, 16)),
    "smolvlm": ("max_tiles", (1, 4, 9, 16)),
    "gemma3": ("max_crops", (1, 2, 3, 4)),
    "aria": ("max_pixels", (490**2, 980**2, 2 * 980**2, 4 * 980**2)),
    "molmo2": ("max_crops", (1, 2, 4, 6)),
    "llama4": ("max_tiles", (1, 2, 4)),
}


@pytest.mark.parametrize("name", TILE_FAMILIES)
def test_options_of_the_image_knob(small: GetSmall, name: str) -> None:
    knob = small(name).model.knobs.knobs[0]
    assert (knob.name, knob.options) == OPTIONS[name]


@pytest.mark.parametrize("name", TILE_FAMILIES)
def test_workload_is_known_before_pixels_are_touched(small: GetSmall, name: str) -> None:
    found = small(name)
    seen = set()
    for size in SIZES if name != "aria" else LARGE_SIZES:
        tiles = exactness.check_workload(found, *size)
        assert tiles == sorted(tiles)
        if name != "aria":  # the whole image comes beside the tiles of an option
            assert all(
                count <= option + 1 for count, option in zip(tiles, found.image_options(), strict=True)
            )
        seen.update(tiles)
    assert len(seen) > 2  # images do become different numbers of tiles


def test_views_of_aria_stay_within_the_pixels(small: GetSmall) -> None:
    family, processor = small("aria").shared.family, small("aria").shared.processor
    for height in (100, 500, 900, 2000, 5000):
        views = [family.count(processor, (height, 4200), option).tiles for option in OPTIONS["aria"][1]]
        assert all(count <= most for count, most in zip(views, (1, 1, 2, 4), strict=True))


@pytest.mark.parametrize("name", TILE_FAMILIES)
def test_layout_is_all_that_stands_for_the_image(small: GetSmall, name: str) -> None:
    shared = small(name).shared
    overview = small(name).overview()
    before = 1 if name == "molmo2" else 0  # its processor begins every prompt with a token of its own
    placeholder = 1
    text = len(shared.question_ids(overview.state.text)) - placeholder + before
    for option in small(name).image_options():
        length = shared.process_again([overview], option)["input_ids"].shape[1]
        assert shared.count(overview.image_size, option).layout_tokens == length - text


@pytest.mark.parametrize("name", SAVES_A_ROW)
def test_overview_features_are_those_of_its_place_in_the_whole(small: GetSmall, name: str) -> None:
    shared, overview = small(name).shared, small(name).overview()
    shown = shared.family.overview_image(shared.processor, overview.state.image)
    inputs = shared.process([shown], [overview.state.text], small(name).image_options()[0])
    alone = shared.image_tokens(shared.encode_overview(inputs))
    largest = shared.process_again([overview], small(name).image_options()[-1])
    tokens = shared.image_tokens(shared.encode(largest)[0])
    assert len(tokens) > len(alone)
    place = (
        slice(None, len(alone)) if shared.family.overview_position == "first" else slice(-len(alone), None)
    )
    torch.testing.assert_close(alone, tokens[place], rtol=1e-5, atol=1e-5)
    assert overview.image_features == pytest.approx(alone.mean(0).numpy(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", TILE_FAMILIES)
def test_the_default_is_what_the_processor_does_by_itself(small: GetSmall, name: str) -> None:
    shared, image = small(name).shared, picture(150, 60)
    text = shared.family.prompt(shared.processor, "x")
    default = small(name).model.default_configuration[OPTIONS[name][0]]
    assert default == shared.family.default_option(shared.processor)
    ours = shared.process([image], [text], int(default))
    own = shared.processor(images=[image], text=[text], return_tensors="pt")
    assert torch.equal(ours["pixel_values"], own["pixel_values"])
    assert torch.equal(ours["input_ids"], own["input_ids"])


@pytest.mark.parametrize("name", TILE_FAMILIES)
def test_answers_of_a_batch_are_those_of_each_alone(small: GetSmall, name: str) -> None:
    model = small(name).model
    sizes = SIZES[:3] if name != "aria" else (LARGE_SIZES[0], SIZES[0])  # of different numbers of tiles
    overviews = [model.overview(picture(*size), "How many?" + "?" * (size[0] % 50)) for size in sizes]
    for action in (0, model.knobs.size // 2, model.knobs.size - 1):
        configuration = model.knobs.configuration(action)
        alone = [model.generate(overview, configuration, 4).text for overview in overviews]
        assert model.generate_batch(overviews, configuration, 4) == alone


@pytest.mark.parametrize("name", ["internvl", "gemma3", "aria"])
def test_options_outside_the_range_are_refused(small: GetSmall, name: str) -> None:
    knob, options = OPTIONS[name]
    with pytest.raises(
        KnobError, match=rf"knob {knob}: .*expected integers from {options[0]} to {options[-1]}"
    ):
        ElasticTransformers(
            small(name).shared, knobs=KnobSpace((Knob(name=knob, options=(1, options[-1] + 1)),))
        )


def test_llama_4_refuses_to_run_fewer_experts(small: GetSmall) -> None:
    shared = small("llama4").shared
    assert shared.limits.experts == 4
    assert "top_k" not in small("llama4").model.knobs.names
    with pytest.raises(KnobError, match="top_k: Llama 4 has none: every expert always runs, with weight 0"):
        ElasticTransformers(shared, knobs=KnobSpace((Knob(name="top_k", options=(1, 2)),)))


def test_llama_4_reuses_the_overview_of_square_images(small: GetSmall) -> None:
    found = small("llama4")
    spared = []
    for size in ((60, 60), (90, 60)):
        overview = found.overview(*size)
        with exactness.counted_rows(found.shared) as seen:
            answer = found.model.generate(overview, found.configuration(4), 2)
        spared.append(answer.workload.tiles - sum(seen))
    assert spared == [1, 0]


def test_blocks_that_always_run(small: GetSmall) -> None:
    kept = {name: small(name).shared.limits.always_kept for name in TILE_FAMILIES}
    first_of_each_attention = {"gemma3": (0, 2), "llama4": (0, 2)}
    assert kept == {name: first_of_each_attention.get(name, (0,)) for name in TILE_FAMILIES}


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is there")
def test_what_needs_torchvision_says_so(tmp_path: Path) -> None:
    small_llama4.build(tmp_path)
    with pytest.raises(
        DependencyError, match="model m: its processor needs torchvision, which is not installed"
    ):
        load_transformers(tmp_path, name="m")
