"""CSV and Parquet tables: reading them, and columns by name."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from paceline.errors import OutcomesError
from paceline.outcomes.importers.json_files import refuse_bytes_name
from paceline.outcomes.rows import damaged, listed

TABLE_SUFFIXES = (".csv", ".parquet", ".pq")


def is_table(path: Path) -> bool:
    """Whether a path is a table, by its suffix."""
    return path.suffix.lower() in TABLE_SUFFIXES


def read_columns(path: Path, texts: Sequence[str]) -> pa.Table:
    """All columns of a CSV or Parquet file; `texts` are read as text even where they look like numbers.

    Raises:
        OutcomesError: a missing, empty or damaged file.
    """
    refuse_bytes_name(path)
    if not path.is_file():
        raise OutcomesError(f"{path}: no such file; expected a .csv or .parquet table")
    try:
        if path.suffix.lower() == ".csv":
            convert = pa_csv.ConvertOptions(
                column_types={name: pa.string() for name in texts}, strings_can_be_null=True
            )
            table = pa_csv.read_csv(path, convert_options=convert)
        else:
            table = pq.read_table(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise damaged(path, error) from error
    if len(set(table.column_names)) != len(table.column_names):
        raise OutcomesError(f"{path}: column names {table.column_names} repeat; give each its own")
    if not table.num_rows:
        raise OutcomesError(f"{path}: has no rows, expected one per sample and configuration")
    return table


def column(table: pa.Table, name: str, path: Path, option: str) -> pa.Array:
    """One column, decoded."""
    if name not in table.column_names:
        raise OutcomesError(
            f"{path}: column {name!r} ({option}) is missing, got {table.column_names[:40]}; "
            f"name an existing column with {option}"
        )
    found = table.column(name).combine_chunks()
    if isinstance(found, pa.ChunkedArray):
        found = found.chunk(0) if found.num_chunks == 1 else pa.concat_arrays(found.chunks)
    return found.dictionary_decode() if pa.types.is_dictionary(found.type) else found


def text_column(
    table: pa.Table, name: str, path: Path, option: str, *, null: str | None = None
) -> np.ndarray:
    """Text (rows,), object. A null becomes `null`, or is refused where that is None."""
    found = column(table, name, path, option)
    nulls = np.flatnonzero(found.is_null().to_numpy(zero_copy_only=False))
    if nulls.size and null is None:
        raise OutcomesError(
            f"{path}: {name} ({option}) is empty (rows {listed(nulls)}); give every row its value"
        )
    try:
        texts = pc.cast(found, pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise OutcomesError(f"{path}: {name} ({option}) is {found.type}, expected text or numbers") from error
    return np.array([null if value is None else value for value in texts.to_pylist()], dtype=object)


def number_column(table: pa.Table, name: str, path: Path, option: str) -> np.ndarray:
    """float64 (rows,); NaN where empty."""
    found = column(table, name, path, option)
    kind = found.type
    if pa.types.is_boolean(kind):
        found = pc.cast(found, pa.int8())
    elif pa.types.is_null(kind):
        return np.full(len(found), np.nan)
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise OutcomesError(f"{path}: {name} ({option}) is {kind}, expected numbers")
    return pc.cast(found, pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)


def option_column(table: pa.Table, name: str, path: Path) -> list[int | float | str]:
    """The options of a knob, (rows,): numbers stay numbers, all else is text."""
    found = column(table, name, path, "--knobs")
    if pa.types.is_integer(found.type) and not found.null_count:
        return found.to_pylist()
    if pa.types.is_floating(found.type):
        values = number_column(table, name, path, "--knobs")
        if not np.isfinite(values).all():
            bad = np.flatnonzero(~np.isfinite(values))
            raise OutcomesError(
                f"{path}: {name} (--knobs) is no number (rows {listed(bad)}); give it its option"
            )
        return values.tolist()
    return text_column(table, name, path, "--knobs").tolist()
