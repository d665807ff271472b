"""Large tables: mapped cells equal those in memory, training on them is the same, and memory stays bounded."""

import dataclasses
import errno
import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import generated_table
from benchmarks.generated_table import SPACE, write_generated
from fakes import fake_table
from paceline.errors import OutcomesError
from paceline.evaluation.times import fit_latency
from paceline.latency import calibration
from paceline.learning import dataset
from paceline.learning.contexts import context_ranges
from paceline.learning.dataset import training_problems
from paceline.learning.options import TrainOptions
from paceline.learning.train import train_controller_policy
from paceline.learning.trained import TrainedPolicy
from paceline.outcomes import chunks, mapped
from paceline.outcomes.chunks import cell_array, row_chunks
from paceline.outcomes.files import exclusive
from paceline.outcomes.store import read_table, write_table
from paceline.outcomes.table import CELL_FIELDS, OutcomeTable

SMALL = TrainOptions(algorithm="grpo_warm", hidden=16, members=2, batch_size=64, warm_epochs=2, epochs=1)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_table(tmp_path / "outcomes", fake_table(120, 40, 8, timed_share=0.5))
    return tmp_path / "outcomes"


@pytest.fixture
def everything_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every table and every array counts as large, and pieces hold a few samples."""
    monkeypatch.setattr(mapped, "MAPPED_ROWS", 1)
    monkeypatch.setattr(chunks, "MEMORY_CELLS", 0)
    monkeypatch.setattr(chunks, "CHUNK_CELLS", 27 * 50)


def is_mapped(array: np.ndarray) -> bool:
    while array.base is not None and not isinstance(array, np.memmap):
        array = array.base  # pyright: ignore[reportAssignmentType]
    return isinstance(array, np.memmap)


def assert_equal_cells(first: OutcomeTable, second: OutcomeTable) -> None:
    np.testing.assert_array_equal(first.actions, second.actions)
    for name in CELL_FIELDS:
        ours, theirs = getattr(first, name), getattr(second, name)
        assert ours.dtype == theirs.dtype, name
        np.testing.assert_array_equal(ours, theirs, err_msg=name)


def change_rows(directory: Path, change) -> None:
    """Replace outcomes.parquet by what `change` makes of its rows, a dict of lists."""
    rows = pq.read_table(directory / "outcomes.parquet")
    changed = change({name: list(values) for name, values in rows.to_pydict().items()})
    pq.write_table(pa.table(changed, schema=rows.schema), directory / "outcomes.parquet")


def append(rows: dict[str, list], source: int, **values: object) -> None:
    for name, column in rows.items():
        column.append(values.get(name, column[source]))


def test_mapped_cells_equal_those_in_memory(directory, monkeypatch):
    in_memory = read_table(directory)
    assert not (directory / ".cells").exists()
    assert not is_mapped(in_memory.accuracy)
    monkeypatch.setattr(mapped, "MAPPED_ROWS", 1)
    for _ in range(2):  # made, then found
        table = read_table(directory)
        assert all(is_mapped(getattr(table, name)) for name in CELL_FIELDS)
        assert type(table.accuracy) is np.ndarray
        assert_equal_cells(in_memory, table)
    assert not list(directory.glob(".cells.*"))


def with_gaps_and_repeats(rows: dict[str, list]) -> dict[str, list]:
    """Some outcomes untested; row 3 measured three times, row 40 twice; not in the order of samples."""
    append(rows, 3, repeat=1, accuracy=0.0, latency_ms=50.0)
    append(rows, 3, repeat=2, accuracy=1.0, latency_ms=None)
    append(rows, 40, repeat=5, accuracy=0.25, latency_ms=7.0)
    kept = [i for i in range(len(rows["repeat"])) if i % 7 != 5]
    order = np.random.default_rng(0).permutation(kept)
    return {name: [values[i] for i in order] for name, values in rows.items()}


@pytest.mark.parametrize("batch", [64, 1 << 20])
def test_repeats_and_gaps_are_read_alike(directory, monkeypatch, batch):
    change_rows(directory, with_gaps_and_repeats)
    in_memory = read_table(directory)
    assert np.isnan(in_memory.accuracy).any()
    assert 0.25 < in_memory.accuracy[0, 3] < 1
    monkeypatch.setattr(mapped, "MAPPED_ROWS", 1)
    monkeypatch.setattr("paceline.outcomes.rows.BATCH_ROWS", batch)
    assert_equal_cells(in_memory, read_table(directory))


def test_changed_outcomes_are_mapped_again(directory, monkeypatch):
    monkeypatch.setattr(mapped, "MAPPED_ROWS", 1)
    before = read_table(directory)
    state = (directory / "outcomes.parquet").stat()

    def flip(rows: dict[str, list]) -> dict[str, list]:
        return rows | {"accuracy": [1.0 - value for value in rows["accuracy"]]}

    change_rows(directory, flip)
    os.utime(directory / "outcomes.parquet", ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    after = read_table(directory)
    np.testing.assert_array_equal(after.accuracy, 1 - before.accuracy)


@pytest.mark.parametrize("damage", [b"", b"{", b'{"layout_version": 0}'])
def test_damaged_mapped_files_are_made_again(directory, monkeypatch, damage):
    monkeypatch.setattr(mapped, "MAPPED_ROWS", 1)
    before = read_table(directory)
    (directory / ".cells" / "key.json").write_bytes(damage)
    assert_equal_cells(before, read_table(directory))
    assert (
        json.loads((directory / ".cells" / "key.json").read_text())["layout_version"] == mapped.LAYOUT_VERSION
    )


def test_mapped_files_that_lost_their_end_are_made_again(directory, monkeypatch):
    in_memory = read_table(directory)
    monkeypatch.setattr(mapped, "MAPPED_ROWS", 1)
    read_table(directory)
    (directory / ".cells" / "accuracy.npy").write_bytes(b"")
    assert_equal_cells(in_memory, read_table(directory))


def test_a_full_disk_is_told_before_anything_is_written(directory, monkeypatch):
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(chunks.os, "posix_fallocate", full)
    monkeypatch.setattr(chunks, "MEMORY_CELLS", 0)
    with pytest.raises(OutcomesError, match="no room for .* MiB .No space left on device.* TMPDIR"):
        cell_array((1000, 1000), np.float32)
    monkeypatch.setattr(mapped, "MAPPED_ROWS", 1)
    with pytest.raises(OutcomesError, match="no room for"):
        read_table(directory)
    assert not list(directory.glob(".cells*"))


def test_what_a_killed_process_left_is_cleared_away(directory, monkeypatch):
    for name in ("left", "held"):
        (directory / f".cells.{name}.tmp").mkdir()
        (directory / f".cells.{name}.tmp" / "accuracy.npy").write_bytes(b"half")
    monkeypatch.setattr(mapped, "MAPPED_ROWS", 1)
    with exclusive(directory / ".cells.held.tmp"):  # as a process does that is still at work
        read_table(directory)
    assert sorted(path.name for path in directory.glob(".cells*")) == [".cells", ".cells.held.tmp"]


def test_a_process_that_was_slower_keeps_its_own(directory, monkeypatch):
    in_memory = read_table(directory)
    monkeypatch.setattr(mapped, "MAPPED_ROWS", 1)

    def refused(source: Path, target: Path) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr(mapped.os, "replace", refused)
    assert_equal_cells(in_memory, read_table(directory))
    assert not list(directory.glob(".cells*"))


def test_outcomes_that_may_only_be_read_leave_no_files(directory, monkeypatch, tmp_path):
    in_memory = read_table(directory)
    monkeypatch.setattr(mapped, "MAPPED_ROWS", 1)
    make = mapped.tempfile.mkdtemp

    def refused(prefix: str, suffix: str = "", dir: Path | None = None) -> str:
        if dir is not None:
            raise PermissionError(f"{dir}: read-only")
        return make(prefix=prefix, dir=tmp_path)

    monkeypatch.setattr(mapped.tempfile, "mkdtemp", refused)
    assert_equal_cells(in_memory, read_table(directory))
    assert [path.name for path in tmp_path.iterdir()] == ["outcomes"]
    assert not (directory / ".cells").exists()


def doubled(rows: dict[str, list]) -> dict[str, list]:
    append(rows, 2)
    return rows


def doubled_beside_repeats(rows: dict[str, list]) -> dict[str, list]:
    append(rows, 2, repeat=1)
    append(rows, 5)
    return rows


def beyond_one(rows: dict[str, list]) -> dict[str, list]:
    return rows | {"accuracy": [*rows["accuracy"][:-1], 57.0]}


def no_such_action(rows: dict[str, list]) -> dict[str, list]:
    return rows | {"action": [*rows["action"][:-1], -3]}


@pytest.mark.parametrize("change", [doubled, doubled_beside_repeats, beyond_one, no_such_action])
def test_faults_have_the_message_of_a_small_table(directory, monkeypatch, change):
    change_rows(directory, change)
    with pytest.raises(OutcomesError, match="outcomes.parquet: ") as small:
        read_table(directory)
    monkeypatch.setattr(mapped, "MAPPED_ROWS", 1)
    monkeypatch.setattr("paceline.outcomes.rows.BATCH_ROWS", 500)
    with pytest.raises(OutcomesError, match="outcomes.parquet: ") as large:
        read_table(directory)
    assert str(large.value) == str(small.value)
    assert sorted(path.name for path in directory.iterdir()) == [
        "features.safetensors", "manifest.json", "outcomes.parquet", "samples.parquet"
    ]  # fmt: skip


def test_a_truncated_file_is_named(directory, monkeypatch):
    path = directory / "outcomes.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    monkeypatch.setattr(mapped, "MAPPED_ROWS", 1)
    with pytest.raises(OutcomesError, match="the file is truncated or damaged"):
        read_table(directory)


def trained(directory: Path) -> TrainedPolicy:
    table = read_table(directory)
    return train_controller_policy(table, fit_latency(table), SMALL)


def test_training_on_mapped_cells_is_the_same_bit_for_bit(directory, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_CELLS", 27 * 50)
    in_memory = trained(directory)
    monkeypatch.setattr(mapped, "MAPPED_ROWS", 1)
    monkeypatch.setattr(chunks, "MEMORY_CELLS", 0)
    from_files = trained(directory)
    assert from_files.history == in_memory.history
    for name, array in in_memory.arrays.items():
        np.testing.assert_array_equal(array, from_files.arrays[name], err_msg=name)


@pytest.mark.usefixtures("everything_large")
def test_problems_made_in_pieces_hold_every_sample(directory, monkeypatch):
    table = read_table(directory)
    latency = fit_latency(table)
    pieces, _ = training_problems(table, latency)
    monkeypatch.setattr(chunks, "CHUNK_CELLS", 1 << 22)
    whole, _ = training_problems(table, latency)
    for name in ("features", "accuracy", "tested", "mean_ms", "upper_ms"):
        np.testing.assert_array_equal(getattr(pieces, name), getattr(whole, name), err_msg=name)
        assert name == "features" or is_mapped(getattr(pieces, name)), name
    assert pieces.full_latency_ms == whole.full_latency_ms
    assert pieces.digest() == whole.digest()
    assert dataclasses.astuple(context_ranges(pieces))[:4] == pytest.approx(
        dataclasses.astuple(context_ranges(whole))[:4], rel=1e-12
    )


def test_row_chunks_cover_every_row_once():
    step = chunks.CHUNK_CELLS // 432
    found = list(row_chunks(3 * step + 5, 432))
    assert [part.stop - part.start for part in found] == [step, step, step, 5]
    assert [part.start for part in found[1:]] == [part.stop for part in found[:-1]]
    assert list(row_chunks(0, 432)) == []
    assert list(row_chunks(2, 0)) == [slice(0, 2)]


def test_large_arrays_are_files_and_small_ones_memory(monkeypatch):
    assert not is_mapped(cell_array((3, 4), np.float32))
    monkeypatch.setattr(chunks, "MEMORY_CELLS", 11)
    array = cell_array((3, 4), np.bool_)
    assert is_mapped(array)
    array[1] = True
    assert array.sum() == 4


def test_the_latency_law_takes_whole_samples_up_to_its_limit(monkeypatch):
    table = fake_table(300, 0, 0)
    everything = fit_latency(table)
    assert (everything.facts["fit_samples"], everything.facts["calibration_samples"]) == (150, 150)
    monkeypatch.setattr(calibration, "FEWEST_DRAWN", 8)
    monkeypatch.setattr(calibration, "LAW_CELLS", 27 * 40)
    monkeypatch.setattr(calibration, "CALIBRATION_CELLS", 27 * 100)
    limited = fit_latency(table)
    assert (limited.facts["fit_samples"], limited.facts["calibration_samples"]) == (40, 100)
    work = (table.tiles, table.vision_tokens, table.prompt_tokens)
    np.testing.assert_allclose(
        limited.mean(table.actions, *work), everything.mean(table.actions, *work), rtol=0.03
    )


def test_test_samples_do_not_fit_the_latency():
    table = fake_table(60, 20, 40)
    without = fit_latency(table.select(table.split != "test"))
    late = np.where((table.split == "test")[:, None], 100 * table.latency_ms, table.latency_ms)
    among = fit_latency(dataclasses.replace(table, latency_ms=late))
    np.testing.assert_array_equal(among.rows, without.rows)
    np.testing.assert_array_equal(among.upper_ratio, without.upper_ratio)


def test_training_holds_no_array_of_all_cells(tmp_path, monkeypatch):
    """400,000 outcomes in pieces of 20,000: no temporary array is as large as one array of the table."""
    actions = np.linspace(0, SPACE.size - 1, 100).astype(int)
    for name in ("IMAGE_WIDTH", "QUESTION_WIDTH"):
        monkeypatch.setattr(generated_table, name, 2)
    write_generated(tmp_path, 4000, actions=actions.tolist())
    monkeypatch.setattr(mapped, "MAPPED_ROWS", 1)
    monkeypatch.setattr("paceline.outcomes.rows.BATCH_ROWS", 20_000)
    monkeypatch.setattr(chunks, "MEMORY_CELLS", 0)
    monkeypatch.setattr(chunks, "CHUNK_CELLS", 20_000)
    monkeypatch.setattr(calibration, "ROWS_AT_ONCE", 20_000)
    monkeypatch.setattr(calibration, "FEWEST_DRAWN", 8)
    monkeypatch.setattr(calibration, "LAW_CELLS", 100)
    monkeypatch.setattr(calibration, "CALIBRATION_CELLS", 100)
    table = read_table(tmp_path)
    latency = fit_latency(table)
    cells = table.accuracy.nbytes
    assert cells == 4 * 400_000
    tracemalloc.start()
    read_table(tmp_path)
    train, _ = training_problems(table, latency)
    train.digest()
    context_ranges(train)
    fit_latency(table)
    dataset.split_samples(table, "train")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * cells, f"{peak / cells:.1f} arrays of all cells"
