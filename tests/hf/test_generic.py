"""Families that nobody described: real classes, each knob proved at loading or refused with the reason."""

import importlib
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hf import exactness, small_llava
from hf.checkpoints import picture
from paceline.errors import KnobError, ModelError
from paceline.knobs import Knob, KnobSpace
from paceline.models.transformers import generic, registry
from paceline.models.transformers.elastic import ElasticTransformers
from paceline.models.transformers.knob_state import TurnedKnobs, turned
from paceline.models.transformers.opening import load_transformers
from paceline.models.transformers.proofs import logits, with_top_k, without_blocks

NAMES = ("llava", "llava_experts", "paligemma", "qwen2_vl")
SIZES = ((90, 60), (60, 90), (40, 300), (31, 33))


def open_small(name: str, directory: Path, **changes: Any) -> ElasticTransformers:
    if name == "llava_experts":
        name, changes = "llava", {**small_llava.EXPERTS, **changes}
    importlib.import_module(f"hf.small_{name}").build(directory, **changes)
    model = load_transformers(directory, name=name)
    assert isinstance(model, ElasticTransformers)
    return model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ElasticTransformers]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(registry.FAMILIES, "qwen2_vl")  # as if nobody had described it
        return {name: open_small(name, tmp_path_factory.mktemp(name)) for name in NAMES}


def state(model: Any) -> dict[str, Any]:
    """All that a proof may touch."""
    return {
        name: (type(module), len(getattr(module, "layers", ())), *(module.__dict__.get(k) for k in WATCHED))
        for name, module in model.named_modules()
    } | {"config": model.config.to_dict()}


WATCHED = ("layer_idx", "top_k", "rope_deltas", "noted")


@pytest.mark.parametrize("name", NAMES)
def test_knobs_that_could_be_proved(models: dict[str, ElasticTransformers], name: str) -> None:
    depth = {"name": "num_active_blocks", "options": [3, 4, 5, 6]}
    experts = {"name": "top_k", "options": [1, 2, 3, 4]}
    assert models[name].knobs.to_json() == ([experts, depth] if name == "llava_experts" else [depth])
    assert models[name].shared.limits.always_kept == (0,)
    assert models[name].describe()["experts"] == (8 if name == "llava_experts" else None)


@pytest.mark.parametrize("name", NAMES)
def test_skipping_and_fewer_experts_equal_the_model_changed_by_hand(
    models: dict[str, ElasticTransformers], name: str
) -> None:
    model = models[name].shared.model
    texts = [
        models[name].family.prompt(models[name].shared.processor, text) for text in ("Why?", "What is it?")
    ]
    inputs = models[name].shared.process([picture(80, 50, 1), picture(50, 80, 2)], texts, None)
    top_k = 2 if name == "llava_experts" else None
    kept = (0, 2, 5)
    with without_blocks(model, kept), with_top_k(models[name].shared.routers, 2) if top_k else nullcontext():
        expected = logits(model, inputs)
    with turned(TurnedKnobs(top_k=top_k, kept_blocks=frozenset(kept))):
        found = logits(model, inputs)
    assert torch.equal(found, expected)
    assert not torch.equal(found, logits(model, inputs))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES)
def test_workload_is_counted_as_the_processor_makes_it(
    models: dict[str, ElasticTransformers], name: str, size: tuple[int, int]
) -> None:
    model = models[name]
    overview = model.overview(picture(*size), "How many?")
    full = model.generate(overview, model.knobs.full, 4)
    assert full.workload == model.workload(overview, model.knobs.full)
    assert full.workload.tiles == 1
    assert full.workload.vision_tokens == (16 if name != "qwen2_vl" else full.workload.prompt_tokens - 14)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_ranked_by_known_answers(models: dict[str, ElasticTransformers], name: str) -> None:
    model = models[name]
    ranking = model.block_importance([model.overview(picture(40, 40), "How many?")], ["three"]).ranking
    assert ranking[0] == 0
    assert sorted(ranking) == list(range(6))


def test_sizes_are_counted_without_a_request_and_by_one(
    models: dict[str, ElasticTransformers], monkeypatch: pytest.MonkeyPatch
) -> None:
    family, processor = models["qwen2_vl"].family, models["qwen2_vl"].shared.processor
    assert family.count(processor, (50, 100), None).vision_tokens == 28  # 56 x 98 pixels, 14 x 14 each
    monkeypatch.setattr(family, "_counter", None)  # a request says it without trying
    models["qwen2_vl"].overview(picture(100, 51), "What?")
    assert family.count(processor, (51, 100), None).vision_tokens == 28


def test_what_was_seen_for_the_overview_is_not_seen_again(models: dict[str, ElasticTransformers]) -> None:
    model = models["llava"]
    tower = model.family.tower(model.shared.model)
    assert tower is not None
    runs: list[int] = []
    handle = tower.register_forward_hook(lambda *_: runs.append(1))
    try:
        overview = model.overview(picture(50, 40), "What?")
        first = model.generate(overview, model.knobs.full, 4)
        assert runs == [1]
        texts, images = [overview.state.text], [overview.state.image]
        found = model.shared.model.generate(
            **model.shared.process(images, texts, None), max_new_tokens=4, do_sample=False
        )
    finally:
        handle.remove()
    assert tuple(found[0, -4:].tolist()) == first.tokens


