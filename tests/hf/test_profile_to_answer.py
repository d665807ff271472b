"""From a checkpoint to answers under a budget, by the commands that a user gives: a family of each kind."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import paceline
from command_line import run_json
from hf.opened import Small
from paceline.models.transformers.elastic import ElasticTransformers

IMAGES, QUESTIONS = 24, ("How many?", "What colour is it?")
MODELS = {"internvl": "max_tiles", "qwen2_5_vl": "max_pixels", "qwen3_vl_moe": "max_pixels"}
NEW_TOKENS = 2
SPLITS = ("train", "train", "validation", "train", "test", "test")  # of the images


def write_questions(folder: Path, model: ElasticTransformers) -> None:
    """Random images; the answer is what the full configuration says of one half and the cheapest of the other."""
    folder.mkdir()
    random = np.random.default_rng(0)
    lines = []
    for place in range(IMAGES):
        height, width = (int(side) for side in random.integers(30, 120, 2))
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        image.save(folder / f"{place}.png")
        known = model.knobs.full if place % 2 else model.knobs.cheapest
        for question in QUESTIONS:
            answer = model.generate(model.overview(image, question), known, NEW_TOKENS).text
            line = {"question": question, "image": f"{place}.png", "answer": answer or "nothing"}
            lines.append({**line, "split": SPLITS[place % len(SPLITS)]})
    (folder / "questions.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (folder / "task.json").write_text(json.dumps({"name": "answers", "max_new_tokens": NEW_TOKENS}))


@pytest.mark.parametrize("name", MODELS)
def test_from_a_checkpoint_to_answers_under_a_budget(
    small: Callable[[str], Small], name: str, tmp_path: Path
) -> None:
    checkpoint, model = small(name).directory, small(name).model
    questions, outcomes, controller = (tmp_path / part for part in ("questions", "outcomes", "controller"))
    write_questions(questions, model)

    profiled = run_json(
        *("profile", checkpoint, "--task", f"folder:{questions}", "--out", outcomes),
        *("--configurations", 6, "--samples", 40, "--timed-samples", 12, "--importance-samples", 2),
    )
    assert (profiled["samples"], profiled["configurations"]) == (40, 6)
    manifest = json.loads((outcomes / "manifest.json").read_text())
    assert [knob["name"] for knob in manifest["space"]] == list(model.knobs.names)
    assert manifest["model"]["family"] == model.family.name

    run_json("train", outcomes, "--out", controller, "--algorithm", "grpo_warm", "--epochs", 2)

    evaluated = run_json("evaluate", controller, outcomes, "--replicates", 100)
    accuracy = evaluated["hard"]["accuracy"]  # on a busy machine nothing may fit, and everybody has 0
    assert all(ours <= best for ours, best in zip(accuracy["paceline"], accuracy["oracle"], strict=True))
    assert max(evaluated["average"]["accuracy"]["oracle"]) > 0

    decided = run_json(
        *("decide", controller, "--model", checkpoint, "--image", questions / "0.png"),
        *("--prompt", QUESTIONS[0], "--budget", "100%"),
    )
    assert model.knobs.action(decided["configuration"]) >= 0

    adaptive = paceline.AdaptiveModel(paceline.load_model(checkpoint), paceline.Controller.load(controller))
    image = Image.open(questions / "1.png")
    answer = adaptive.generate(image, QUESTIONS[1], budget_ms=10_000, max_new_tokens=NEW_TOKENS)
    assert set(answer.configuration) == {MODELS[name], *model.knobs.names}
    expected = adaptive.model.generate(
        adaptive.model.overview(image, QUESTIONS[1]), answer.configuration, NEW_TOKENS
    )
    assert answer.text == expected.text
    assert list(adaptive.model.describe()["block_ranking"]) == manifest["block_ranking"]
    assert answer.latency_ms < 10_000
