"""The cells of a large outcomes.parquet as memory-mapped arrays, made once and kept beside it.

`.cells/` in the outcomes directory holds an .npy file of (samples, configurations) for every field of CELL_FIELDS, and
key.json, which says what they were made from. They are made again when that changes, and may be deleted at any time.
"""

import hashlib
import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from paceline.errors import OutcomesError
from paceline.knobs import KnobSpace
from paceline.outcomes.chunks import reserve
from paceline.outcomes.files import exclusive
from paceline.outcomes.groups import group_means, group_medians
from paceline.outcomes.rows import (
    BATCH_ROWS,
    OutcomeRows,
    check_values,
    read_rows,
    refuse_duplicates,
    row_batches,
)
from paceline.outcomes.table import CELL_FIELDS, COUNT_CELLS

MAPPED_ROWS = 1 << 22
"""From this many rows of outcomes on, cells are mapped from files; smaller tables are read into memory."""

DIRECTORY, KEY, UNFINISHED = ".cells", "key.json", ".tmp"
LAYOUT_VERSION = 1
FOOTER_BYTES = 1 << 16
"""Of the end of a Parquet file, where its statistics are: part of what tells two files apart."""


def is_large(path: Path) -> bool:
    """Whether an outcomes.parquet is to be mapped; False for a file that cannot be read at all."""
    try:
        return pq.read_metadata(path).num_rows >= MAPPED_ROWS
    except (OSError, ValueError):
        return False  # `read_rows` says what is wrong with it


