"""What a user gets wrong when importing: one message, exit code 2, and nothing left at --out."""

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import paceline.outcomes.importers.importing as importing
from command_line import message, run
from result_files import SMALL, Layout, World, edit, write_core_exp, write_exp5, write_exp6, write_lmms_eval

WORLD = World()


@pytest.fixture
def folder(tmp_path):
    """exp5 and exp6 files that import."""
    write_exp5(tmp_path / "results", WORLD, Layout())
    write_exp6(tmp_path / "results", WORLD, Layout())
    return tmp_path / "results"


def refused(tmp_path, *words):
    """The message of an import that must fail, with nothing left behind."""
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    told = message(run("import", *words, "--out", tmp_path / "new" / "out"))
    assert not (tmp_path / "new").exists()
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
    return told


def exp5_file(folder):
    return folder / "exp5_accuracy_coco-2014-vqa" / "exp5_accuracy_results_crops2_topk4_blocks12.json"


def exp6_file(folder):
    return folder / "exp6_latency_coco-2014-vqa" / "exp6_latency_crops2_topk4_blocks12.json"


def spoil(folder, fault):
    exp5, exp6 = exp5_file(folder), exp6_file(folder)
    if fault == "half-written":
        exp5.write_text(exp5.read_text()[:500])
    elif fault == "not UTF-8 inside":
        exp5.write_bytes(b'{"summary": "\xff"}')
    elif fault == "empty file":
        exp6.write_bytes(b"")
    elif fault == "two models by blocks":
        edit(exp6, lambda value: value["config"].update(num_total_blocks=24))
    elif fault == "two models by name":
        edit(exp5, lambda value: value["config"].update(model_name="MolmoE-1B"))
        edit(exp6, lambda value: value["config"].update(model_name="Molmo-7B"))
    elif fault == "name and config":
        exp5.rename(exp5.with_name("exp5_accuracy_results_crops4_topk4_blocks12.json"))
    elif fault == "unknown names":
        for path in [*folder.rglob("*.json")]:
            path.write_text("[]")
    elif fault == "no configuration":
        edit(exp5, lambda value: value.update(config={}))
        exp5.rename(exp5.with_name("exp5_accuracy_results_a.json"))
    elif fault == "other samples":
        for path in exp6.parent.iterdir():
            edit(
                path,
                lambda value: [
                    p["metadata"].update(question_id=1) for p in value["per_sample_predictions"][:1]
                ],
            )
            edit(path, lambda value: value["config"].update(dataset_name="text_vqa"))
    elif fault == "duplicate keys":
        shutil.copytree(exp6.parent, exp6.parent.with_name("exp6_again"))
        again = exp6.parent.with_name("exp6_again") / exp6.name
        edit(again, lambda value: value["per_sample_latencies"][3].update(T_total_ms=77.0))
    elif fault == "duplicate ids":
        edit(exp5, lambda value: value["all_samples"][1]["metadata"].update(question_id=9000))
        edit(exp5, lambda value: value["all_samples"][1].update(score=1 - value["all_samples"][0]["score"]))
    elif fault == "text for a score":
        edit(exp5, lambda value: value["all_samples"][2].update(score="good"))
    elif fault == "no scores":
        edit(exp5, lambda value: [record.pop("score") for record in value["all_samples"]])
    elif fault == "negative score":
        edit(exp5, lambda value: value["all_samples"][2].update(score=-0.5))
    elif fault == "list instead of object":
        edit(exp6, lambda value: value.update(per_sample_latencies={"a": 1}))
    elif fault == "other configuration inside":
        edit(exp6, lambda value: value["per_sample_latencies"][2].update(top_k=32))
    elif fault == "blocks that do not count":
        edit(exp6, lambda value: value["config"].update(active_block_indices=[0, 15]))
    elif fault == "other question":
        edit(exp6, lambda value: value["per_sample_predictions"][0]["metadata"].update(question="Why?"))
    elif fault == "no times":
        edit(exp6, lambda value: [record.pop("T_total_ms") for record in value["per_sample_latencies"]])
    elif fault == "an id is missing":
        edit(exp5, lambda value: value["all_samples"][0].update(metadata=None))
    elif fault == "infinite crops":
        edit(exp5, lambda value: value["config"].update(max_crops=float("inf")))
    elif fault == "other format":
        write_core_exp(folder / "core", WORLD, Layout())


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("half-written", "half-written or damaged"),
        ("not UTF-8 inside", "not complete JSON"),
        ("empty file", "not complete JSON"),
        ("two models by blocks", "a model with num_total_blocks 24"),
        ("two models by name", "expected files of one model"),
        ("name and config", "expected them to agree"),
        ("unknown names", "none of the names match a known format"),
        ("no configuration", "neither the name nor config names a configuration"),
        ("other samples", "names do not match"),
        ("duplicate keys", "says 77 (1 such rows)"),
        ("duplicate ids", "another file says"),
        ("text for a score", "score of entry 2 is 'good', expected a number"),
        ("no scores", "no entry has score"),
        ("negative score", "scores run from -0.5 to 1"),
        ("list instead of object", "per_sample_latencies is dict, expected a list"),
        ("other configuration inside", "entries say top_k [32], the file is of 4"),
        ("blocks that do not count", "expected 12 different blocks"),
        ("other question", "another file says"),
        ("no times", "expected T_total_ms"),
        ("an id is missing", "1 of 24 samples have no metadata.question_id"),
        ("infinite crops", "config.max_crops: got inf, expected a whole number"),
        ("other format", "expected one kind of files"),
    ],
)
def test_result_files(fault, expected, folder, tmp_path):
    spoil(folder, fault)
    assert expected in refused(tmp_path, folder)


