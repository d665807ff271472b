"""Layouts in which checkpoints of the hub come: shards, one configuration for all processors, experts one by one."""

import importlib
import json
import logging
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from hf.checkpoints import picture
from paceline.errors import ModelError
from paceline.models.registry import load_model
from paceline.models.transformers.elastic import ElasticTransformers

NAMES = ("qwen2_5_vl", "glm4v_moe", "ernie4_5_vl_moe", "internvl", "gemma3", "llava")


def opened(directory: Path) -> ElasticTransformers:
    model = load_model(directory)
    assert isinstance(model, ElasticTransformers)
    return model


def answer(model: ElasticTransformers) -> tuple[int, ...]:
    return model.generate(model.overview(picture(90, 60), "How many?"), model.knobs.full, 4).tokens


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {name: tmp_path_factory.mktemp(name) for name in NAMES}
    for name, directory in found.items():
        importlib.import_module(f"hf.small_{name}").build(directory)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_image_settings_inside_the_processors_file(
    directories: dict[str, Path], name: str, tmp_path: Path
) -> None:
    """As processors of transformers 5 are saved."""
    copy = Path(shutil.copytree(directories[name], tmp_path / name))
    images = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").unlink()
    processor = json.loads((copy / "processor_config.json").read_text())
    (copy / "processor_config.json").write_text(json.dumps({**processor, "image_processor": images}))
    one, other = opened(directories[name]), opened(copy)
    assert one.knobs == other.knobs
    assert answer(one) == answer(other)


def test_what_the_real_classes_save(directories: dict[str, Path], tmp_path: Path) -> None:
    model = opened(directories["llava"])
    expected = answer(model)
    model.uninstall()
    model.shared.model.save_pretrained(tmp_path, max_shard_size="100KB")
    model.shared.processor.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert answer(opened(tmp_path)) == expected


@pytest.mark.parametrize("name", ["qwen2_5_vl", "glm4v_moe", "gemma3"])
@pytest.mark.parametrize("suffix", ["", "Fast"])
def test_image_processors_by_their_older_names(
    directories: dict[str, Path], name: str, suffix: str, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(directories[name], tmp_path / name))
    images = json.loads((copy / "preprocessor_config.json").read_text())
    images["image_processor_type"] += suffix
    (copy / "preprocessor_config.json").write_text(json.dumps(images))
    assert type(opened(copy).shared.processor.image_processor).__name__.endswith("Pil")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("glm4v_moe", r"experts.down_proj: \(11, 32, 16\), expected \(12, 32, 16\)"),
        (
            "ernie4_5_vl_moe",
            r"the parts of model.language_model.layers.1.*experts.down_proj do not fit together",
        ),
    ],
)
def test_one_expert_is_missing(directories: dict[str, Path], name: str, message: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(directories[name], tmp_path / name))
    weights = load_file(copy / "model.safetensors")
    [lost] = [key for key in weights if key.endswith("layers.1.mlp.experts.2.down_proj.weight")]
    del weights[lost]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=message):
        load_model(copy)


def test_settings_of_sampling_are_not_read_and_nothing_is_logged(
    directories: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As public checkpoints have them; answers are greedy."""
    copy = Path(shutil.copytree(directories["qwen2_5_vl"], tmp_path / "mine"))
    sampling = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 5}
    settings = json.loads((copy / "generation_config.json").read_text())
    (copy / "generation_config.json").write_text(json.dumps({**settings, **sampling}))
    expected = answer(opened(directories["qwen2_5_vl"]))
    model = opened(copy)
    said: list[str] = []
    root = logging.getLogger("transformers")
    monkeypatch.setattr(root, "level", logging.WARNING)
    monkeypatch.setattr(logging.Logger, "callHandlers", lambda self, record: said.append(record.getMessage()))
    assert answer(model) == expected
    assert said == []
