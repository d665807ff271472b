"""Families whose image knob counts pixels: what they declare, and that images become what they say."""

import importlib
from pathlib import Path

import pytest
import torch

from hf.checkpoints import picture
from paceline.errors import KnobError
from paceline.knobs import Knob, KnobSpace
from paceline.models.transformers.elastic import ElasticTransformers
from paceline.models.transformers.opening import load_transformers
from paceline.models.transformers.tower import TowerMemory

NAMES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "glm4v", "glm4v_moe", "ernie4_5_vl_moe")
ROUTED = ("qwen3_vl_moe", "glm4v_moe", "ernie4_5_vl_moe")
SIZES = ((90, 60), (60, 90), (8, 8), (40, 300), (200, 200), (31, 33), (14, 28))


def open_small(name: str, directory: Path, **changes: object) -> ElasticTransformers:
    importlib.import_module(f"hf.small_{name}").build(directory, **changes)
    model = load_transformers(directory, name=name)
    assert isinstance(model, ElasticTransformers)
    return model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ElasticTransformers]:
    return {name: open_small(name, tmp_path_factory.mktemp(name)) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_options_are_shares_of_the_processors_most_pixels(
    models: dict[str, ElasticTransformers], name: str
) -> None:
    cell = 256 if name.startswith("qwen3") else 196  # pixels of a token
    options = models[name].knobs.knobs[0].options
    assert models[name].knobs.names[0] == "max_pixels"
    assert options == (4 * cell, 9 * cell, 18 * cell, 36 * cell)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES)
def test_workload_is_counted_as_the_processor_makes_it(
    models: dict[str, ElasticTransformers], name: str, size: tuple[int, int]
) -> None:
    model = models[name]
    overview = model.overview(picture(*size), "How many?")
    tokens = []
    for option in model.knobs.knobs[0].options:
        configuration = {**model.knobs.full, "max_pixels": option}
        inputs = model.shared.process([overview.state.image], [overview.state.text], int(option))
        seen = int((inputs["input_ids"] == model.shared.checkpoint.config.image_token_id).sum())
        workload = model.workload(overview, configuration)
        assert (workload.tiles, workload.vision_tokens) == (1, seen)
        assert workload.prompt_tokens == inputs["input_ids"].shape[1]
        assert model.generate(overview, configuration, 1).workload == workload
        tokens.append(seen)
    assert tokens == sorted(tokens)
    assert tokens[-1] <= 36


@pytest.mark.parametrize("name", NAMES)
def test_an_option_limits_the_pixels_of_the_image(models: dict[str, ElasticTransformers], name: str) -> None:
    model = models[name]
    overview = model.overview(picture(200, 200), "How many?")
    options = model.knobs.knobs[0].options
    tokens = [
        model.workload(overview, {**model.knobs.full, "max_pixels": option}).vision_tokens
        for option in options
    ]
    assert tokens == [4, 9, 16, 36]  # the largest squares in 4, 9, 18 and 36 cells


@pytest.mark.parametrize("name", NAMES)
def test_the_last_option_is_the_processors_own_default(
    models: dict[str, ElasticTransformers], name: str
) -> None:
    model = models[name]
    processor = model.shared.processor
    image = picture(150, 110)
    own = processor(images=[image], text=[model.family.prompt(processor, "x")], return_tensors="pt")
    most = int(model.knobs.full["max_pixels"])
    ours = model.shared.process([image], [model.family.prompt(processor, "x")], most)
    assert torch.equal(own["pixel_values"], ours["pixel_values"])
    assert torch.equal(own["input_ids"], ours["input_ids"])


def test_blocks_that_always_run(models: dict[str, ElasticTransformers]) -> None:
    kept = {name: models[name].shared.limits.always_kept for name in NAMES}
    deepstack = {
        "qwen3_vl": (0, 1),
        "qwen3_vl_moe": (0, 1),
    }  # features of two tower blocks are added after 0 and 1
    assert kept == {name: deepstack.get(name, (0,)) for name in NAMES}


def test_the_first_block_of_each_attention_type_always_runs(tmp_path: Path) -> None:
    changes = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3}
    model = open_small("qwen2_5_vl", tmp_path, **changes)
    assert model.shared.limits.always_kept == (0, 3)


@pytest.mark.parametrize("name", ROUTED)
def test_every_router_is_found_once(models: dict[str, ElasticTransformers], name: str) -> None:
    dense_blocks = 0 if name == "qwen3_vl_moe" else 1
    routers = len(models[name].shared.blocks) - dense_blocks
    assert len(models[name].shared.routers) == routers * (2 if name == "ernie4_5_vl_moe" else 1)
    assert models[name].shared.limits.top_k == 4
    assert models[name].shared.limits.experts == (12 if name == "glm4v_moe" else 8)
    assert models[name].family.routing_note is not None


def test_experts_beyond_the_best_groups_are_refused(models: dict[str, ElasticTransformers]) -> None:
    shared = models["glm4v_moe"].shared
    ElasticTransformers(shared, knobs=KnobSpace((Knob(name="top_k", options=(2, 8)),)))
    with pytest.raises(
        KnobError, match=r"top_k: options \[9\] of GLM-4V-MoE, expected at most 8: .* 2 of 3 groups"
    ):
        ElasticTransformers(shared, knobs=KnobSpace((Knob(name="top_k", options=(8, 9)),)))


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v"])
def test_a_dense_family_has_no_top_k(models: dict[str, ElasticTransformers], name: str) -> None:
    assert "top_k" not in models[name].knobs.names
    with pytest.raises(KnobError, match=r"knob top_k: .* has none \(it has no routers that read it\)"):
        ElasticTransformers(models[name].shared, knobs=KnobSpace((Knob(name="top_k", options=(1, 2)),)))


def test_equal_pixels_in_another_grid_are_another_image() -> None:
    pixels, wide, tall = torch.ones(24, 6), torch.tensor([[1, 4, 6]]), torch.tensor([[1, 6, 4]])
    seen = []

    def tower(values: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        seen.append(grid)
        return values * grid[0, 1]

    memory = TowerMemory(None)
    memory.run(tower, (pixels, wide), {})
    assert torch.equal(memory.run(tower, (pixels, tall), {}), pixels * 6)
    assert torch.equal(memory.run(tower, (pixels, wide), {}), pixels * 4)
    assert memory.reused
    assert seen == [wide, tall]
