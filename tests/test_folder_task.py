"""A folder of images and questions as a task: what it asks, how it is split, and what it refuses."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import paceline
from command_line import message, put_fakes, run, run_json
from fakes import FakeModel, FakeTask
from folder_tasks import picture, question, write_folder, write_lines
from paceline.errors import ProfileError, TaskError
from paceline.outcomes.store import read_table
from paceline.profiling.options import ProfileOptions
from paceline.profiling.sweep import profile
from paceline.tasks.drawing import SHARES, draw, split_of
from paceline.tasks.finite import FiniteTask
from paceline.tasks.folder_lines import KEYS, parse_line
from paceline.tasks.protocol import at_most, task_facts
from paceline.tasks.registry import load_task, task_names

SPLITS = tuple(SHARES)


def load(folder: Path) -> FiniteTask:
    task = load_task(f"folder:{folder}")
    assert isinstance(task, FiniteTask)
    return task


def every_sample(task: FiniteTask):
    return [sample for split in SPLITS for sample in task.samples(split, task.count(split))]


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "shop")


def with_lines(tmp_path, *lines, images=4):
    return load(write_folder(tmp_path / "shop", images=images, lines=lines))


# -- What it asks


def test_a_folder_asks_its_questions(folder):
    task = load(folder)
    assert (task.name, task.max_new_tokens, task.kinds) == ("shop", 16, ("question",))
    samples = {sample.sample_id: sample for sample in every_sample(task)}
    assert set(samples) == {f"shop-line{n}" for n in range(1, 21)}
    sample = samples["shop-line6"]
    assert (sample.dataset, sample.question, sample.answer) == ("shop", "what is 5", "answer 5")
    np.testing.assert_array_equal(np.asarray(task.image(sample)), np.asarray(picture(5)))
    assert task.score(sample, " Answer  5") == 1
    assert task.score(sample, "answer 6") == 0


def test_every_field_of_a_line_counts(tmp_path):
    task = with_lines(
        tmp_path,
        question(0, id="first", kind="price", split="test"),
        {"question": "which", "image": "images/1.png", "answer": "dog", "choices": ["cat", "dog"], "id": 2},
        {"question": "how", "image": "images/2.png", "answers": ["red", "blue", "blue"], "metric": "vqa"},
        question(3, answer=3),
    )
    samples = {sample.sample_id: sample for sample in every_sample(task)}
    first, letter, people, number = (samples[f"shop-{key}"] for key in ("first", "2", "line3", "line4"))
    assert (first.kind, first.split) == ("price", "test")
    assert (
        letter.question
        == "which\nA. cat\nB. dog\nAnswer with the option's letter from the given choices directly."
    )
    assert letter.answer == "B"
    assert (task.score(letter, "B."), task.score(letter, "the cat")) == (1, 0)
    assert people.answer == "blue"  # most said so
    assert task.score(people, "Blue") == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert number.answer == "3"
    assert task.kinds == ("price", "question")
    assert task.describe()["metric"] == ["exact", "multiple_choice", "vqa"]


def test_settings_hold_for_all_lines(folder):
    settings = {
        "name": "prices",
        "metric": "anls",
        "prompt": "Look! {question} Be brief.",
        "max_new_tokens": 3,
    }
    (folder / "task.json").write_text(json.dumps(settings))
    task = load_task(f"FOLDER:{folder}")
    (sample,) = task.samples("train", 1)
    assert (task.name, task.max_new_tokens, sample.dataset) == ("prices", 3, "prices")
    assert sample.question.startswith("Look! what is ")
    assert sample.question.endswith(" Be brief.")
    assert task.score(sample, sample.answer[:-1]) == pytest.approx(1 - 1 / len(sample.answer))
    facts = task_facts(task)
    assert {name: facts[name] for name in settings} == settings
    assert (facts["samples"], facts["images"], sum(facts["splits"].values())) == (20, 20, 20)


def test_options_go_where_the_prompt_puts_them(tmp_path):
    folder = write_folder(
        tmp_path / "shop", images=1, lines=[question(0, choices=["cat", "dog"], answer="dog", split="test")]
    )
    (folder / "task.json").write_text(json.dumps({"prompt": "{choices}\n{question}", "max_new_tokens": 1}))
    assert load(folder).samples("test", 1)[0].question == "A. cat\nB. dog\nwhat is 0"


def test_the_only_jsonl_is_the_questions(folder):
    (folder / "questions.jsonl").rename(folder / "mine.jsonl")
    assert load(folder).count("train") > 0
    write_lines(folder / "more.jsonl", [question(1)])
    with pytest.raises(
        TaskError, match=r"got the files \['mine.jsonl', 'more.jsonl'\], expected questions.jsonl or"
    ):
        load(folder)


def test_blank_lines_marks_and_separators_do_not_count(folder):
    text = (folder / "questions.jsonl").read_text().replace("what is 3", "what\u2028is 3")
    (folder / "questions.jsonl").write_text("\ufeff\n" + text.replace("\n", "\r\n\n"), encoding="utf-8")
    assert len(every_sample(load(folder))) == 20


def test_images_are_upright(tmp_path):
    folder = write_folder(
        tmp_path / "shop", images=1, lines=[question(0, image="images/turned.jpg", split="train")]
    )
    wide = Image.new("RGB", (32, 16), "red")
    exif = wide.getexif()
    exif[0x0112] = 6  # turned by a quarter
    wide.save(folder / "images" / "turned.jpg", exif=exif)
    task = load(folder)
    assert task.image(task.samples("train", 1)[0]).size == (16, 32)


# -- Splits


def test_questions_about_one_image_share_its_split(tmp_path):
    folder = write_folder(
        tmp_path / "shop", images=30, lines=[question(n % 30, question=f"q {n}") for n in range(120)]
    )
    picture(7).save(folder / "images" / "copy.bmp")  # the same pixels under another name
    with (folder / "questions.jsonl").open("a") as file:
        file.write(json.dumps(question(7, image="images/copy.bmp")) + "\n")
    samples = every_sample(load(folder))
    assert len({sample.image_hash for sample in samples}) == 30
    assert len({(sample.image_hash, sample.split) for sample in samples}) == 30


def test_a_named_split_holds_for_the_image(tmp_path):
    hashed = split_of(every_sample(with_lines(tmp_path / "a", question(0)))[0].image_hash)
    other = next(split for split in SPLITS if split != hashed)
    task = with_lines(tmp_path / "b", question(0, question="one"), question(0, question="two", split=other))
    assert [sample.split for sample in every_sample(task)] == [other, other]


def test_splits_do_not_move_when_images_are_added(folder):
    before = {sample.image_hash: sample.split for sample in every_sample(load(folder))}
    picture(99).save(folder / "images" / "99.png")
    with (folder / "questions.jsonl").open("a") as file:
        file.write(json.dumps(question(99)) + "\n")
    after = {sample.image_hash: sample.split for sample in every_sample(load(folder))}
    assert len(after) == 21
    assert before.items() <= after.items()


def test_shares_of_images_are_those_of_a_sweep():
    counts = {split: 0 for split in SPLITS}
    for number in range(10_000):
        counts[split_of(f"{number:x}")] += 1
    for split, share in SHARES.items():  # 4 standard deviations
        assert abs(counts[split] / 10_000 - share) < 4 * (share * (1 - share) / 10_000) ** 0.5
    assert tuple(SHARES.values()) == ProfileOptions().splits
    # fixed for ever: an image that was trained on must not be judged by in a later version
    assert [split_of(name) for name in ("a", "b", "c", "d", "e", "f", "g")] == [
        "validation",
        "train",
        "train",
        "test",
        "train",
        "train",
        "test",
    ]
    assert {split_of("abc", seed) for seed in range(30)} == set(SPLITS)


@given(st.integers(0, 30), st.integers(0, 2**32), st.sampled_from(SPLITS))
def test_fewer_samples_are_the_first_of_more(count, seed, split):
    places = {name: list(range(start, start + 30)) for start, name in zip((0, 100, 200), SPLITS, strict=True)}
    drawn = draw(places, split, count, seed, name="t")
    assert drawn == draw(places, split, 30, seed, name="t")[:count]
    assert len(set(drawn)) == count
    assert set(drawn) <= set(places[split])


def test_the_seed_orders_the_samples(folder):
    task = load(folder)
    all_train = task.count("train")
    orders = {tuple(s.sample_id for s in task.samples("train", all_train, seed)) for seed in range(3)}
    assert len(orders) == 3
    assert len({frozenset(order) for order in orders}) == 1


def test_too_many_samples_are_refused_with_their_number(folder):
    task = load(folder)
    sizes = {split: task.count(split) for split in SPLITS}
    most = min(sizes["train"] / 0.6, sizes["validation"] / 0.15, sizes["test"] / 0.25)
    said = (
        f"task shop: split test has {sizes['test']} samples, 50 were asked for; there are {sizes['train']} train, "
        f"{sizes['validation']} validation, {sizes['test']} test, enough for sweeps of {int(most + 1e-9)} samples"
    )
    with pytest.raises(TaskError, match=said):
        task.samples("test", 50)
    with pytest.raises(TaskError, match="split: got 'dev', expected one of"):
        task.samples("dev", 1)
    assert task.samples("test", 0) == []
    assert at_most(task, "test", 50) == sizes["test"]
    assert at_most(FakeTask(), "test", 50) == 50


def test_samples_of_another_task_are_refused(folder):
    task = load(folder)
    with pytest.raises(TaskError, match="sample_id: task shop has no 'test-0-0'"):
        task.image(FakeTask().samples("test", 1)[0])


# -- What it refuses

BAD_LINES = [
    ("{", "line 2: not JSON \\(Expecting property name"),
    ("[1]", "line 2: got list, expected a JSON object"),
    (
        '{"question": "q", "image": "images/1.png", "answer": NaN}',
        "line 2: not JSON \\(NaN is no number there",
    ),
    ("1" * 5000, "line 2: not JSON of a question \\(Exceeds the limit"),
    (question(1, question="\ud800"), "line 2: question: got '\\\\ud800', which has half a character"),
    (question(1, answer="\ud800"), "line 2: answer: got '\\\\ud800', which has half a character"),
    ("[" * 100_000, "line 2: not JSON of a question \\(nested too deeply"),
    (question(1, colour="red"), "line 2: unknown keys \\['colour'\\]"),
    ({"image": "images/1.png", "answer": "a"}, "line 2: question is missing"),
    ({"question": "q", "answer": "a"}, "line 2: image is missing"),
    ({"question": "q", "image": "images/1.png"}, "line 2: expected either answer or answers"),
    (question(1, answers=["a"]), "line 2: expected either answer or answers"),
    (question(1, question=" "), "line 2: question: got ' ', expected a text"),
    (question(1, question=3), "line 2: question: got 3, expected a text"),
    (question(1, answer=""), "line 2: answer: got '', expected a text or a number"),
    (question(1, answer=True), "line 2: answer: got True, expected a text or a number"),
    (
        {"question": "q", "image": "images/1.png", "answers": []},
        "line 2: answers: got \\[\\], expected a list",
    ),
    ({"question": "q", "image": "images/1.png", "answers": "a"}, "line 2: answers: got 'a', expected a list"),
    (question(1, split="dev"), "line 2: split: got 'dev', expected one of"),
    (question(1, split=["test"]), "line 2: split: got \\['test'\\], expected one of"),
    (question(1, metric="bleu"), "line 2: metric: got 'bleu', expected one of"),
    (question(1, choices=["x", "y"]), "line 2: answer: got 'answer 1', expected a letter from A to B"),
    (question(1, metric="yes_no"), "line 2: answer: got \\['answer 1'\\], metric yes_no expects yes or no"),
    (question(1, id="line1"), "line 2: id: 'line1' is also that of line 1"),
    (question(1, image="images/none.png"), "line 2: image: there is no file 'images/none.png' in the folder"),
    (question(1, image="images"), "line 2: image: there is no file 'images'"),
    (question(1, image="../outside.png"), "line 2: image: '../outside.png' leads out of the folder"),
    (question(1, image="images/link.png"), "line 2: image: 'images/link.png' leads out of the folder"),
    (question(1, image="a\0b"), "line 2: image: 'a\\\\x00b' is no path"),
    (question(1, image="questions.jsonl"), "line 2: image: .*not an image in a known format"),
    (question(1, image="images/torn.png"), "line 2: image: .*the image is damaged"),
    (question(1, image="images/dot.png"), "line 2: image: .*1 x 1 pixels, expected at least"),
]


@pytest.mark.parametrize(("line", "said"), BAD_LINES, ids=[said for _, said in BAD_LINES])
def test_bad_lines_are_named(tmp_path, line, said):
    folder = write_folder(tmp_path / "shop", images=3, lines=[question(0), line, question(2)])
    picture(50).save(tmp_path / "outside.png")
    os.symlink(tmp_path / "outside.png", folder / "images" / "link.png")
    whole = (folder / "images" / "0.png").read_bytes()
    (folder / "images" / "torn.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (1, 1)).save(folder / "images" / "dot.png")
    with pytest.raises(TaskError, match=f"questions.jsonl: 1 lines cannot be used: {said}"):
        load(folder)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda v: st.lists(v, max_size=3),
)


@given(st.dictionaries(st.sampled_from(KEYS), JSON_VALUES) | JSON_VALUES)
def test_whatever_a_line_holds_is_a_question_or_refused(value):
    try:
        line = parse_line(json.dumps(value), 1)
    except TaskError:
        return
    assert line.question == value["question"]
    assert line.answers


def test_absolute_paths_are_refused(tmp_path):
    with pytest.raises(TaskError, match="leads out of the folder; copy the image into it"):
        with_lines(tmp_path, question(0, image=str(tmp_path / "shop" / "images" / "0.png")))


def test_bad_lines_that_are_all_shown_are_not_more(tmp_path):
    with pytest.raises(TaskError, match=r"5 lines cannot be used: .*line 5: not JSON \([^;]*$"):
        with_lines(tmp_path, *["{"] * 5)


def test_all_bad_lines_are_counted_and_the_first_are_shown(tmp_path):
    with pytest.raises(TaskError, match=r"8 lines cannot be used: line 1: .*; line 5: [^;]*; 3 more$"):
        with_lines(tmp_path, *["{"] * 8)


def test_one_image_in_two_splits_is_refused(tmp_path):
    with pytest.raises(TaskError, match="line 2: split: the image is in test here and in train in line 1"):
        with_lines(
            tmp_path, question(0, question="a", split="train"), question(0, question="b", split="test")
        )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("{", "task.json: not JSON"),
        ("[]", "task.json: got list, expected a JSON object"),
        ('{"colour": 1}', "task.json: got \\['colour'\\], expected a JSON object with no other keys than"),
        ('{"metric": "bleu"}', "task.json: metric: got 'bleu', expected one of"),
        ('{"metric": "multiple_choice"}', "line 1: choices: got none"),
        ('{"name": ""}', "task.json: name: got ''"),
        ('{"prompt": 3}', "task.json: prompt: got 3, expected a text"),
        ('{"prompt": "hello"}', "task.json: prompt: got 'hello', expected a text with {question}"),
        ('{"prompt": "{question} {hint}"}', "task.json: prompt: got .*expected a text with {question}"),
        ('{"prompt": "{question!r}"}', "task.json: prompt: got .*expected a text with {question}"),
        ('{"prompt": "{question"}', "task.json: prompt: got .*write a brace that is text twice"),
        ('{"max_new_tokens": 0}', "task.json: max_new_tokens: got 0, expected an integer from 1"),
        ('{"max_new_tokens": true}', "task.json: max_new_tokens: got True"),
    ],
)
def test_bad_settings_are_named(folder, settings, said):
    (folder / "task.json").write_text(settings)
    with pytest.raises(TaskError, match=said):
        load(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [(b"", "holds no questions"), (b"\n \n", "holds no questions"), (b"\xff\xfe\x00", "not UTF-8 text")],
)
def test_files_without_questions_are_refused(folder, text, said):
    (folder / "questions.jsonl").write_bytes(text)
    with pytest.raises(TaskError, match=f"questions.jsonl: {said}"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("folder", "got folder without a path, expected folder:PATH"),
        ("folder: ", "got folder without a path"),
        ("folder:/no/such/place", "/no/such/place: no such folder"),
        ("digits:here", "task: got 'digits:here', expected one of"),
        ("chess", "task: got 'chess', expected one of"),
        ("", "task: got '', expected one of"),
    ],
)
def test_unknown_tasks_are_refused(name, said):
    with pytest.raises(TaskError, match=said):
        load_task(name)


def test_a_folder_without_questions_is_refused(tmp_path):
    with pytest.raises(TaskError, match=r"got the files \[\], expected questions.jsonl"):
        load(tmp_path)


def test_an_error_and_the_help_name_every_task():
    with pytest.raises(TaskError) as error:
        load_task("chess")
    shown = " ".join(run("profile", "--help").stdout.replace("│", " ").split())
    for name in task_names():
        assert name in str(error.value)
        assert name in shown


# -- Sweeps

OPTIONS = ProfileOptions(configurations=4, samples=10, timed_samples=2, warmup=0)


class AnyQuestion(FakeModel):
    """The fake model, for any prompt."""

    def overview(self, image, prompt):
        return super().overview(image, f"plain {prompt}")

    def with_block_ranking(self, ranking):
        return type(self)(ranking)


def test_a_sweep_records_the_task(folder, tmp_path):
    manifest = profile(AnyQuestion(), load(folder), tmp_path / "out", OPTIONS).manifest
    facts = manifest.audit["task"]
    assert manifest.task == facts["name"] == "shop"
    assert (facts["metric"], facts["prompt"], facts["origin"]) == ("exact", "{question}", "folder")
    assert len(facts["fingerprint"]) == 32
    assert str(tmp_path) not in json.dumps(facts)


@pytest.mark.parametrize("change", ["answer", "image"])
def test_a_sweep_does_not_go_on_with_changed_questions(folder, tmp_path, change):
    profile(AnyQuestion(), load(folder), tmp_path / "out", OPTIONS)
    copied = shutil.copytree(folder, tmp_path / "copy" / "shop")
    profile(AnyQuestion(), load(copied), tmp_path / "out", OPTIONS)  # the same, elsewhere
    if change == "answer":
        text = (folder / "questions.jsonl").read_text()
        (folder / "questions.jsonl").write_text(text.replace("answer 3", "answer 33"))
    else:
        picture(300).save(folder / "images" / "3.png")
    with pytest.raises(ProfileError, match="holds another sweep: task fingerprint was"):
        profile(AnyQuestion(), load(folder), tmp_path / "out", OPTIONS)


def test_a_sweep_that_needs_more_questions_says_so(folder, tmp_path, monkeypatch):
    put_fakes(monkeypatch)
    result = run("profile", "fake", "--task", f"folder:{folder}", "--out", tmp_path / "out")
    assert "there are" in message(result)
    assert not (tmp_path / "out").exists()


def test_the_embedded_model_is_profiled_trained_and_evaluated_on_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    digits = paceline.load_task("digits")
    folder = tmp_path / "scenes"
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(20):
        split = "train" if number < 12 else "validation" if number < 15 else "test"
        sample = digits.samples(split, 6 * number + 1)[-1]
        digits.image(sample).save(folder / "images" / f"{number}.png")
        lines.append(
            question(number, question=sample.question, answer=sample.answer, kind=sample.kind, split=split)
        )
    write_lines(folder / "questions.jsonl", lines)
    words = ["--samples", 20, "--configurations", 3, "--timed-samples", 10, "--plan", "lhs"]
    run_json("profile", "tiny", "--task", f"folder:{folder}", "--out", tmp_path / "out", *words)
    table = read_table(tmp_path / "out")
    assert table.accuracy.shape == (20, 3)
    assert table.accuracy.max() == 1
    trained = ["--algorithm", "supervised", "--epochs", 2]
    run_json("train", tmp_path / "out", "--out", tmp_path / "controller", *trained)
    value = run_json("evaluate", tmp_path / "controller", tmp_path / "out", "--replicates", 100)
    assert value["provenance"]["task"] == "scenes"
