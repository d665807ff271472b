"""The public question sets, read from small copies with the columns they have on the hub."""

import sys

import datasets
import datasets.config
import numpy as np
import pytest

from fakes import FakeModel
from folder_tasks import picture
from hub_tables import ROWS, image_of, rows, table
from paceline.errors import DependencyError, TaskError
from paceline.profiling.options import ProfileOptions
from paceline.profiling.sweep import profile
from paceline.tasks.drawing import SHARES
from paceline.tasks.finite import FiniteTask
from paceline.tasks.hub_specs import HUB_SPECS
from paceline.tasks.protocol import task_facts
from paceline.tasks.registry import load_task

SHORT = "\nAnswer the question using a single word or phrase."
COMMIT = "ab12" * 10
LETTER = "\nAnswer with the option's letter from the given choices directly."


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def load(name, place) -> FiniteTask:
    task = load_task(f"{name}:{place}")
    assert isinstance(task, FiniteTask)
    return task


def load_rows(name, place, made) -> FiniteTask:
    table(name, made).save_to_disk(place)
    return load(name, place)


def by_question(task: FiniteTask):
    """Samples by the number in their question."""
    found = {}
    for split in SHARES:
        for sample in task.samples(split, task.count(split)):
            found[next(int(w) for w in sample.question.replace("?", " ").split() if w.isdigit())] = sample
    return found


