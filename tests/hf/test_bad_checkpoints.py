"""Checkpoints and inputs that cannot work: one clear message each."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hf import small_mistral3, small_qwen2_5_vl
from hf.checkpoints import picture
from paceline.errors import DependencyError, ImageError, KnobError, ModelError, PromptError
from paceline.images import open_image
from paceline.models.registry import load_model
from paceline.models.transformers.elastic import ElasticTransformers

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoints") / "mine"
    small_qwen2_5_vl.build(directory)
    return directory


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "mine"))


@pytest.fixture(scope="module")
def model(whole: Path) -> ElasticTransformers:
    model = load_model(whole)
    assert isinstance(model, ElasticTransformers)
    return model


def change_json(directory: Path, file: str, **changes: Any) -> None:
    path = directory / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_weights(directory: Path, change: Callable[[Weights], Weights]) -> None:
    path = directory / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["model.safetensors"], "model mine: no weights, expected model.safetensors or its shards"),
        (["preprocessor_config.json"], "model mine: no image processor, expected preprocessor_config.json"),
        (["tokenizer.json"], "model mine: no tokenizer, expected tokenizer.json"),
        (["tokenizer.json", "tokenizer_config.json"], "model mine: no tokenizer, expected tokenizer.json"),
        (["config.json"], "config.json: not there"),
    ],
)
def test_missing_files(copy: Path, files: list[str], message: str) -> None:
    for file in files:
        (copy / file).unlink()
    with pytest.raises(ModelError, match=message):
        load_model(copy)


def test_pickled_weights_are_not_loaded(copy: Path) -> None:
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights, .*pytorch_model.bin could run code when it is loaded"):
        load_model(copy)


def test_a_missing_shard(copy: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"1 of its weight files are missing \(such as model-00002-of-00002"):
        load_model(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: {key: value for key, value in weights.items() if key != "lm_head.weight"},
            r"1 tensors are missing from its files \(such as \['lm_head.weight'\]\) and 0 are there",
        ),
        (
            lambda weights: {f"other.{key}": value for key, value in weights.items()},
            r"117 tensors are missing .* and 117 are there that do not belong to it .*other.lm_head",
        ),
        (
            lambda weights: {**weights, "lm_head.weight": weights["lm_head.weight"][:, :16].clone()},
            r"1 tensors have the wrong shape \(lm_head.weight: \(262, 16\), expected \(262, 32\)\)",
        ),
        (
            lambda weights: {key: value.to(torch.int8) for key, value in weights.items()},
            r"model.safetensors holds quantised tensors \(117 of I8\), expected float32, bfloat16 or float16",
        ),
        (
            lambda weights: {key: value.to(torch.float8_e4m3fn) for key, value in weights.items()},
            r"model.safetensors holds quantised tensors \(117 of F8_E4M3\)",
        ),
    ],
)
def test_weights_that_do_not_fit(copy: Path, change: Callable[[Weights], Weights], message: str) -> None:
    change_weights(copy, change)
    with pytest.raises(ModelError, match=message):
        load_model(copy)


def test_weights_that_nobody_asked_for_are_named(copy: Path) -> None:
    change_weights(copy, lambda weights: {**weights, "other.weight": torch.zeros(2)})
    with pytest.warns(
        UserWarning, match=r"1 tensors of its files have no place in .* \(such as \['other.weight'\]"
    ):
        model = load_model(copy)
    assert model.describe()["ignored_tensors"] == 1


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floating_types_are_read(copy: Path, model: ElasticTransformers, stored: torch.dtype) -> None:
    change_weights(copy, lambda weights: {key: value.to(stored) for key, value in weights.items()})
    found = load_model(copy)
    assert isinstance(found, ElasticTransformers)
    ours, theirs = (item.shared.model.lm_head.weight for item in (found, model))
    assert ours.dtype == torch.float32
    assert torch.equal(ours, theirs.to(stored).float())


@pytest.mark.parametrize("cut", [4, 1000, -1000])
def test_a_damaged_file(copy: Path, cut: int) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelError, match="model mine: model.safetensors is damaged or incomplete"):
        load_model(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "nope"}, "its config.json is not one that transformers knows .*model type `nope`"),
        ({"model_type": "llama"}, "'llama' is not a vision-language model"),
        ({"model_type": "bert"}, "'bert' is not a vision-language model"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"its weights are quantised \(gptq\)"),
        ({"text_config": {"num_hidden_layers": "six"}}, "its config.json is not one that transformers knows"),
    ],
)
def test_configurations_that_cannot_work(copy: Path, changes: dict[str, Any], message: str) -> None:
    change_json(copy, "config.json", **changes)
    with pytest.raises(ModelError, match=message):
        load_model(copy)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("preprocessor_config.json", "{", "its processor cannot be loaded .*not a valid JSON file"),
        ("tokenizer.json", "{}", "its processor cannot be loaded"),
        ("chat_template.jinja", "{% for m", "its processor and its chat template cannot read one image"),
        (
            "chat_template.jinja",
            "no place for an image",
            "its processor and its chat template cannot read one image",
        ),
        ("config.json", "{", "config.json: not JSON"),
    ],
)
def test_files_that_cannot_be_read(copy: Path, file: str, content: str, message: str) -> None:
    (copy / file).write_text(content)
    with pytest.raises(ModelError, match=message):
        load_model(copy)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "config.json",
            {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Theirs"}},
            r"model mine: its config.json asks for code of its own \(auto_map\), which is never run",
        ),
        (
            "preprocessor_config.json",
            {"image_processor_type": "Theirs", "auto_map": {"AutoImageProcessor": "theirs.Theirs"}},
            "model mine: its processor cannot be loaded .*contains custom code",
        ),
    ],
)
def test_code_of_a_checkpoint_is_never_run(
    copy: Path, file: str, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *given: "y")  # nobody is asked either
    (copy / "theirs.py").write_text(f"open({str(copy / 'ran')!r}, 'w')\nclass Theirs: pass\n")
    change_json(copy, file, **changes)
    with pytest.raises(ModelError, match=message):
        load_model(copy)
    assert not (copy / "ran").exists()


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (
            "{% for m in messages %}<|image_pad|>{{ m['content'][1]['text'] }}!{% endfor %}",
            "<|image_pad|>Why?!",
        ),
        ("{% for m in messages %}{{ m['content'] + 1 }}{% endfor %}", "<|image_pad|>\nWhy?"),
        (None, "<|image_pad|>\nWhy?"),
    ],
)
def test_the_template_of_the_tokenizer_serves_if_it_shows_images(
    copy: Path, template: str | None, expected: str
) -> None:
    (copy / "chat_template.jinja").unlink()
    change_json(copy, "tokenizer_config.json", chat_template=template)
    model = load_model(copy)
    assert isinstance(model, ElasticTransformers)
    assert model.family.prompt(model.shared.processor, "Why?") == expected


def test_a_processor_that_needs_torchvision(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    small_mistral3.build(tmp_path)
    with pytest.raises(DependencyError, match="its processor needs Torchvision, which is not installed"):
        load_model(tmp_path)


def test_transformers_is_not_installed(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        DependencyError, match=r"needs transformers, which is not installed; pip install 'paceline\[hf\]'"
    ):
        load_model(whole)


def test_a_hub_name_that_cannot_be_had_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ModelError, match="model 'nobody/nothing': not in the local cache, and it cannot be fetched"
    ):
        load_model("nobody/nothing")


@pytest.mark.parametrize("device", ["nonsense", "cuda:7"])
def test_a_device_that_there_is_not(whole: Path, device: str) -> None:
    with pytest.raises(ModelError, match=f"device '{device}' cannot be used"):
        load_model(whole, device=device)


def test_a_type_that_there_is_not(whole: Path) -> None:
    with pytest.raises(ModelError, match="int8"):
        load_model(whole, dtype="int8")


def test_overlapping_copies_are_refused(whole: Path) -> None:
    with pytest.raises(ModelError, match="overlap_copies: got True for mine, which has none"):
        load_model(whole, overlap_copies=True)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "image: got None, expected a PIL image"),
        ([], "got 0 images or frames in a list"),
        (
            [picture(30, 30), picture(30, 30)],
            "got 2 images or frames in a list, expected a PIL image per question",
        ),
        ("film.mp4", r"got a video \(film.mp4\), .*videos are not read, take one frame"),
        ("photo.png", "got str, .*open files with paceline.images.open_image"),
        (np.zeros((5, 30, 30, 3), dtype=np.uint8), r"an array of 4 axes \(a video of 5 frames\?\)"),
        (torch.zeros(3, 30, 30), "an array of 3 axes, expected a PIL image; Image.fromarray"),
        (3, "got int, expected a PIL image"),
        (picture(4, 40), "4 x 40 pixels, expected at least 8 on each side"),
        (picture(8, 1608), "8 x 1608 pixels, expected one side at most 200 times the other"),
    ],
)
def test_what_is_no_single_image(model: ElasticTransformers, image: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        model.overview(image, "What?")


def test_a_video_file_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x18ftypmp42" * 10)
    with pytest.raises(ImageError, match="film.mp4: not an image .*videos are not read, take one frame"):
        open_image(tmp_path / "film.mp4")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("  ", "expected a question with at least one character"),
        (None, "got None, expected a question"),
        ("What is <|image_pad|>?", r"prompt: holds '<\|image_pad\|>', with which the processor marks images"),
        ("And <|video_pad|>?", r"prompt: holds '<\|video_pad\|>'"),
    ],
)
def test_prompts_that_cannot_work(model: ElasticTransformers, prompt: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        model.overview(picture(30, 30), prompt)


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        (
            {"max_pixels": 7056, "num_active_blocks": 7},
            r"knob num_active_blocks: got option 7, expected one of",
        ),
        ({"max_pixels": 1, "num_active_blocks": 6}, "knob max_pixels: got option 1"),
        ({"max_pixels": 7056, "num_active_blocks": 6, "top_k": 2}, r"unknown knobs \['top_k'\]"),
        ({"max_pixels": 7056}, r"missing knobs \['num_active_blocks'\]"),
    ],
)
def test_configurations_outside_the_knob_space(
    model: ElasticTransformers, configuration: dict[str, int], message: str
) -> None:
    overview = model.overview(picture(30, 30), "What?")
    with pytest.raises(KnobError, match=message):
        model.generate(overview, configuration, 1)
