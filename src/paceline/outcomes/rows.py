"""Reading and checking the rows of outcomes.parquet, column by column."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from paceline.errors import OutcomesError
from paceline.knobs import KnobSpace
from paceline.outcomes.columns import (
    COUNT_COLUMNS,
    TIME_COLUMNS,
    VALUE_TYPES,
    option_values,
    required_columns,
)

BATCH_ROWS = 1 << 20
"""Rows decoded at once: bounds the memory that reading needs beyond the arrays themselves."""

SHOWN_ROWS = 8
"""How many faulty rows an error lists."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutcomeRows:
    """One entry per row of outcomes.parquet, in file order."""

    sample: np.ndarray  # int64 (rows,): position in samples.parquet
    values: dict[str, np.ndarray]  # each (rows,): the columns of VALUE_TYPES; NaN where null is allowed


def read_rows(path: Path, space: KnobSpace, sample_ids: np.ndarray) -> OutcomeRows:
    """Read outcomes.parquet and check it against its contract.

    Raises:
        OutcomesError: a damaged file, missing columns, wrong types, unknown samples, options or actions, or
            values out of range; the message lists the first rows at fault, counted from 0.
    """
    parts = list(row_batches(path, space, sample_ids))
    # Popped, so that no column is held in pieces and as a whole for longer than it takes to join it.
    values = {column: np.concatenate([part.values.pop(column) for part in parts]) for column in VALUE_TYPES}
    sample = np.concatenate([part.sample for part in parts])
    check_values(values, path.name)
    return OutcomeRows(sample=sample, values=values)


def row_batches(path: Path, space: KnobSpace, sample_ids: np.ndarray) -> Iterator[OutcomeRows]:
    """The rows of outcomes.parquet, BATCH_ROWS at a time, in file order; `check_values` is left to the caller.

    Raises:
        OutcomesError: as `read_rows`, except for values out of range.
    """
    required = required_columns(space)
    try:
        with pq.ParquetFile(path, read_dictionary=["sample_id"], memory_map=True) as file:
            missing = [name for name in required if name not in file.schema_arrow.names]
            if missing:
                raise OutcomesError(
                    f"{path.name}: columns {missing} are missing, got {file.schema_arrow.names}; "
                    f"expected at least {list(required)}"
                )
            if not file.metadata.num_rows:
                raise OutcomesError(f"{path.name}: has no rows; expected at least one outcome, profile again")
            yield from _batches(file, path.name, space, required, sample_ids)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> OutcomesError:
    """The error for a file that cannot be decoded."""
    return OutcomesError(
        f"{path}: cannot be read ({str(error).splitlines()[0]}); the file is truncated or damaged, "
        "copy it again or make the outcomes again"
    )


def _batches(
    file: pq.ParquetFile, name: str, space: KnobSpace, required: tuple[str, ...], sample_ids: np.ndarray
) -> Iterator[OutcomeRows]:
    known_ids = pa.array(sample_ids.tolist(), pa.string())
    options = [option_values(knob) for knob in space.knobs]
    start = 0
    for batch in file.iter_batches(BATCH_ROWS, columns=list(required)):
        values = {
            column: np.asarray(_numbers(batch.column(column), column, name, start), kind.to_pandas_dtype())
            for column, kind in VALUE_TYPES.items()
        }
        sample = _positions(batch.column("sample_id"), known_ids, name, start).astype(np.int64, copy=False)
        indices = [
            _option_index(batch.column(knob.name), stored, knob.name, name, start)
            for knob, stored in zip(space.knobs, options, strict=True)
        ]
        expected = np.ravel_multi_index(tuple(indices), space.shape)
        _refuse(
            values["action"] != expected,
            f"{name}: action does not match the knob columns",
            "action ids count configurations with the last knob fastest",
            start,
        )
        yield OutcomeRows(sample=sample, values=values)
        start += len(batch)


def _numbers(column: pa.Array, column_name: str, name: str, start: int) -> np.ndarray:
    kind = VALUE_TYPES[column_name]
    try:
        cast = column.cast(kind, safe=not pa.types.is_floating(kind))
    except pa.ArrowInvalid as error:
        raise OutcomesError(
            f"{name}: column {column_name} is {column.type}, expected values of {kind} ({error})"
        ) from error
    except pa.ArrowNotImplementedError as error:
        raise OutcomesError(f"{name}: column {column_name} is {column.type}, expected {kind}") from error
    if pa.types.is_floating(kind):
        return cast.to_numpy(zero_copy_only=False)
    nulls = cast.is_null().to_numpy(zero_copy_only=False)
    _refuse(nulls, f"{name}: {column_name} is null", "give every row its value", start)
    return cast.to_numpy(zero_copy_only=False)


