"""CSV and Parquet tables: reading them, and columns by name."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from paceline.errors import OutcomesError
from paceline.outcomes.importers.json_files import refuse_bytes_name
from paceline.outcomes.progress import Progress, Silence
from paceline.outcomes.rows import BATCH_ROWS, damaged, listed

TABLE_SUFFIXES = (".csv", ".parquet", ".pq")
_NAMES = b"paceline.columns"
"""Where a table keeps the names of all columns of its file."""


def is_table(path: Path) -> bool:
    """Whether a path is a table, by its suffix."""
    return path.suffix.lower() in TABLE_SUFFIXES


def read_columns(
    path: Path, texts: Sequence[str], wanted: Sequence[str], progress: Progress | None = None
) -> pa.Table:
    """Columns of a CSV or Parquet file, texts as dictionaries: a text that many rows share is held once.

    Args:
        path: of the file.
        texts: columns to read as text even where they look like numbers.
        wanted: columns to read, where the file has them.
        progress: shown the rows of a Parquet file as they are read.

    Raises:
        OutcomesError: a missing, empty or damaged file.
    """
    refuse_bytes_name(path)
    if not path.is_file():
        raise OutcomesError(f"{path}: no such file; expected a .csv or .parquet table")
    progress = progress or Silence()
    try:
        if path.suffix.lower() == ".csv":
            names, table = _read_csv(path, texts, wanted, progress)
        else:
            names, table = _read_parquet(path, wanted, progress)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise damaged(path, error) from error
    if len(set(names)) != len(names):
        raise OutcomesError(f"{path}: column names {names} repeat; give each its own")
    if not table.num_rows:
        raise OutcomesError(f"{path}: has no rows, expected one per sample and configuration")
    return table.replace_schema_metadata({_NAMES: json.dumps(names)})


def _read_csv(
    path: Path, texts: Sequence[str], wanted: Sequence[str], progress: Progress
) -> tuple[list[str], pa.Table]:
    with pa_csv.open_csv(path) as reader:
        names = reader.schema.names
    progress.start(1, f"reading {path.name}")
    convert = pa_csv.ConvertOptions(
        column_types={name: pa.dictionary(pa.int32(), pa.string()) for name in texts},
        include_columns=[name for name in names if name in set(wanted)] or names[:1],
        strings_can_be_null=True,
        auto_dict_encode=True,
        auto_dict_max_cardinality=2**31 - 1,
    )
    if len(set(names)) != len(names):
        return names, pa.table({})
    table = pa_csv.read_csv(path, convert_options=convert)
    progress.advance(1)
    return names, table


def _read_parquet(path: Path, wanted: Sequence[str], progress: Progress) -> tuple[list[str], pa.Table]:
    with pq.ParquetFile(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
    names = schema.names
    chosen = [name for name in names if name in set(wanted)] or names[:1]
    if len(set(names)) != len(names) or not rows:
        return names, pa.table({})
    texts = [name for name in chosen if pa.types.is_string(schema.field(name).type)]
    progress.start(rows, f"reading {path.name}")
    batches = []
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=chosen):
            batches.append(batch)
            progress.advance(len(batch))
    return names, pa.Table.from_batches(batches)


def column_names(table: pa.Table) -> list[str]:
    """All columns of the file that a table was read from."""
    return json.loads((table.schema.metadata or {})[_NAMES])


def _found(table: pa.Table, name: str, path: Path, option: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise OutcomesError(
            f"{path}: column {name!r} ({option}) is missing, got {column_names(table)[:40]}; "
            f"name an existing column with {option}"
        )
    return table.column(name)


def coded_column(
    table: pa.Table, name: str, path: Path, option: str, *, null: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Text as (codes int64 (rows,), texts object (distinct,)), each used. A null becomes `null`, or is refused."""
    found = _found(table, name, path, option)
    try:
        codes, values = _encoded(found)
    except pa.ArrowNotImplementedError as error:
        raise OutcomesError(f"{path}: {name} ({option}) is {found.type}, expected text or numbers") from error
    nulls = codes < 0
    if nulls.any() and null is None:
        raise OutcomesError(
            f"{path}: {name} ({option}) is empty (rows {listed(np.flatnonzero(nulls))}); give every row its value"
        )
    try:
        texts = pc.cast(values, pa.string()).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise OutcomesError(
            f"{path}: {name} ({option}) is {values.type}, expected text or numbers"
        ) from error
    codes[nulls] = len(texts)
    distinct: dict[str, int] = {}
    place = np.array([distinct.setdefault(text, len(distinct)) for text in [*texts, null or ""]], np.int64)
    codes = place[codes]
    used = np.zeros(len(distinct), bool)
    used[codes] = True
    return (np.cumsum(used) - 1)[codes], np.array(list(distinct), dtype=object)[used]


def _encoded(found: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Codes int64 (rows,), -1 for null, and what they mean."""
    if not pa.types.is_dictionary(found.type):
        found = found.dictionary_encode()
    found = found.unify_dictionaries()
    if not found.num_chunks:
        return np.empty(0, np.int64), pa.array([], found.type.value_type)
    parts = [
        chunk.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False) for chunk in found.chunks
    ]
    return np.concatenate(parts), found.chunk(0).dictionary


def number_column(table: pa.Table, name: str, path: Path, option: str) -> np.ndarray:
    """float64 (rows,); NaN where empty."""
    found = _found(table, name, path, option)
    if pa.types.is_dictionary(found.type):
        found = found.cast(found.type.value_type)
    kind = found.type
    if pa.types.is_boolean(kind):
        found = pc.cast(found, pa.int8())
    elif pa.types.is_null(kind):
        return np.full(len(found), np.nan)
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise OutcomesError(f"{path}: {name} ({option}) is {kind}, expected numbers")
    return pc.cast(found, pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)


def option_column(table: pa.Table, name: str, path: Path) -> tuple[np.ndarray, list[int | float | str]]:
    """The options of a knob as (codes int64 (rows,), options): numbers stay numbers, all else is text."""
    found = _found(table, name, path, "--knobs")
    if pa.types.is_floating(found.type):
        values = number_column(table, name, path, "--knobs")
        if not np.isfinite(values).all():
            bad = np.flatnonzero(~np.isfinite(values))
            raise OutcomesError(
                f"{path}: {name} (--knobs) is no number (rows {listed(bad)}); give it its option"
            )
    elif not (pa.types.is_integer(found.type) and not found.null_count):
        codes, texts = coded_column(table, name, path, "--knobs")
        return codes, texts.tolist()
    codes, values = _encoded(found)
    return codes, values.to_pylist()