def test_what_modules_write_on_themselves_stays_with_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlavaModel

    forward = LlavaModel.forward

    def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.noted = object()
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlavaModel, "forward", noting)
    model = open_small("llava", tmp_path)
    inner = model.shared.model.base_model
    assert model.family.kept_aside == ("rope_deltas", "noted")
    before = inner.__dict__["noted"]
    model.generate(model.overview(picture(30, 30), "What?"), model.knobs.cheapest, 2)
    assert inner.__dict__["noted"] is before


def test_positions_are_never_written_on_qwen2_vl(models: dict[str, ElasticTransformers]) -> None:
    model = models["qwen2_vl"]
    before = model.shared.model.base_model.__dict__["rope_deltas"]
    model.generate(model.overview(picture(30, 70), "What?"), model.knobs.cheapest, 2)
    assert model.shared.model.base_model.__dict__["rope_deltas"] is before


def test_depth_is_refused_where_features_are_added_between_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(registry.FAMILIES, "qwen3_vl_moe")
    model = open_small("qwen3_vl_moe", tmp_path)  # adds image features after blocks 0 and 1, by position
    assert model.knobs.names == ("top_k",)
    with pytest.raises(
        KnobError, match="num_active_blocks: qwen3_vl_moe has none: its answers with it turned are not"
    ):
        ElasticTransformers(model.shared, knobs=KnobSpace((Knob(name="num_active_blocks", options=(4, 7)),)))


def test_depth_is_proved_where_the_first_quarter_takes_those_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(registry.FAMILIES, "qwen3_vl")
    model = open_small("qwen3_vl", tmp_path, num_hidden_layers=9)
    assert model.shared.limits.always_kept == (0, 1)
    assert model.knobs.names == ("num_active_blocks",)


def test_a_model_of_which_nothing_can_be_proved_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(registry.FAMILIES, "qwen3_vl")
    expected = "nobody described the family 'qwen3_vl', and no knob .* \\(num_active_blocks: its answers"
    with pytest.raises(ModelError, match=expected):
        open_small("qwen3_vl", tmp_path)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            "dense",
            "its routers weigh every expert, so that every expert always runs: fewer would save no time",
        ),
        ("deaf", "its answers do not change when its routers are told 1 instead of 4"),
    ],
)
def test_experts_are_refused_where_fewer_mean_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str, reason: str
) -> None:
    from transformers.models.qwen3_moe import modeling_qwen3_moe as module

    router = module.Qwen3MoeTopKRouter

    def dense(self: Any, hidden_states: Tensor) -> Any:
        scores = torch.nn.functional.linear(hidden_states.reshape(-1, 32), self.weight)
        weights, chosen = scores.softmax(dim=-1).topk(self.top_k)
        every = torch.zeros_like(scores).scatter(1, chosen, weights)
        return scores, every, torch.arange(8).expand(len(scores), 8)

    def deaf(self: Any, hidden_states: Tensor) -> Any:
        scores = torch.nn.functional.linear(hidden_states.reshape(-1, 32), self.weight)
        weights, chosen = scores.softmax(dim=-1).topk(4 + 0 * self.top_k)
        return scores, weights, chosen

    monkeypatch.setattr(router, "forward", dense if changed == "dense" else deaf)
    if changed == "deaf":
        monkeypatch.setattr(generic, "routed_widths", lambda *_: [{1, 3}])
    model = open_small("llava_experts", tmp_path)
    assert model.knobs.names == ("num_active_blocks",)
    assert model.family.refused["top_k"] == reason


def test_an_image_knob_is_refused(models: dict[str, ElasticTransformers]) -> None:
    with pytest.raises(
        KnobError, match="knob max_pixels: qwen2_vl has none: nobody described what its processor"
    ):
        ElasticTransformers(
            models["qwen2_vl"].shared, knobs=KnobSpace((Knob(name="max_pixels", options=(784, 1568)),))
        )


def test_a_class_that_takes_no_image_features_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlavaForConditionalGeneration

    def forward(self: Any, input_ids: Any, pixel_values: Any = None, **kwargs: Any) -> Any:
        raise NotImplementedError

    monkeypatch.setattr(LlavaForConditionalGeneration, "forward", forward)
    with pytest.raises(
        ModelError, match="LlavaForConditionalGeneration lacks a forward that takes mm_encoder_outputs"
    ):
        open_small("llava", tmp_path)


@pytest.mark.parametrize("name", ["llava_experts", "qwen2_vl"])
def test_threads_and_streams_are_what_they_are_alone(
    models: dict[str, ElasticTransformers], name: str
) -> None:
    exactness.check_threads(exactness.Small(name, Path(), models[name]))


@pytest.mark.parametrize("name", NAMES)
def test_proofs_leave_the_model_as_it_was(models: dict[str, ElasticTransformers], name: str) -> None:
    model = models[name].shared.model
    before = state(model)
    routers = models[name].shared.routers
    with pytest.raises(RuntimeError, match="in the middle"):
        fail_inside(model, without_blocks(model, (0, 3)), blocks=2)
    with pytest.raises(RuntimeError, match="in the middle"):
        fail_inside(model, with_top_k(routers, 1), blocks=6)
    assert state(model) == before


def fail_inside(model: Any, changed: AbstractContextManager[None], blocks: int) -> None:
    with changed:
        assert len(model.get_decoder().layers) == blocks
        raise RuntimeError("in the middle")