def _positions(column: pa.Array, known_ids: pa.Array, name: str, start: int) -> np.ndarray:
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    if not pa.types.is_string(column.type.value_type) and not pa.types.is_large_string(
        column.type.value_type
    ):
        raise OutcomesError(f"{name}: column sample_id is {column.type.value_type}, expected string")
    in_samples = _index_in(column.dictionary.cast(pa.string()), known_ids)
    positions = in_samples.take(column.indices)
    unknown = positions.is_null().to_numpy(zero_copy_only=False)
    _refuse(
        unknown,
        f"{name}: sample_id is not in samples.parquet",
        "outcomes and samples must come from the same sweep",
        start,
    )
    return positions.to_numpy(zero_copy_only=False)


def _option_index(column: pa.Array, stored: pa.Array, knob: str, name: str, start: int) -> np.ndarray:
    try:
        indices = _index_in(column.cast(stored.type), stored)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise OutcomesError(
            f"{name}: column {knob} is {column.type}, expected the options {stored.to_pylist()}"
        ) from error
    unknown = indices.is_null().to_numpy(zero_copy_only=False)
    _refuse(unknown, f"{name}: {knob} is not an option", f"expected one of {stored.to_pylist()}", start)
    return indices.to_numpy(zero_copy_only=False)


def _index_in(values: pa.Array, known: pa.Array) -> pa.Array:
    """The position of each value among the known ones; null for any other."""
    return pc.call_function("index_in", [values], pc.SetLookupOptions(known))


def _refuse(faulty: np.ndarray, fault: str, advice: str, start: int = 0) -> None:
    """Raise when any row is faulty; `start` is the number of the first row."""
    if faulty.any():
        raise OutcomesError(f"{fault} (rows {listed(np.flatnonzero(faulty) + start)}); {advice}")


def listed(rows: np.ndarray) -> str:
    """The first row numbers, and how many there are if not all are shown."""
    shown = ", ".join(str(row) for row in rows[:SHOWN_ROWS].tolist())
    return shown if len(rows) <= SHOWN_ROWS else f"{shown}, ... {len(rows)} in all"


def check_values(values: dict[str, np.ndarray], name: str) -> None:
    """Refuse values out of range; `values` as in OutcomeRows."""
    accuracy = values["accuracy"]
    absent = np.isnan(accuracy)
    if absent.any():
        raise OutcomesError(
            f"{name}: accuracy is NaN or null in {int(absent.sum())} rows "
            f"(rows {listed(np.flatnonzero(absent))}); leave untested configurations out of the file"
        )
    outside = np.flatnonzero((accuracy < 0) | (accuracy > 1))
    if outside.size:
        raise OutcomesError(
            f"{name}: accuracy has {outside.size} values outside [0, 1] (rows {listed(outside)}); "
            "scores must be fractions, divide percentages by 100"
        )
    for column in TIME_COLUMNS:
        bad = (values[column] <= 0) | np.isinf(values[column])
        _refuse(
            bad, f"{name}: {column} is not a positive, finite time", "leave it null where it was not measured"
        )
    for column in (*COUNT_COLUMNS, "repeat", "output_tokens"):
        _refuse(values[column] < 0, f"{name}: {column} is negative", "expected a count from 0 on")


def refuse_duplicates(cell: np.ndarray, repeat: np.ndarray, cells: int, name: str) -> None:
    """Refuse two rows of one cell (sample x configuration) with the same repeat number."""
    if not repeat.any() and np.bincount(cell, minlength=cells).max(initial=0) <= 1:
        return
    key = cell * (int(repeat.max(initial=0)) + 1) + repeat
    order = np.argsort(key, kind="stable")
    again = np.sort(order[1:][np.diff(key[order]) == 0])
    if again.size:
        raise OutcomesError(
            f"{name}: {again.size} rows repeat the sample, configuration and repeat of an earlier row "
            f"(rows {listed(again)}); keep one of each, or number repeated measurements in the repeat column"
        )