def test_duplicate_ids_with_unequal_scores(tmp_path):
    folder = write_exp5(tmp_path / "results", WORLD, Layout())
    path = exp5_file(folder.parent)

    def repeat(value):
        first = value["all_samples"][0]
        value["all_samples"].append(first | {"score": 1 - first["score"]})

    edit(path, repeat)
    told = refused(tmp_path, folder)
    assert "expected one value per sample and configuration" in told
    assert "coco_2014_vqa/9000" in told


@pytest.mark.parametrize("join", ["auto", "question_id", "position"])
def test_exp5_files_of_other_samples_by_position(join, tmp_path):
    folder = write_exp5(tmp_path / "results", WORLD, Layout(metadata=False))
    edit(exp5_file(folder.parent), lambda value: value["all_samples"].reverse())
    expected = "without metadata.question_id" if join == "question_id" else "cannot be joined by position"
    assert expected in refused(tmp_path, folder, "--join", join)


def test_answers_that_differ_at_one_position(tmp_path):
    folder = write_exp5(tmp_path / "results", WORLD, Layout(metadata=False))
    edit(exp5_file(folder.parent), lambda value: value["all_samples"][1].update(answers=["other"]))
    assert "expects other answers at position 1" in refused(tmp_path, folder)


def test_latencies_in_another_order_than_the_accuracies(tmp_path):
    write_exp5(tmp_path / "results", WORLD, Layout(metadata=False))
    folder = write_exp6(tmp_path / "results", WORLD, Layout(metadata=False))
    for path in folder.iterdir():
        edit(path, lambda value: value["per_sample_predictions"].reverse())
    assert "expects other answers at position 0" in refused(tmp_path, tmp_path / "results")


def test_folders_and_paths(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "readme.txt").write_text("no results")
    assert "got an empty folder" in refused(tmp_path, empty)
    assert "got an empty folder" in refused(tmp_path, folder, empty)
    assert "got readme.txt, expected .json" in refused(tmp_path, tmp_path / "text")
    assert "no such file or folder" in refused(tmp_path, tmp_path / "nowhere")
    assert "no such file" in refused(tmp_path, tmp_path / "nowhere.csv")


def test_a_file_name_that_is_not_utf_8(folder, tmp_path):
    name = os.fsencode(exp5_file(folder).parent) + b"/exp5_accuracy_\xff.json"
    try:
        with open(name, "w") as file:
            file.write("{}")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    told = refused(tmp_path, folder)
    assert "the file name is not UTF-8" in told
    assert "rename the file" in told