@pytest.mark.parametrize("name", HUB_SPECS)
def test_every_set_is_read(name, tmp_path):
    table(name).save_to_disk(tmp_path / "copy")
    task = load(name.upper(), tmp_path / "copy")
    samples = by_question(task)
    assert task.name == name
    assert sorted(samples) == list(range(ROWS))
    assert len({sample.sample_id for sample in samples.values()}) == ROWS
    for row, sample in samples.items():
        assert sample.dataset == name
        assert sample.kind in task.kinds
        np.testing.assert_array_equal(np.asarray(task.image(sample)), np.asarray(image_of(row)))
        assert task.score(sample, sample.answer) == 1
        assert task.score(sample, "") == 0
        assert sample.image_hash == samples[row ^ 1].image_hash  # the other question about the image
    assert len({sample.image_hash for sample in samples.values()}) == ROWS // 2
    assert len({(sample.image_hash, sample.split) for sample in samples.values()}) == ROWS // 2
    facts = task.describe()
    assert (facts["repository"], facts["origin"], facts["revision"]) == (
        HUB_SPECS[name].repository,
        "local copy",
        None,
    )
    assert (facts["samples"], facts["images"], facts["skipped"]) == (ROWS, ROWS // 2, {})


PROMPTS = {
    "vqav2": ("What is 1?" + SHORT, "answer 1", "other", 16),
    "textvqa": ("what is 1?" + SHORT, "answer 1", "question", 16),
    "okvqa": ("What is 1?" + SHORT, "answer 1", "other", 16),
    "chartqa": ("What is 1?" + SHORT, "101", "augmented_test", 16),
    "docvqa": ("What is 1?" + SHORT, "answer 1", "form", 32),
    "ai2d": ("What is 1?\nA. leaf\nB. stem\nC. root\nD. seed" + LETTER, "B", "question", 16),
    "scienceqa": (
        "Context: Plants grow.\nWhich is 1?\nA. leaf\nB. stem\nC. root" + LETTER,
        "B",
        "social science",
        16,
    ),
    "mmmu": (
        "Look at <image 1>. What is 1?\nA. leaf\nB. the plant's stem\nC. root" + LETTER,
        "B",
        "multiple-choice",
        16,
    ),
    "pope": ("Is there 1 in the image?" + SHORT, "no", "popular", 16),
}


@pytest.mark.parametrize("name", HUB_SPECS)
def test_what_is_asked(name, tmp_path):
    task = load_rows(name, tmp_path / "copy", rows(name, 4))
    sample = by_question(task)[1]
    assert (sample.question, sample.answer, sample.kind, task.max_new_tokens) == PROMPTS[name]


def test_every_set_is_scored_by_its_metric(tmp_path):
    def score(name, row, reply):
        place = tmp_path / name
        if not place.exists():
            table(name).save_to_disk(place)
        task = load(name, place)
        return task.score(by_question(task)[row], reply)

    for name in ("vqav2", "textvqa", "okvqa"):  # three of ten said so
        assert score(name, 5, "Other 5.") == pytest.approx(0.9)
    assert score("chartqa", 5, "109") == 1
    assert score("chartqa", 5, "111") == 0
    assert score("docvqa", 5, "answer number 6") == pytest.approx(1 - 1 / 15)
    assert score("ai2d", 5, "B. stem") == 1
    assert score("ai2d", 5, "C") == 0
    assert score("scienceqa", 4, "(A)") == 1
    assert score("mmmu", 5, "the plant's stem") == 1
    assert score("mmmu", 3, "So the result is 12.0") == 1
    assert score("mmmu", 3, "it is twelve") == 1
    assert score("pope", 5, "No, there is none.") == 1
    assert score("pope", 5, "Yes") == 0


def test_ids_come_from_the_set(tmp_path):
    names = {
        "vqav2": "vqav2-1003",
        "mmmu": "mmmu-validation_Art_3",
        "pope": "pope-adversarial-1",
        "ai2d": "ai2d-row3",
    }
    for name, expected in names.items():
        assert by_question(load_rows(name, tmp_path / name, rows(name, 6)))[3].sample_id == expected


def test_repeated_ids_get_their_row(tmp_path):
    made = rows("vqav2", 4)
    made[2]["question_id"] = made[1]["question_id"]
    samples = by_question(load_rows("vqav2", tmp_path / "copy", made))
    assert [samples[row].sample_id for row in (1, 2)] == ["vqav2-1001", "vqav2-1001-row2"]


def test_rows_that_cannot_be_asked_are_skipped_and_counted(tmp_path):
    science = rows("scienceqa", 8)
    science[0]["image"] = science[1]["image"] = None
    science[2]["answer"] = 7
    science[3]["choices"] = ["one"]
    science[4]["question"] = ""
    task = load_rows("scienceqa", tmp_path / "science", science)
    assert sorted(by_question(task)) == [5, 6, 7]
    assert task.describe()["skipped"] == {"answer and options do not fit": 2, "no image": 2, "no question": 1}

    art = rows("mmmu", 8)
    art[0]["image_2"] = picture(77)
    art[1] |= {"image_1": None, "image_3": picture(78)}  # one image, in another column
    art[2] |= {"image_1": None}
    art[3]["answer"] = None
    task = load_rows("mmmu", tmp_path / "art", art)
    samples = by_question(task)
    assert sorted(samples) == [1, 4, 5, 6, 7]
    assert task.describe()["skipped"] == {"no answer": 1, "no image": 1, "several images": 1}
    np.testing.assert_array_equal(np.asarray(task.image(samples[1])), np.asarray(picture(78)))


def test_a_part_without_answers_is_refused(tmp_path):
    made = [row | {"answers": []} for row in rows("textvqa", 3)]
    with pytest.raises(
        TaskError, match=r"none of the 3 rows can be asked \({'no answer': 3}\); expected data/validation-"
    ):
        load_rows("textvqa", tmp_path / "copy", made)


def test_images_are_decoded_when_they_are_asked_for(tmp_path):
    made = table("chartqa").cast_column("image", datasets.Image(decode=False)).to_list()
    made[6]["image"] = {"bytes": b"not an image", "path": None}
    task = load_rows("chartqa", tmp_path / "copy", made)
    samples = by_question(task)
    assert task.image(samples[5]).size == (16, 16)
    with pytest.raises(TaskError, match="task chartqa: the image of sample chartqa-row6: .*not an image"):
        task.image(samples[6])


def test_where_a_copy_may_be(tmp_path):
    """Parquet as on the hub, the files alone, one file, and several parts saved together are all the same questions."""
    made = table("docvqa")
    (tmp_path / "hub" / "DocVQA").mkdir(parents=True)
    (tmp_path / "flat").mkdir()
    made.to_parquet(tmp_path / "hub" / "DocVQA" / "validation-00000-of-00001.parquet")
    table("docvqa", rows("docvqa", 2)).to_parquet(
        tmp_path / "hub" / "DocVQA" / "train-00000-of-00001.parquet"
    )
    made.select(range(10)).to_parquet(tmp_path / "flat" / "validation-00000-of-00002.parquet")
    made.select(range(10, ROWS)).to_parquet(tmp_path / "flat" / "validation-00001-of-00002.parquet")
    made.to_parquet(tmp_path / "mine.parquet")
    datasets.DatasetDict({"train": made.select(range(2)), "validation": made}).save_to_disk(tmp_path / "dict")
    datasets.DatasetDict({"mine": made}).save_to_disk(tmp_path / "single")
    made.save_to_disk(tmp_path / "disk")
    places = [tmp_path / name for name in ("hub", "flat", "mine.parquet", "dict", "single", "disk")]
    prints = {load("docvqa", place).describe()["fingerprint"] for place in places}
    assert len(prints) == 1


def test_another_answer_is_another_fingerprint(tmp_path):
    made = rows("docvqa", 4)
    before = load_rows("docvqa", tmp_path / "a", made).describe()["fingerprint"]
    made[3]["answers"] = ["changed"]
    assert load_rows("docvqa", tmp_path / "b", made).describe()["fingerprint"] != before


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda place: None, "no such folder; expected one that holds lmms-lab/textvqa"),
        (lambda place: place.mkdir(), "expected what save_to_disk writes, or the files data/validation-"),
        (
            lambda place: place.write_text("hello"),
            "cannot be loaded .*check the network, or download lmms-lab/textvqa",
        ),
        (
            lambda place: table("ai2d").save_to_disk(place),
            r"lacks the columns \['answers', 'image_id', 'question_id'\]",
        ),
        (
            lambda place: datasets.DatasetDict({p: table("textvqa") for p in "ab"}).save_to_disk(place),
            r"got the parts \['a', 'b'\], expected validation or one part alone",
        ),
    ],
)
def test_bad_copies_are_refused(tmp_path, make, said):
    make(tmp_path / "copy")
    with pytest.raises(TaskError, match=f"task textvqa: .*{said}"):
        load_task(f"textvqa:{tmp_path / 'copy'}")


