"""What a loaded checkpoint tells of itself, and how long its prompts may be."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from hf.checkpoints import picture
from hf.opened import Small, open_small
from paceline.errors import PromptError
from paceline.models.registry import load_model

GetSmall = Callable[[str], Small]


def test_a_checkpoint_is_the_same_whenever_it_is_loaded(small: GetSmall, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(small("internvl").directory, tmp_path / "mine"))
    first = load_model(directory)
    facts = first.describe()
    assert json.loads(json.dumps(facts)) == facts
    assert load_model(directory).describe() == facts
    assert not first.has_block_ranking  # so that a sweep measures one
    ranked = first.with_block_ranking([0, 5, 4, 3, 2, 1])
    assert ranked.has_block_ranking
    assert {**facts, "block_ranking": [0, 5, 4, 3, 2, 1]} == ranked.describe()
    weights = load_file(directory / "model.safetensors")
    weights[max(weights)][0] += 1
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    assert load_model(directory).describe()["revision"] != facts["revision"]


def test_a_checkpoint_tells_which_prompts_it_is_given(small: GetSmall, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(small("internvl").directory, tmp_path / "mine"))
    assert load_model(directory).describe()["prompt"] == "chat template"
    (directory / "chat_template.jinja").unlink()
    assert load_model(directory).describe()["prompt"] == "plain: the image, then the question"


def test_another_block_ranking_keeps_the_knobs(small: GetSmall) -> None:
    model = small("internvl").model
    space = model.knobs
    assert model.with_block_ranking([0, 5, 4, 3, 2, 1]).knobs is space


def test_prompts_end_where_positions_do(small: GetSmall, tmp_path: Path) -> None:
    usual = small("internvl")
    prompt = usual.model.workload(usual.overview(), usual.model.knobs.cheapest).prompt_tokens
    opened = open_small("internvl", tmp_path, max_position_embeddings=prompt + 2)
    model, overview = opened.model, opened.overview()
    assert len(model.generate(overview, model.knobs.cheapest, 2).tokens) <= 2
    message = rf"prompt: {prompt} tokens and 3 new ones, but the model reads {prompt + 2}; shorten the prompt"
    for ask in (model.generate, model.stream):
        with pytest.raises(PromptError, match=message):
            ask(overview, model.knobs.cheapest, 3)
    with pytest.raises(PromptError, match=message):
        model.generate_batch([overview], model.knobs.cheapest, 3)
    with pytest.raises(PromptError, match="give the image fewer tokens"):
        model.generate(overview, model.knobs.full, 2)


def test_requests_are_padded_on_the_left_whatever_the_tokenizer_says(small: GetSmall, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(small("internvl").directory, tmp_path / "mine"))
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "padding_side": "right"}))
    model = load_model(directory)
    overviews = [model.overview(picture(90, 60, seed), "Why?" * (1 + 5 * seed)) for seed in range(2)]
    alone = [model.generate(overview, model.knobs.full, 4).text for overview in overviews]
    assert model.generate_batch(overviews, model.knobs.full, 4) == alone


@pytest.mark.parametrize("name", ["aria", "llava_next", "idefics3"])
def test_pixels_have_the_type_of_the_model(small: GetSmall, name: str) -> None:
    model = load_model(small(name).directory, dtype="bfloat16")
    assert model.describe()["dtype"] == "bfloat16"
    overview = model.overview(picture(140, 60), "Why?")
    assert overview.image_features.dtype == "float32"
    for configuration in (model.knobs.cheapest, model.default_configuration):
        answer = model.generate(overview, configuration, 3)
        assert answer.workload == model.workload(overview, configuration)
        assert model.generate_batch([overview], configuration, 3) == [answer.text]
