"""Outcomes directories: round trips, repeats, and every fault with its message."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from fakes import fake_table
from paceline.errors import OutcomesError
from paceline.knobs import Knob, KnobSpace
from paceline.outcomes.files import write_atomically
from paceline.outcomes.groups import group_medians
from paceline.outcomes.manifest import Manifest
from paceline.outcomes.store import read_table, write_table
from paceline.outcomes.table import CELL_FIELDS, SAMPLE_FIELDS, SPLITS, OutcomeTable


def assert_equal(a: OutcomeTable, b: OutcomeTable) -> None:
    for name in ("actions", "features", *SAMPLE_FIELDS, *CELL_FIELDS):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert a.manifest == b.manifest
    assert (a.space, a.image_width) == (b.space, b.image_width)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_table(tmp_path / "outcomes", fake_table(4, 2, 2, timed_share=0.5))
    return tmp_path / "outcomes"


def change_rows(directory: Path, **columns: object) -> None:
    """Replace columns of outcomes.parquet; a function changes the list of values, None drops it."""
    path = directory / "outcomes.parquet"
    table = pq.read_table(path)
    for name, change in columns.items():
        position = table.column_names.index(name)
        if change is None:
            table = table.remove_column(position)
        else:
            values = table.column(name).to_pylist()
            table = table.set_column(position, name, pa.array(change(values)))  # pyright: ignore
    pq.write_table(table, path)


def replaced(replacements: dict):
    return lambda values: [replacements.get(row, value) for row, value in enumerate(values)]


def test_round_trip_keeps_untimed_cells_apart(directory: Path):
    table = fake_table(4, 2, 2, timed_share=0.5)
    assert np.isnan(table.latency_ms).any()
    assert not np.isnan(table.latency_ms).all()
    assert_equal(read_table(directory), table)
    stored = pq.read_table(directory / "outcomes.parquet").column("latency_ms")
    assert stored.null_count == np.isnan(table.latency_ms).sum()


@st.composite
def tables(draw: st.DrawFn) -> OutcomeTable:
    knobs = draw(
        st.lists(
            st.one_of(
                st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=4, unique=True),
                st.lists(st.floats(-1e6, 1e6).map(lambda x: x + 0.0), min_size=1, max_size=4, unique=True),
                st.lists(st.text("abé/ ", max_size=3), min_size=1, max_size=4, unique=True),
            ),
            min_size=1,
            max_size=3,
        )
    )
    space = KnobSpace(tuple(Knob(name=f"knob {i}", options=tuple(o)) for i, o in enumerate(knobs)))
    actions = np.array(sorted(draw(st.sets(st.integers(0, space.size - 1), min_size=1, max_size=6))))
    n, m = draw(st.integers(1, 5)), len(actions)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    tested = rng.random((n, m)) < draw(st.floats(0, 1))
    tested[rng.integers(n, size=m), np.arange(m)] = True  # an action that nothing tested is not in the file
    timed = tested & (rng.random((n, m)) < 0.5)
    text = st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5), min_size=n, max_size=n
    )
    features = rng.standard_normal((n, draw(st.integers(0, 4)))).astype(np.float32)
    image_width = draw(st.integers(0, features.shape[1]))
    counts = {
        name: np.where(tested, rng.integers(0, 9, (n, m)), -1).astype(np.int32)
        for name in ("tiles", "vision_tokens", "prompt_tokens")
    }
    times = {
        name: np.where(timed, rng.exponential(size=(n, m)) + 1e-3, np.nan).astype(np.float32)
        for name in ("latency_ms", "first_token_ms", "output_tokens")
    }
    return OutcomeTable(
        space=space,
        actions=actions,
        sample_id=np.array([f"é{i}" for i in range(n)]),
        **{name: np.array(draw(text)) for name in ("dataset", "image_hash", "question", "kind")},
        split=rng.choice(SPLITS, n),
        accuracy=np.where(tested, rng.random((n, m)), np.nan).astype(np.float32),
        **counts,
        **times,
        features=features,
        image_width=image_width,
        manifest=Manifest(space=space, image_width=image_width, audit={"spikes": 0}, block_ranking=[0, 2, 1]),
    )


@settings(max_examples=30, deadline=None)
@given(table=tables())
def test_any_table_survives_the_round_trip(table: OutcomeTable, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("outcomes")
    write_table(path, table)
    assert_equal(read_table(path), table)


def test_a_table_of_several_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("paceline.outcomes.store.ROW_GROUP_CELLS", 60)
    monkeypatch.setattr("paceline.outcomes.rows.BATCH_ROWS", 50)
    table = fake_table(5, 1, 1)
    write_table(tmp_path, table)
    assert pq.ParquetFile(tmp_path / "outcomes.parquet").num_row_groups == 4
    assert_equal(read_table(tmp_path), table)


def test_row_numbers_count_from_the_start_of_the_file(directory: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("paceline.outcomes.rows.BATCH_ROWS", 50)
    change_rows(directory, max_crops=replaced({120: 3}))
    with pytest.raises(OutcomesError, match=r"max_crops is not an option \(rows 120\)"):
        read_table(directory)


def test_medians_of_even_and_odd_groups():
    group = np.array([1, 0, 1, 1, 0, 1, 0, 3])
    values = np.array([1.0, 5.0, 9.0, 4.0, np.nan, 2.0, 7.0, np.nan])
    np.testing.assert_array_equal(group_medians(group, values, 4), [6.0, 3.0, np.nan, np.nan])


def test_repeats_become_the_median_time_and_the_mean_accuracy(directory: Path):
    rows = pq.read_table(directory / "outcomes.parquet")
    template = {name: rows.column(name)[0].as_py() for name in rows.column_names}
    repeats = [
        template | {"repeat": i, "latency_ms": latency, "accuracy": accuracy, "output_tokens": 3.0}
        for i, (latency, accuracy) in enumerate([(9.0, 1.0), (None, 0.0), (2.0, 0.0), (4.0, 1.0)])
    ]
    alone = rows.slice(1, 1).to_pylist()[0] | {"latency_ms": 7.0}
    pq.write_table(
        pa.Table.from_pylist([alone, *reversed(repeats)], rows.schema), directory / "outcomes.parquet"
    )
    table = read_table(directory)
    assert table.actions.tolist() == [0, 1]
    assert table.latency_ms[0].tolist() == [4.0, 7.0]
    assert table.accuracy[0, 0] == 0.5
    assert table.output_tokens[0, 0] == 3.0
    assert np.isnan(table.latency_ms[1:]).all()
    assert (table.tiles[1:] == -1).all()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"accuracy": None, "tiles": None}, r"columns \['accuracy', 'tiles'\] are missing, got \["),
        ({"max_crops": None}, r"columns \['max_crops'\] are missing"),
        (
            {"accuracy": replaced({4: 57.0, 9: -0.1, 17: 1.01})},
            r"outcomes.parquet: accuracy has 3 values outside \[0, 1\] \(rows 4, 9, 17\); "
            r"scores must be fractions, divide percentages by 100",
        ),
        ({"accuracy": replaced({3: float("nan")})}, r"accuracy is NaN or null in 1 rows \(rows 3\)"),
        ({"accuracy": replaced({3: None, 5: None})}, r"accuracy is NaN or null in 2 rows \(rows 3, 5\)"),
        ({"accuracy": lambda v: [str(x) + "?" for x in v]}, "column accuracy is string, expected"),
        ({"latency_ms": replaced({2: 0.0})}, r"latency_ms is not a positive, finite time \(rows 2\)"),
        ({"first_token_ms": replaced({2: float("inf")})}, r"first_token_ms is not a positive, finite"),
        ({"tiles": replaced({2: -3})}, r"tiles is negative \(rows 2\)"),
        ({"vision_tokens": replaced({7: None})}, r"vision_tokens is null \(rows 7\)"),
        ({"sample_id": replaced({1: "other"})}, r"sample_id is not in samples.parquet \(rows 1\)"),
        ({"sample_id": replaced({1: None})}, r"sample_id is not in samples.parquet \(rows 1\)"),
        ({"sample_id": lambda v: list(range(len(v)))}, "column sample_id is int64, expected string"),
        (
            {"max_crops": replaced({6: 3})},
            r"max_crops is not an option \(rows 6\); expected one of \[2, 6, 12\]",
        ),
        ({"max_crops": lambda v: [x + 0.5 for x in v]}, "column max_crops is double, expected the options"),
        ({"action": replaced({6: 5})}, r"action does not match the knob columns \(rows 6\)"),
        (
            {name: replaced({1: 2, 2: 2}) for name in ("max_crops",)}
            | {"top_k": replaced({1: 4, 2: 4}), "num_active_blocks": replaced({1: 8, 2: 8})}
            | {"action": replaced({1: 0, 2: 0})},
            r"2 rows repeat the sample, configuration and repeat of an earlier row \(rows 1, 2\)",
        ),
        ({"accuracy": lambda v: [57.0 for _ in v]}, r"\(rows 0, 1, 2, 3, 4, 5, 6, 7, ... 216 in all\)"),
    ],
)
def test_faulty_rows_are_refused(directory: Path, columns: dict, message: str):
    change_rows(directory, **columns)
    with pytest.raises(OutcomesError, match=message):
        read_table(directory)


def test_duplicates_among_repeats_are_refused(directory: Path):
    table = pq.read_table(directory / "outcomes.parquet")
    twice = pa.concat_tables([table.slice(0, 3), table.slice(1, 1)])
    repeat = pa.array([0, 5, 1, 5], pa.int32())
    twice = twice.set_column(twice.column_names.index("repeat"), "repeat", repeat)
    pq.write_table(twice, directory / "outcomes.parquet")
    with pytest.raises(OutcomesError, match=r"1 rows repeat .* \(rows 3\)"):
        read_table(directory)


def test_a_file_without_rows_is_refused(directory: Path):
    path = directory / "outcomes.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(OutcomesError, match=r"outcomes\.parquet: has no rows"):
        read_table(directory)


def test_extra_columns_are_kept_out(directory: Path):
    path = directory / "outcomes.parquet"
    expected = read_table(directory)
    rows = pq.read_table(path)
    pq.write_table(rows.append_column("note", pa.array(["x"] * len(rows))), path)
    assert_equal(read_table(directory), expected)


@pytest.mark.parametrize("name", ["outcomes.parquet", "samples.parquet", "features.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_a_truncated_file_is_refused(directory: Path, name: str, share: float):
    path = directory / name
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(OutcomesError, match=f"{name}: cannot be read .*truncated or damaged"):
        read_table(directory)


def test_a_file_with_a_damaged_middle_is_refused(directory: Path):
    path = directory / "outcomes.parquet"
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)
    with pytest.raises(OutcomesError, match=r"outcomes\.parquet: cannot be read"):
        read_table(directory)


@pytest.mark.parametrize(
    "name", ["outcomes.parquet", "samples.parquet", "features.safetensors", "manifest.json"]
)
def test_a_missing_file_is_named(directory: Path, name: str):
    (directory / name).unlink()
    with pytest.raises(OutcomesError, match=f"{name} is missing"):
        read_table(directory)


def test_a_missing_directory_and_an_unfinished_sweep(tmp_path: Path):
    with pytest.raises(OutcomesError, match="no such directory"):
        read_table(tmp_path / "absent")
    (tmp_path / "shards").mkdir()
    with pytest.raises(OutcomesError, match="the sweep is not finished; run the same"):
        read_table(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema version 2 is newer than 1.*upgrade Paceline"),
        ({"schema_version": "1"}, "schema_version is '1', expected an integer"),
        ({"colour": 1}, r"unknown keys \['colour'\], missing keys \[\]"),
        ({"task": None}, "task is None, expected str"),
        ({"space": []}, "got no knobs"),
        ({"space": 5}, "knob space: got 5"),
        ({"image_width": 99}, "image_width: got 99, expected 0 to 8"),
    ],
)
def test_a_faulty_manifest_is_refused(directory: Path, change: dict, message: str):
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(OutcomesError, match=message):
        read_table(directory)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "not JSON"), (b"[]", "got list, expected a JSON object"), (b"\xff\xfe", "cannot be read")],
)
def test_a_manifest_that_is_no_json_object_is_refused(directory: Path, content: bytes, message: str):
    (directory / "manifest.json").write_bytes(content)
    with pytest.raises(OutcomesError, match=message):
        read_table(directory)


def test_a_manifest_misses_a_key(directory: Path):
    path = directory / "manifest.json"
    value = json.loads(path.read_text())
    del value["model"]
    path.write_text(json.dumps(value))
    with pytest.raises(OutcomesError, match=r"missing keys \['model'\]"):
        read_table(directory)


def test_features_of_the_wrong_length_or_name_are_refused(directory: Path):
    path = directory / "features.safetensors"
    save_file({"features": np.zeros((7, 8), np.float32)}, path)
    with pytest.raises(
        OutcomesError, match=r"features: got shape \(7, 8\), expected one row for each of the 8"
    ):
        read_table(directory)
    save_file({"embeddings": np.zeros((8, 8), np.float32)}, path)
    with pytest.raises(OutcomesError, match=r"got arrays \['embeddings'\], expected one named features"):
        read_table(directory)


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        ("split", replaced({1: "dev"}), r"split is not one of .* \(rows 1\)"),
        ("sample_id", replaced({1: "train-0-0"}), r"sample_id repeats \(rows 1\)"),
        ("kind", replaced({2: None}), r"kind is null \(rows 2\)"),
        ("kind", lambda values: list(range(len(values))), "column kind is int64, expected string"),
    ],
)
def test_faulty_samples_are_refused(directory: Path, column: str, change, message: str):
    path = directory / "samples.parquet"
    table = pq.read_table(path)
    position = table.column_names.index(column)
    pq.write_table(
        table.set_column(position, column, pa.array(change(table.column(column).to_pylist()))), path
    )
    with pytest.raises(OutcomesError, match=message):
        read_table(directory)
    pq.write_table(table.remove_column(position), path)
    with pytest.raises(OutcomesError, match=rf"columns \['{column}'\] are missing"):
        read_table(directory)


def test_a_knob_with_the_name_of_a_column_is_refused(tmp_path: Path):
    table = fake_table(1, 0, 0)
    knobs = (Knob(name="repeat", options=(1, 2, 3)), *table.space.knobs[1:])
    with pytest.raises(OutcomesError, match=r"knobs \['repeat'\]: these are names of outcome columns"):
        write_table(tmp_path, dataclasses.replace(table, space=KnobSpace(knobs)))


def test_everybody_may_read_what_everybody_may_read_by_default(tmp_path: Path):
    write_table(tmp_path / "o", fake_table(8, 2, 2, 1))
    (tmp_path / "plain").write_text("as the system says")
    usual = (tmp_path / "plain").stat().st_mode
    assert {path.name: path.stat().st_mode == usual for path in (tmp_path / "o").iterdir()} == dict.fromkeys(
        ("features.safetensors", "manifest.json", "outcomes.parquet", "samples.parquet"), True
    )


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, fail)
    with pytest.raises(FileNotFoundError):
        write_atomically(path, lambda temporary: None)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"
