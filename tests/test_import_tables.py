"""Importing CSV and Parquet tables whose columns are named on the command line."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from command_line import message, run, run_json
from paceline.evaluation.times import fit_latency
from paceline.outcomes.importers.splits import shared_images, splits_by_image
from paceline.outcomes.store import read_table

MODELS = ("large", "small")
BASE = ["--sample", "id", "--knobs", "model", "--quality", "correct"]
TIMED = [*BASE, "--latency", "seconds:runtime"]


def columns(samples=20):
    """Two models on every sample: the large one is right and takes 2 s, the small one is right on even ones."""
    rows = [(i, model) for i in range(samples) for model in MODELS]
    return {
        "id": [f"{i:03d}" for i, _ in rows],
        "model": [model for _, model in rows],
        "correct": [int(model == "large" or i % 2 == 0) for i, model in rows],
        "runtime": [2.0 + i / 100 if model == "large" else 0.5 + i / 100 for i, model in rows],
        "text": [f"question {i} about {('cats', 'dogs', 'boats')[i % 3]} number {i}" for i, _ in rows],
        "picture": [f"p{i // 2}" for i, _ in rows],
        "f0": [float(i) for i, _ in rows],
        "f1": [np.nan if i == 3 else 1.0 * i for i, _ in rows],
        "part": ["train" if i < 12 else "val" if i < 15 else "test" for i, _ in rows],
        "fold": [1 + i % 10 for i, _ in rows],
    }


def write(path, values):
    table = pa.table({name: pa.array(column, from_pandas=True) for name, column in values.items()})
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    return path


@pytest.fixture(params=["table.csv", "table.parquet"])
def table_file(request, tmp_path):
    return write(tmp_path / request.param, columns())


@pytest.fixture
def parquet(tmp_path):
    return write(tmp_path / "table.parquet", columns())


def imported(path, *words):
    out = path.parent / "out"
    return run_json("import", path, *words, "--out", out), read_table(out)


def test_a_router_is_a_space_of_one_knob(table_file):
    value, table = imported(table_file, *TIMED, "--question", "text", "--image", "picture")
    assert [(knob.name, knob.options) for knob in table.space.knobs] == [("model", ("small", "large"))]
    assert table.sample_id.tolist() == [f"{i:03d}" for i in range(20)]
    np.testing.assert_allclose(table.latency_ms[:, 1], [2000 + 10 * i for i in range(20)])
    np.testing.assert_array_equal(table.accuracy[:, 0], [i % 2 == 0 for i in range(20)])
    assert np.isnan(table.first_token_ms).all()
    assert (table.tiles == 0).all()
    assert shared_images(table.image_hash.tolist(), table.split.tolist()) == []
    assert value["features"]["kind"] == "tf-idf + SVD of the question"
    assert table.features.shape == (20, value["features"]["width"])
    assert value["splits"] == {"train": 12, "validation": 4, "test": 4}
    assert value["audit"]["warnings"] == []
    assert table.manifest.options["latency_kind"] == "latency"
    assert table.manifest.options["latency_known_when_deciding"] is True


@pytest.mark.parametrize(
    ("unit", "name", "factor"),
    [("", "latency_ms", 1), ("", "time_s", 1000), ("milliseconds:", "t", 1), ("s:", "t", 1000)],
)
def test_units_of_time(unit, name, factor, tmp_path):
    values = columns()
    values[name] = values.pop("runtime")
    _, table = imported(
        write(tmp_path / "t.csv", values), *BASE, "--latency", f"{unit}{name}", "--question", "text"
    )
    np.testing.assert_allclose(table.latency_ms[0], np.array([0.5, 2.0]) * factor, rtol=1e-6)


def test_a_unit_against_the_name_is_a_warning(tmp_path):
    values = columns()
    values["time_ms"] = values.pop("runtime")
    path = write(tmp_path / "t.csv", values)
    value, table = imported(path, *BASE, "--latency", "seconds:time_ms", "--question", "text")
    assert value["audit"]["warnings"] == ["time_ms: the name says ms, --latency says s, which was taken"]
    assert table.latency_ms[0, 0] == 500


def test_percentages(tmp_path):
    values = columns()
    values["accuracy_pct"] = [100 * value for value in values["correct"]]
    values["plain"] = values["accuracy_pct"]
    path = write(tmp_path / "t.csv", values)
    words = [
        "--sample",
        "id",
        "--knobs",
        "model",
        "--latency",
        "seconds:runtime",
        "--question",
        "text",
        "--quality",
    ]
    assert "--quality percent:plain" in message(run("import", path, *words, "plain", "--out", tmp_path / "o"))
    for number, quality in enumerate(("accuracy_pct", "percent:plain")):
        value = run_json("import", path, *words, quality, "--out", tmp_path / f"out{number}")
        table = read_table(tmp_path / f"out{number}")
        assert set(np.unique(table.accuracy)) == {0, 1}
        assert any("divided by 100" in note for note in value["audit"]["notes"])


def test_several_numeric_knobs_ascend(tmp_path):
    values = {
        "id": [i for i in range(9) for _ in range(4)],
        "crops": [12, 12, 2, 2] * 9,
        "scale": [0.5, 1.5, 0.5, 1.5] * 9,
        "ok": [1, 0, 1, 0] * 9,
        "latency_ms": [4, 3, 2, 1] * 9,
    }
    _, table = imported(
        write(tmp_path / "t.csv", values), "--sample", "id", "--knobs", "crops,scale", "--quality", "ok",
        "--latency", "latency_ms",
    )  # fmt: skip
    assert [knob.options for knob in table.space.knobs] == [(2, 12), (0.5, 1.5)]
    assert table.latency_ms[0].tolist() == [2, 1, 4, 3]


def test_given_features_are_filled_and_marked(parquet):
    value, table = imported(parquet, *TIMED, "--features", "f0..f1", "--split", "part")
    assert table.features.shape == (20, 3)
    assert table.image_width == 0
    assert np.flatnonzero(table.features[:, 2]).tolist() == [3]
    assert table.features[3, 1] == np.median([i for i in range(12) if i != 3])
    assert value["features"]["columns"] == ["f0", "f1"]
    assert value["features"]["empty_marked"] == ["f1"]


def test_splits_from_a_column(parquet):
    _, table = imported(parquet, *TIMED, "--features", "f0", "--split", "part")
    assert table.split.tolist() == ["train"] * 12 + ["validation"] * 3 + ["test"] * 5


def test_splits_from_folds(parquet):
    _, table = imported(parquet, *TIMED, "--features", "f0", "--split", "fold:test=1+2,validation=3")
    assert [table.split[i] for i in (0, 1, 2, 3)] == ["test", "test", "validation", "train"]


def test_a_split_column_that_shares_images_is_refused(parquet):
    words = [
        "import",
        parquet,
        *TIMED,
        "--features",
        "f0",
        "--image",
        "picture",
        "--split",
        "fold:test=1,validation=3",
    ]
    assert "images or groups are in two splits" in message(run(*words, "--out", parquet.parent / "o"))


@pytest.mark.parametrize("count", [3, 4, 7, 100])
def test_every_split_has_an_image(count):
    names = splits_by_image([str(i) for i in range(count)], ["a"] * count, 0)
    assert set(names.tolist()) == {"train", "validation", "test"}


def test_every_data_set_is_in_every_split_by_the_same_shares():
    image = [str(i) for i in range(63)] * 2
    dataset = (["wide"] * 40 + ["narrow"] * 20 + ["one", "two", "one"]) * 2
    names = splits_by_image(image, dataset, 0)
    assert shared_images(image, names.tolist()) == []
    shares = {
        part: [
            int(((names == split) & (np.array(dataset) == part)).sum()) // 2
            for split in ("train", "validation", "test")
        ]
        for part in ("wide", "narrow")
    }
    assert shares == {"wide": [24, 6, 10], "narrow": [12, 3, 5]}
    assert set(names[60:63].tolist()) == {"train", "validation", "test"}


def test_a_data_set_of_one_image_joins_the_widest():
    names = splits_by_image([str(i) for i in range(11)], ["wide"] * 6 + ["narrow"] * 4 + ["one"], 3)
    assert set(names[:6].tolist()) == {"train", "validation", "test"}
    assert names[10] in ("train", "validation", "test")


def test_costs_stay_costs(tmp_path):
    values = columns()
    values["price"] = values.pop("runtime")
    path = write(tmp_path / "t.csv", values)
    value, table = imported(path, *BASE, "--cost", "usd:price", "--latency-unknown", "--question", "text")
    assert table.manifest.options["latency_kind"] == "cost"
    assert table.manifest.options["latency_unit"] == "usd"
    assert table.manifest.options["latency_known_when_deciding"] is False
    np.testing.assert_allclose(table.latency_ms[0], [0.5, 2.0])
    assert any("costs in usd" in note for note in value["audit"]["notes"])


def test_a_fixed_price_per_option(parquet):
    _, table = imported(parquet, *BASE, "--cost", "usd:small=0.1,large=3", "--question", "text")
    np.testing.assert_allclose(table.latency_ms[7], [0.1, 3])
    told = message(run("import", parquet, *BASE, "--cost", "usd:small=1", "--out", parquet.parent / "o"))
    assert "expected one for each of large, small" in told


@pytest.mark.parametrize("prices", ["small=-1,large=2", "small=nan,large=2", "small=1,small=2,large=3"])
def test_prices_that_none_can_have_are_refused(parquet, prices):
    said = run("import", parquet, *BASE, "--cost", f"usd:{prices}", "--out", parquet.parent / "o")
    assert said.exit_code == 2
    assert "expected one finite price from 0 on for each option" in message(said)


def test_what_is_free_is_priced_a_little(parquet):
    value, table = imported(parquet, *BASE, "--cost", "usd:small=0,large=3", "--question", "text")
    np.testing.assert_allclose(table.latency_ms[7], [0.003, 3])
    assert value["audit"]["free"] == 20
    assert any("cost 0; they count as 0.003" in line for line in value["audit"]["warnings"])


def test_unsolved_outcomes_without_a_runtime_ran_as_long_as_any(tmp_path):
    values = columns()
    unsolved = [place for place, score in enumerate(values["correct"]) if score == 0]
    for place in unsolved[:3]:
        values["runtime"][place] = math.nan if place % 2 else math.inf
    longest = max(time for time in values["runtime"] if math.isfinite(time))
    words = (*TIMED, "--latency-unknown", "--question", "text")
    value, table = imported(write(tmp_path / "t.parquet", values), *words)
    assert value["audit"]["untimed_unsolved"] == 3
    assert np.isfinite(table.latency_ms).all()
    assert np.count_nonzero(table.latency_ms == np.float32(1000 * longest)) >= 3
    solved = next(place for place, score in enumerate(values["correct"]) if score == 1)
    values["runtime"][solved] = math.nan  # nobody knows how long that took
    (tmp_path / "again").mkdir()
    _, table = imported(write(tmp_path / "again" / "u.parquet", values), *words)
    assert np.isnan(table.latency_ms).sum() == np.isnan(table.accuracy).sum() == 1


def test_columns_of_lists_and_endless_ranges_are_refused(tmp_path):
    values = columns()
    lists = write(tmp_path / "t.parquet", {**values, "model": [[name] for name in values["model"]]})
    said = run("import", lists, *BASE, "--out", tmp_path / "o")
    assert said.exit_code == 2
    assert "expected text or numbers" in message(said)
    path = write(tmp_path / "u.csv", values)
    said = run("import", path, *BASE, "--features", "f0..f99999999", "--out", tmp_path / "o")
    assert said.exit_code == 2
    assert "names more than 100,000 columns" in message(said)


def test_questions_without_a_known_word_are_counted(tmp_path):
    values = columns(60)
    values["text"] = [f"word{place // 2}" for place in range(len(values["text"]))]
    value, _ = imported(write(tmp_path / "t.csv", values), *TIMED, "--question", "text")
    assert any(
        "share no word with those that the features were fitted on" in line
        for line in value["audit"]["warnings"]
    )


def test_a_group_is_never_in_two_splits(tmp_path):
    values = columns(60)
    values["text"] = [f"question {place // 2 % 20} of some" for place in range(len(values["text"]))]
    path = write(tmp_path / "t.csv", values)
    apart = imported(path, *TIMED, "--question", "text")[0]["audit"]["notes"]
    assert any("are in more than one split" in line for line in apart)
    (tmp_path / "again").mkdir()
    path = write(tmp_path / "again" / "t.csv", values)
    value, table = imported(path, *TIMED, "--question", "text", "--group", "text")
    assert not any("are in more than one split" in line for line in value["audit"]["notes"])
    assert len(np.unique(table.image_hash)) == 20
    for question in np.unique(table.question.astype(str)):
        rows = table.question == question
        assert len(set(table.split[rows].tolist())) == 1
        assert len(set(table.image_hash[rows].tolist())) == 1
    words = ["import", path, *TIMED, "--group", "text", "--image", "picture", "--out", tmp_path / "o"]
    assert "--image and --group" in message(run(*words))


def test_samples_without_a_group_are_alone(tmp_path):
    values = columns(40)
    values["text"] = ["same" if place < 8 else " " for place in range(len(values["text"]))]
    _, table = imported(write(tmp_path / "t.csv", values), *TIMED, "--features", "f0", "--group", "text")
    assert len(np.unique(table.image_hash)) == 37
    assert len(np.unique(table.image_hash[:4])) == 1


def test_runtimes_known_only_afterwards(tmp_path):
    values = columns()
    values["runtime"][0] = 0.0
    values["runtime"][2] = 5000.0
    value, table = imported(
        write(tmp_path / "t.csv", values), *TIMED, "--latency-unknown", "--question", "text"
    )
    assert table.manifest.options["latency_kind"] == "runtime"
    assert table.manifest.options["latency_known_when_deciding"] is False
    assert value["audit"]["zero_runtimes"] == 1
    assert value["audit"]["spikes"] == 0
    assert not np.isnan(table.latency_ms).any()


def test_a_second_table_for_features_and_texts(tmp_path):
    values = columns()
    per_sample = {name: values.pop(name)[::2][::-1] for name in ("f0", "f1", "text", "fold")}
    second = write(tmp_path / "samples.parquet", {"id": [f"{i:03d}" for i in range(20)][::-1], **per_sample})
    path = write(tmp_path / "t.parquet", values)
    more = [
        "--features-table",
        second,
        "--features",
        "f0",
        "--question",
        "text",
        "--split",
        "fold:test=1,validation=2",
    ]
    _, table = imported(path, *TIMED, *more)
    assert table.features[:, 0].tolist() == list(range(20))
    assert table.question[4].startswith("question 4 ")
    assert table.split[0] == "test"


def test_a_second_table_without_some_samples(tmp_path):
    values = columns()
    second = write(tmp_path / "samples.parquet", {"id": ["000", "001"], "f9": [1.0, 2.0]})
    path = write(tmp_path / "t.parquet", values)
    words = ["import", path, *TIMED, "--features-table", second, "--features", "f9"]
    assert "18 of 20 samples" in message(run(*words, "--out", tmp_path / "o"))


def test_logged_decisions(tmp_path):
    values = {
        "item": [i % 3 for i in range(30)],
        "click": [int(i % 7 == 0) for i in range(30)],
        "p": [0.2 + 0.01 * i for i in range(30)],
        "u0": [float(i % 4) for i in range(30)],
    }
    path = write(tmp_path / "log.parquet", values)
    words = ["--knobs", "item", "--quality", "click", "--features", "u0"]
    value, table = imported(path, *words, "--propensity", "p")
    assert table.tested.sum(axis=1).tolist() == [1] * 30
    stored = pq.read_table(tmp_path / "out" / "outcomes.parquet")
    assert stored.column("propensity").to_pylist() == values["p"]
    assert stored.column("item").to_pylist() == values["item"]
    assert any("off-policy" in warning for warning in value["audit"]["warnings"])
    assert "--sample" in message(run("import", path, *words, "--out", tmp_path / "o"))


def test_features_without_any_text(parquet):
    value, table = imported(parquet, *TIMED)
    assert value["features"] == {"kind": "none", "width": 1}
    assert any("all samples look alike" in warning for warning in value["audit"]["warnings"])
    assert table.features.shape == (20, 1)


def test_without_first_token_times_the_whole_call_stands_in(parquet):
    _, table = imported(parquet, *TIMED, "--question", "text")
    whole, first = (fit_latency(table, first_token=first) for first in (False, True))
    work = np.zeros((3, 2))
    np.testing.assert_array_equal(whole.upper(table.actions, *work), first.upper(table.actions, *work))


def test_equal_duplicates_are_counted(tmp_path):
    values = {name: [*column, column[0]] for name, column in columns().items()}
    value, table = imported(write(tmp_path / "t.csv", values), *TIMED, "--question", "text")
    assert value["audit"]["duplicates"] == 1
    assert len(table.sample_id) == 20


def test_rows_without_a_score_have_a_line(tmp_path):
    values = columns()
    values["correct"] = [None, *values["correct"][1:]]
    value, table = imported(write(tmp_path / "t.csv", values), *TIMED, "--question", "text")
    assert any("1 outcomes have no score" in warning for warning in value["audit"]["warnings"])
    assert value["audit"]["holes"]["model large"] == {"missing": 1, "samples": ["000"]}
    assert int(table.tested.sum()) == 39


def test_the_audit_is_kept(parquet):
    value, _ = imported(parquet, *TIMED, "--question", "text")
    assert json.loads((parquet.parent / "out" / "manifest.json").read_text())["audit"] == value["audit"]
    assert value["audit"]["files"][0] == {"file": str(parquet), "format": "table", "samples": 20}