def mapped_cells(
    path: Path, space: KnobSpace, sample_ids: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The tested actions, int64 (m,), and the arrays of CELL_FIELDS, (samples, m), read-only and mapped from files.

    Repeated measurements of a cell become the median time and the mean accuracy.

    Raises:
        OutcomesError: contents that break the contract, as `read_rows`, or two rows of one cell and repeat.
    """
    key = _key(path, space, sample_ids)
    kept = path.parent / DIRECTORY
    found = _load(kept, key)
    if found is not None:
        return found
    _clear_unfinished(path.parent)
    try:
        made = Path(tempfile.mkdtemp(prefix=f"{DIRECTORY}.", suffix=UNFINISHED, dir=path.parent))
    except OSError:  # outcomes that may only be read: for this process alone
        made, kept = Path(tempfile.mkdtemp(prefix="paceline-cells.")), None
    try:
        with exclusive(made):
            _make(path, space, sample_ids, made, key)
            loaded = _load(made, key)
            if loaded is None:
                raise OutcomesError(f"{made}: cannot be read after it was written; check the disk, try again")
            if kept is not None:
                made.chmod(path.parent.stat().st_mode & 0o777)
                shutil.rmtree(kept, ignore_errors=True)
                # Where another process was faster, its files stay. What is mapped outlives its name.
                with suppress(OSError):
                    os.replace(made, kept)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return loaded


def _clear_unfinished(directory: Path) -> None:
    """Remove what killed processes left; one that is still at work holds its own."""
    for left in directory.glob(f"{DIRECTORY}.*{UNFINISHED}"):
        with suppress(OSError, OutcomesError), exclusive(left):
            shutil.rmtree(left)


def _key(path: Path, space: KnobSpace, sample_ids: np.ndarray) -> dict[str, Any]:
    """What the arrays depend on, without reading all of it."""
    state = path.stat()
    with path.open("rb") as file:
        file.seek(max(0, state.st_size - FOOTER_BYTES))
        footer = hashlib.sha256(file.read()).hexdigest()
    return {
        "layout_version": LAYOUT_VERSION,
        "bytes": state.st_size,
        "modified_ns": state.st_mtime_ns,
        "footer": footer,
        "samples": hashlib.sha256("\n".join(sample_ids.tolist()).encode()).hexdigest(),
        "space": space.to_json(),
    }


def _load(directory: Path, key: dict[str, Any]) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
    """The arrays made for `key`; None where there are none, or others."""
    try:
        kept = json.loads((directory / KEY).read_text(encoding="utf-8"))
        if kept != json.loads(json.dumps(key)):
            return None
        actions = np.load(directory / "actions.npy")
        # A plain array over the map: numpy's own subclass takes slower paths that copy.
        cells = {name: np.asarray(np.load(directory / f"{name}.npy", mmap_mode="r")) for name in CELL_FIELDS}
    except (OSError, ValueError, EOFError):
        return None
    return actions, cells


def _make(path: Path, space: KnobSpace, sample_ids: np.ndarray, directory: Path, key: dict[str, Any]) -> None:
    try:
        actions = _actions(path)
    except (pa.ArrowException, OSError, KeyError):
        read_rows(path, space, sample_ids)  # says what is wrong with the file
        raise
    cells = _empty_cells(directory, (len(sample_ids), len(actions)))
    try:
        repeated = _fill(path, space, sample_ids, actions, cells)
    except OutcomesError:
        read_rows(path, space, sample_ids)  # the same fault, told for the file as a whole
        raise
    if repeated is not None:
        _aggregate(path, space, sample_ids, actions, cells, repeated)
    np.save(directory / "actions.npy", actions)
    for array in cells.values():
        array.flush()
    (directory / KEY).write_text(json.dumps(key), encoding="utf-8")


def _actions(path: Path) -> np.ndarray:
    """The actions that occur, ascending."""
    actions = np.zeros(0, np.int64)
    with pq.ParquetFile(path, memory_map=True) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=["action"]):
            actions = np.union1d(actions, batch.column("action").cast(pa.int64()).unique().drop_null())
    return actions


def _empty_cells(directory: Path, shape: tuple[int, int]) -> dict[str, np.memmap]:
    cells = {}
    for name in CELL_FIELDS:
        kind, absent = (np.int32, -1) if name in COUNT_CELLS else (np.float32, np.nan)
        array = np.lib.format.open_memmap(directory / f"{name}.npy", mode="w+", dtype=kind, shape=shape)
        reserve(directory / f"{name}.npy")
        array.fill(absent)
        cells[name] = array
    return cells


def _positions(rows: OutcomeRows, actions: np.ndarray) -> np.ndarray:
    """The cell of each row, counted sample by sample."""
    return rows.sample * len(actions) + np.searchsorted(actions, rows.values["action"])


def _fill(
    path: Path, space: KnobSpace, sample_ids: np.ndarray, actions: np.ndarray, cells: dict[str, np.memmap]
) -> np.ndarray | None:
    """Write every row to its cell, the last one of a cell wins; bool (cells,) of those with several, None without."""
    seen = np.zeros(len(sample_ids) * len(actions), bool)
    several = np.zeros(0, bool)
    for rows in row_batches(path, space, sample_ids):
        check_values(rows.values, path.name)
        cell = _positions(rows, actions)
        for name, array in cells.items():
            array.reshape(-1)[cell] = rows.values[name]
        distinct, count = np.unique(cell, return_counts=True)
        again = distinct[seen[distinct] | (count > 1)]
        if len(again):
            several = several if len(several) else np.zeros(len(seen), bool)
            several[again] = True
        seen[distinct] = True
    return several if len(several) else None


def _aggregate(
    path: Path,
    space: KnobSpace,
    sample_ids: np.ndarray,
    actions: np.ndarray,
    cells: dict[str, np.memmap],
    several: np.ndarray,
) -> None:
    """Replace the cells measured several times by means and medians."""
    parts: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
    for rows in row_batches(path, space, sample_ids):
        cell = _positions(rows, actions)
        chosen = several[cell]
        parts.append((cell[chosen], {name: column[chosen] for name, column in rows.values.items()}))
    values = {name: np.concatenate([part[name] for _, part in parts]) for name in parts[0][1]}
    distinct, group = np.unique(np.concatenate([cell for cell, _ in parts]), return_inverse=True)
    try:
        refuse_duplicates(group, values["repeat"], len(distinct), path.name)
    except OutcomesError:
        whole = read_rows(path, space, sample_ids)  # for the row numbers of the file
        refuse_duplicates(_positions(whole, actions), whole.values["repeat"], len(several), path.name)
        raise
    for name in CELL_FIELDS:
        if name not in COUNT_CELLS:
            joined = group_means if name == "accuracy" else group_medians
            cells[name].reshape(-1)[distinct] = joined(group, values[name], len(distinct))
