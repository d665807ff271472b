"""The digits task: disjoint handwriting, seeded scenes, canvases on which crops matter, answers that are right."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from paceline.errors import TaskError
from paceline.models.molmoe.crops import CropOptions, choose_tiling
from paceline.models.molmoe.options import TINY
from paceline.models.registry import load_model
from paceline.tasks import questions, scenes
from paceline.tasks.digits import MIX, QUESTIONS_PER_SCENE, DigitsTask
from paceline.tasks.questions import ask
from paceline.tasks.scenes import Digit, Scene

MOST_OF_ONE_ANSWER = 0.6


@pytest.fixture(scope="module")
def task() -> DigitsTask:
    return DigitsTask()


def scene_of(*digits: tuple[int, str, float]) -> Scene:
    placed = tuple(
        Digit(scan=i, value=value, color=color, size=size, row=20.0, column=20.0 + 25 * i, angle=0.0)
        for i, (value, color, size) in enumerate(digits)
    )
    return Scene(height=80, width=104, scale="large", digits=placed, noise_seed=0)


def test_no_handwriting_is_shared_by_splits():
    parts = [set(scenes.split_scans(split).tolist()) for split in scenes.SPLITS]
    assert sum(len(part) for part in parts) == len(set.union(*parts)) == len(scenes.scans()[1])


def test_scenes_use_the_scans_of_their_split_and_no_others(task):
    for split in scenes.SPLITS:
        used = {digit.scan for sample in task.samples(split, 60) for digit in task.scene(sample).digits}
        assert used <= set(scenes.split_scans(split).tolist())


@pytest.mark.parametrize("canvas", scenes.CANVASES)
def test_twelve_crops_differ_from_six_on_every_canvas(canvas):
    geometry = CropOptions.of(TINY)
    assert choose_tiling(*canvas, 12, geometry) != choose_tiling(*canvas, 6, geometry)


def test_the_stream_is_the_same_every_time_and_another_for_another_seed(task):
    first, again, other = (
        task.samples("test", 30),
        task.samples("test", 60)[:30],
        task.samples("test", 30, seed=1),
    )
    assert first == again
    assert {sample.image_hash for sample in first}.isdisjoint(sample.image_hash for sample in other)
    assert np.array_equal(np.asarray(task.image(first[3])), np.asarray(DigitsTask().image(first[3])))


def test_a_scene_is_never_asked_the_same_twice(task):
    by_scene = defaultdict(list)
    for sample in task.samples("validation", 20 * QUESTIONS_PER_SCENE):
        by_scene[sample.image_hash].append(sample.question)
    assert len(by_scene) == 20
    assert all(len(set(asked)) == len(asked) == QUESTIONS_PER_SCENE for asked in by_scene.values())


def test_no_kind_can_be_answered_by_its_commonest_answer(task):
    answers = defaultdict(Counter)
    for sample in task.samples("test", 3000):
        answers[sample.kind][sample.answer] += 1
    assert set(answers) == set(task.kinds)
    for counts in answers.values():
        assert max(counts.values()) <= MOST_OF_ONE_ANSWER * counts.total()


def test_every_scale_asks_every_kind_and_shares_sum_to_one():
    for shares in MIX.values():
        assert set(shares) == set(questions.KINDS)
        assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        ("read", {"which digit is red": "7", "which digit is blue": "2"}),
        ("color", {"which color is 7": "red", "which color is 2": "blue"}),
        ("largest", {"which color is largest": "blue"}),
        ("count", {"how many digits are there": "2"}),
        ("larger", {"which is larger red or blue": "7", "which is larger blue or red": "7"}),
        ("plus", {"what is red plus blue": "9", "what is blue plus red": "9"}),
        ("times", {"what is red times blue": "14", "what is blue times red": "14"}),
        ("hop", {"which digit follows blue": None, "which digit follows red": None}),
    ],
)
def test_answers_by_hand(kind, answers):
    # 7 points to colour 7 mod 6 = 1 (green) and 2 to colour 2 (blue itself): neither leads to another digit here.
    scene = scene_of((7, "red", 18.0), (2, "blue", 30.0))
    rng = np.random.default_rng(0)
    for _ in range(20):
        question = ask(rng, scene, kind)
        if question is None:
            assert kind == "hop"
        else:
            assert question.answer == answers[question.text]


def test_a_hop_answers_with_the_digit_it_points_to():
    scene = scene_of((2, "red", 18.0), (5, "blue", 18.0), (0, "cyan", 18.0))  # red -> blue -> cyan -> red
    found = {ask(np.random.default_rng(seed), scene, "hop") for seed in range(30)}
    assert {(q.text, q.answer) for q in found if q} == {
        ("which digit follows red", "5"),
        ("which digit follows blue", "0"),
        ("which digit follows cyan", "2"),
    }


def test_scores(task):
    sample = task.samples("test", 1)[0]
    assert task.score(sample, f" {sample.answer.upper()} ") == 1.0
    assert task.score(sample, sample.answer + "x") == 0.0


@pytest.mark.parametrize("sample_id", ["other-test-0-0-0", "digits-test-0-0", "digits-test-a-0-0"])
def test_foreign_samples_are_refused(task, sample_id):
    import dataclasses

    sample = dataclasses.replace(task.samples("test", 1)[0], sample_id=sample_id)
    with pytest.raises(TaskError, match="expected digits-SPLIT-SEED-SCENE-NUMBER"):
        task.image(sample)


def test_unknown_splits_are_refused(task):
    with pytest.raises(TaskError, match="expected one of"):
        task.samples("tests", 1)


def test_the_shipped_model_answers_and_degrades_with_every_knob(task):
    model = load_model("tiny")
    samples = task.samples("test", 120, seed=3)
    overviews = [model.overview(task.image(sample), sample.question) for sample in samples]

    def accuracy(**knobs: int) -> float:
        texts = model.generate_batch(overviews, {**model.knobs.full, **knobs}, task.max_new_tokens)
        return float(np.mean([task.score(s, text) for s, text in zip(samples, texts, strict=True)]))

    full = accuracy()
    assert full >= 0.8
    assert accuracy(max_crops=2) < full
    assert accuracy(top_k=4) < full
    assert accuracy(num_active_blocks=8) < full
