"""Finding result files and reading them as JSON, with errors that name the file and the place in it."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paceline.errors import OutcomesError
from paceline.outcomes.importers.audit import some

JSON_SUFFIXES = (".json", ".jsonl")


def result_files(paths: Sequence[Path]) -> list[Path]:
    """Every JSON file at or below the paths, sorted.

    Raises:
        OutcomesError: a path that does not exist, a file name that is not UTF-8, or no such file.
    """
    files: list[Path] = []
    for path in paths:
        refuse_bytes_name(path)
        if not path.exists():
            raise OutcomesError(f"{path}: no such file or folder; expected result files to import")
        there = sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
        for item in there:
            refuse_bytes_name(item)
        chosen = [item for item in there if item.suffix.lower() in JSON_SUFFIXES]
        if not chosen:
            got = some(item.name for item in there) if there else "an empty folder"
            raise OutcomesError(
                f"{path}: got {got}, expected .json or .jsonl result files; name their folder"
            )
        files += [item for item in chosen if item not in files]
    return files


def refuse_bytes_name(path: Path) -> None:
    """Refuse a file name that is not UTF-8: it could not be written into the manifest."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        shown = str(path).encode("utf-8", "backslashreplace").decode()
        raise OutcomesError(
            f"{shown}: the file name is not UTF-8, expected one that is; rename the file"
        ) from error


def read_json(path: Path) -> Any:
    """The value of a JSON file."""
    try:
        return json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _not_json(path, error) from error


def read_lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(line number from 1, object) of a file with one JSON object per line."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise _not_json(path, error, f"line {number}: ") from error
            yield number, object_at(value, f"{path}: line {number}")


def _not_json(path: Path, error: Exception, place: str = "") -> OutcomesError:
    return OutcomesError(
        f"{path}: {place}not complete JSON ({error}); the file is half-written or damaged, "
        "copy it again or remove it"
    )


def object_at(value: Any, place: str) -> Mapping[str, Any]:
    """The value as a JSON object."""
    if not isinstance(value, Mapping):
        raise OutcomesError(f"{place}: got {type(value).__name__}, expected a JSON object")
    return value


def records_at(value: Mapping[str, Any], key: str, place: str) -> list[Mapping[str, Any]]:
    """The list of objects under a key."""
    found = value.get(key)
    if not isinstance(found, list) or not all(isinstance(item, Mapping) for item in found):
        raise OutcomesError(
            f"{place}: {key} is {type(found).__name__}, expected a list of objects; the file is damaged"
        )
    return found


def whole(value: Any, place: str) -> int:
    """The value as an integer."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value != int(value):
        raise OutcomesError(f"{place}: got {value!r}, expected a whole number")
    return int(value)


def numbers(
    records: Sequence[Mapping[str, Any]], key: str, place: str, *, required: bool = False
) -> np.ndarray:
    """float64 (records,) of one key; NaN where it is absent or null.

    Raises:
        OutcomesError: a value that is no number, or a required key that no record has.
    """
    values = np.full(len(records), np.nan)
    found = False
    for row, record in enumerate(records):
        value = record.get(key)
        found = found or key in record
        if value is None:
            continue
        if not isinstance(value, int | float):
            raise OutcomesError(f"{place}: {key} of entry {row} is {value!r}, expected a number")
        values[row] = float(value) if not math.isinf(value) else np.inf
    if required and len(records) and not found:
        raise OutcomesError(
            f"{place}: no entry has {key}, got the keys {some(sorted(records[0]), 16)}; "
            "expected a file of the documented layout"
        )
    return values


def sample_ids(records: Sequence[Mapping[str, Any]], place: str, key: str = "sample_id") -> np.ndarray:
    """int64 (records,)."""
    values = numbers(records, key, place, required=True)
    if np.isnan(values).any() or np.any(values != np.floor(values)):
        row = int(np.flatnonzero(np.isnan(values) | (values != np.floor(values)))[0])
        raise OutcomesError(
            f"{place}: {key} of entry {row} is {records[row].get(key)!r}, expected a whole number"
        )
    return values.astype(np.int64)