def test_an_out_that_is_in_use(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    assert "expected a new or empty directory" in message(run("import", folder, "--out", out))
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    file = tmp_path / "file"
    file.write_text("keep")
    message(run("import", folder, "--out", file))
    assert file.read_text() == "keep"
    shutil.rmtree(out)
    out.mkdir()
    assert run("import", folder, "--out", out).exit_code == 0
    assert (out / "manifest.json").is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_import_leaves_nothing(error, folder, tmp_path, monkeypatch):
    def stop(path, table, progress):
        (Path(path) / "outcomes.parquet").write_text("half")
        raise error

    monkeypatch.setattr(importing, "write_table", stop)
    before = sorted(tmp_path.iterdir())
    result = run("import", folder, "--out", tmp_path / "new" / "out")
    assert result.exit_code == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--join", "luck"], "join: got 'luck', expected one of"),
        (["--latency-unit", "s"], "T_total_ms is in milliseconds as its name says"),
        (["--latency-unit", "minutes"], "latency unit: got 'minutes'"),
        (["--quality-unit", "stars"], "quality unit: got 'stars'"),
        (["--seed", -1], "seed: got -1"),
        (["--seed", 4294967296], "seed: got 4294967296, expected 0 to 4294967295"),
        (["--configuration", "a"], "expected FOLDER:knob=value"),
        (["--sample", "id"], "--sample and --knobs are for tables"),
    ],
)
def test_options(words, expected, folder, tmp_path):
    assert expected in refused(tmp_path, folder, *words)


def test_lmms_eval_logs(tmp_path):
    logs = write_lmms_eval(tmp_path / "logs", WORLD, grid=SMALL[:2])
    log = next(logs.rglob("*.jsonl"))
    good = log.read_text()
    log.write_text(good[:-30])
    assert "line 24: not complete JSON" in refused(tmp_path, logs)
    log.write_text(json.dumps({"doc_id": 0, "score": 1}) + "\n")
    assert "expected doc_id and filtered_resps" in refused(tmp_path, logs)
    log.write_text("")
    assert "has no lines" in refused(tmp_path, logs)
    log.write_text(good)
    assert "no metric 'f1', got ['exact_match']" in refused(tmp_path, logs, "--metric", "f1")
    other = next(logs.rglob("*results.json"))
    edit(other, lambda value: value.update(model_name="other"))
    assert "expected files of one model" in refused(tmp_path, logs)


# Tables


ROWS = {
    "id": [f"s{i}" for i in range(12) for _ in range(2)],
    "model": ["a", "b"] * 12,
    "correct": [1, 0] * 12,
    "runtime": [1.0, 2.0] * 12,
    "text": [f"word{i} and more" for i in range(12) for _ in range(2)],
}
TABLE = ["--sample", "id", "--knobs", "model", "--quality", "correct", "--latency", "seconds:runtime"]


def changed(words, option, value):
    """The words with another value of one option."""
    place = words.index(option)
    return [*words[: place + 1], value, *words[place + 2 :]]