def test_only_the_part_with_answers_is_fetched_from_the_hub(monkeypatch, tmp_path):
    asked = {}

    def load_dataset(repository, **options):
        asked.update(options, repository=repository)
        table("textvqa").save_to_disk(tmp_path / "0.0.0" / COMMIT)  # as the hub's cache names it
        return datasets.load_from_disk(tmp_path / "0.0.0" / COMMIT)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    facts = task_facts(load_task("textvqa"))
    assert asked == {
        "repository": "lmms-lab/textvqa",
        "data_files": {"validation": "data/validation-*"},
        "split": "validation",
        "verification_mode": "no_checks",
    }
    assert (facts["origin"], facts["revision"]) == ("hub", COMMIT)


def test_the_revision_of_a_copy_is_read_from_its_path(tmp_path):
    place = tmp_path / "datasets--lmms-lab--ai2d" / "snapshots" / COMMIT
    (place / "data").mkdir(parents=True)
    table("ai2d").to_parquet(place / "data" / "test-00000-of-00001.parquet")
    assert load("ai2d", place).describe()["revision"] == COMMIT


def test_no_network_is_said(monkeypatch):
    def load_dataset(repository, **options):
        raise ConnectionError("Couldn't reach the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        TaskError, match=r"lmms-lab/POPE cannot be loaded \(Couldn't reach the Hub\); check the network"
    ):
        load_task("pope")


def test_the_library_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        DependencyError, match=r"task mmmu needs the library datasets; pip install 'paceline\[datasets\]'"
    ):
        load_task("mmmu")


def test_a_sweep_goes_on_from_the_same_set_elsewhere(tmp_path):
    class AnyQuestion(FakeModel):
        def overview(self, image, prompt):
            return super().overview(image, f"plain {prompt}")

        def with_block_ranking(self, ranking):
            return type(self)(ranking)

    options = ProfileOptions(configurations=3, samples=6, timed_samples=1, warmup=0)
    made = table("pope", rows("pope", 60))
    made.save_to_disk(tmp_path / "a")
    made.to_parquet(tmp_path / "b.parquet")
    outcomes = profile(AnyQuestion(), load("pope", tmp_path / "a"), tmp_path / "out", options)
    facts = outcomes.manifest.audit["task"]
    assert (facts["name"], facts["metric"], facts["prompt"]) == ("pope", "yes_no", "{question}" + SHORT)
    profile(AnyQuestion(), load("pope", tmp_path / "b.parquet"), tmp_path / "out", options)