@pytest.fixture
def table(tmp_path):
    pq.write_table(pa.table(ROWS), tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "expected --sample, --knobs, --quality"),
        (TABLE[:4], "expected --quality"),
        (changed(TABLE, "--sample", "name"), "column 'name' (--sample) is missing, got ['id', 'model'"),
        (changed(TABLE, "--knobs", "model,size"), "column 'size' (--knobs) is missing"),
        (changed(TABLE, "--quality", "score"), "column 'score' (--quality) is missing"),
        (changed(TABLE, "--quality", "text"), "text (--quality) is string, expected numbers"),
        (changed(TABLE, "--quality", "runtime"), "--quality percent:runtime"),
        (changed(TABLE, "--quality", "stars:correct"), "expected fraction:COLUMN"),
        (
            changed(TABLE, "--latency", "runtime"),
            "--latency milliseconds:runtime or --latency seconds:runtime",
        ),
        (changed(TABLE, "--latency", "hours:runtime"), "expected UNIT:COLUMN"),
        (changed(TABLE, "--latency", "seconds:time"), "column 'time' (--latency) is missing"),
        ([*TABLE, "--cost", "usd:runtime"], "got --latency and --cost"),
        ([*TABLE, "--features", "f5..f2"], "expected names and ranges such as f0..f45"),
        ([*TABLE, "--features", "f0..f2"], "column 'f0' (--features) is missing"),
        ([*TABLE, "--features", "runtime"], "changes within a sample"),
        ([*TABLE, "--features", "text"], "expected numbers"),
        ([*TABLE, "--split", "text"], "expected ['train', 'validation', 'test']"),
        ([*TABLE, "--split", "text:exam=1"], "expected SPLIT=VALUE"),
        ([*TABLE, "--split", "model"], "changes within a sample"),
        (changed(TABLE, "--knobs", "model,model"), "repeat; name each once"),
        (changed(TABLE, "--knobs", "correct"), "has accuracy 0"),
        ([*TABLE[:6], "--cost", "runtime"], "expected UNIT:COLUMN as in usd:price"),
        *(
            (
                [*TABLE[:6], "--cost", f"{unit}:runtime"],
                f"--cost: got the unit {unit!r}, expected one that can stand",
            )
            for unit in ("%", "ms", "S", "1usd", ".x", "u sd", "e3", "E2usd", "e-3")
        ),
        ([*TABLE, "--strict"], "warnings, expected none"),
    ],
)
def test_table_options(words, expected, table, tmp_path):
    if expected == "has accuracy 0":  # the knob says what the score is: two rows of one configuration
        pq.write_table(pa.table(ROWS | {"correct": ["x"] * 24, "ok": [1, 0] * 12}), table)
        words = changed(words, "--quality", "ok")
    assert expected in refused(tmp_path, table, *words)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"id": [None, *ROWS["id"][1:]]}, "id (--sample) is empty (rows 0)"),
        ({"model": [None, *ROWS["model"][1:]]}, "model (--knobs) is empty (rows 0)"),
        ({"correct": [None] * 24}, "is empty, expected scores"),
        ({"runtime": ["fast"] * 24}, "expected numbers"),
        (
            {"id": ["s0", "s0", "s0", "s0", *ROWS["id"][4:]], "correct": [1, 0, 0, 0] + [1, 0] * 10},
            "such rows",
        ),
        ({"id": ["s0"] * 12 + ["s1"] * 12, "model": [*map(str, range(12))] * 2}, "2 different images"),
        ({name: [] for name in ROWS}, "has no rows"),
    ],
)
def test_table_contents(change, expected, table, tmp_path):
    pq.write_table(pa.table(ROWS | change), table)
    assert expected in refused(tmp_path, table, *TABLE)


def test_table_files(table, folder, tmp_path):
    assert "expected one table" in refused(tmp_path, table, table, *TABLE)
    assert "expected one table" in refused(tmp_path, folder, table, *TABLE)
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(table.read_bytes()[:-50])
    assert "truncated or damaged" in refused(tmp_path, damaged, *TABLE)
    text = tmp_path / "t.csv"
    text.write_bytes(b"id,model,correct,runtime\n\xff\xfe,a,1,2\n")
    assert "t.csv" in refused(tmp_path, text, *TABLE)
    text.write_text("id,model\n1,a,3\n")
    assert "t.csv" in refused(tmp_path, text, *TABLE)


def test_propensities_are_probabilities(table, tmp_path):
    words = [*TABLE[2:], "--propensity", "runtime"]
    assert "is not in (0, 1]" in refused(tmp_path, table, *words)


def test_twenty_thousand_files_of_something_else(folder, tmp_path):
    junk = tmp_path / "junk"
    junk.mkdir()
    for i in range(20_000):
        (junk / f"note_{i}.json").write_text("{}")
    said = message(run("import", junk, "--out", tmp_path / "o"))
    assert "20000 in all" in said
    assert len(said) < 2500
    assert not (tmp_path / "o").exists()
    result = run(
        "import", junk, *(path for path in folder.iterdir() if path.is_dir()), "--out", tmp_path / "o"
    )
    assert result.exit_code == 0, result.stderr
    assert "20000" in result.stdout
    assert len(result.stdout) < 5000
