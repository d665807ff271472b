"""Reading and writing outcomes directories.

A directory holds manifest.json, outcomes.parquet, samples.parquet and features.safetensors; where features were made
from questions, text_features.safetensors too. The manifest is written last: a directory without one is not finished.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from paceline.errors import OutcomesError, PacelineError
from paceline.knobs import KnobSpace
from paceline.outcomes.columns import (
    SAMPLES_SCHEMA,
    VALUE_TYPES,
    knob_columns,
    required_columns,
    value_column,
)
from paceline.outcomes.feature_makers import TEXT
from paceline.outcomes.feature_sets import chosen_columns, read_arrays
from paceline.outcomes.files import write_atomically, write_bytes, write_text
from paceline.outcomes.groups import group_means, group_medians
from paceline.outcomes.manifest import Manifest, parse_manifest
from paceline.outcomes.mapped import is_large, mapped_cells
from paceline.outcomes.progress import Progress, Silence
from paceline.outcomes.rows import OutcomeRows, damaged, listed, read_rows, refuse_duplicates
from paceline.outcomes.table import CELL_FIELDS, COUNT_CELLS, SAMPLE_FIELDS, SPLITS, OutcomeTable
from paceline.policies import text_features
from paceline.policies.inputs import STORED, FeatureChoice
from paceline.policies.text_features import TextFeatures

MANIFEST, OUTCOMES, SAMPLES, FEATURES = (
    "manifest.json",
    "outcomes.parquet",
    "samples.parquet",
    "features.safetensors",
)
SHARDS = "shards"
ROW_GROUP_CELLS = 1 << 20


def read_table(
    path: Path | str, *, image_features: str = STORED, question_features: str = STORED
) -> OutcomeTable:
    """Read a finished outcomes directory.

    `image_features`, `question_features`: of `policies.inputs.IMAGE_FEATURES` and `QUESTION_FEATURES`; what the table's
    features are to be. Sets other than the stored ones are there after `paceline profile --features-kept`.

    Repeated measurements of a cell become the median time and the mean accuracy. The cells of a large table are mapped
    from files that are made beside it once, see `outcomes.mapped`.

    Raises:
        OutcomesError: a missing or damaged file, a newer schema, contents that break the contract, or features that
            the directory does not hold.
    """
    path = Path(path)
    manifest = read_manifest(path)
    for name in (OUTCOMES, SAMPLES, FEATURES):
        if not (path / name).is_file():
            raise OutcomesError(
                f"{path}: {name} is missing; expected it beside manifest.json, copy the whole directory"
            )
    samples = read_samples(path / SAMPLES)
    features, image_width, choice = chosen_columns(
        path / FEATURES, manifest, image_features, question_features
    )
    text = read_text_features(path) if (manifest.options.get("features") or {}).get("kind") == TEXT else None
    if text is not None and text.width != features.shape[1] - image_width:
        raise OutcomesError(
            f"{path}: {text_features.FILE} makes {text.width} features, {FEATURES} holds "
            f"{features.shape[1] - image_width}; they do not belong together, import again"
        )
    read = mapped_cells if is_large(path / OUTCOMES) else _cells_in_memory
    actions, cells = read(path / OUTCOMES, manifest.space, samples["sample_id"])
    return OutcomeTable(
        space=manifest.space,
        actions=actions,
        **samples,
        **cells,
        features=features,
        image_width=image_width,
        manifest=manifest,
        feature_choice=choice,
        text_features=text,
    )


def read_text_features(path: Path) -> TextFeatures | None:
    """What made the features of questions' texts, where the directory holds it."""
    file = path / text_features.FILE
    if not file.is_file():
        return None
    try:
        return TextFeatures.from_bytes(file.read_bytes(), str(file))
    except PacelineError as error:
        raise OutcomesError(str(error)) from error


def read_manifest(path: Path) -> Manifest:
    """The manifest of an outcomes directory."""
    if not path.is_dir():
        raise OutcomesError(f"{path}: no such directory; expected outcomes made by `paceline profile`")
    if not (path / MANIFEST).is_file():
        if (path / SHARDS).is_dir():
            raise OutcomesError(f"{path}: the sweep is not finished; run the same `paceline profile` again")
        raise OutcomesError(f"{path}: {MANIFEST} is missing; expected outcomes made by `paceline profile`")
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise damaged(path / MANIFEST, error) from error
    return parse_manifest(text, source=str(path / MANIFEST))


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write manifest.json into an outcomes directory: the last step, which makes it a finished one."""
    write_text(path / MANIFEST, json.dumps(manifest.to_json(), indent=1, allow_nan=False) + "\n")


FOLD = "fold"
"""Column of samples.parquet that tables which came with folds have beside the others."""


def read_samples(path: Path) -> dict[str, np.ndarray]:
    """The columns of samples.parquet as text arrays (samples,)."""
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error
    missing = [name for name in SAMPLE_FIELDS if name not in table.column_names]
    if missing:
        raise OutcomesError(
            f"{path.name}: columns {missing} are missing, got {table.column_names}; "
            f"expected at least {list(SAMPLE_FIELDS)}"
        )
    samples = {}
    for name in SAMPLE_FIELDS:
        column = table.column(name)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise OutcomesError(f"{path.name}: column {name} is {column.type}, expected string")
        if column.null_count:
            rows = np.flatnonzero(column.is_null().to_numpy())
            raise OutcomesError(
                f"{path.name}: {name} is null (rows {listed(rows)}); give every sample its value"
            )
        # One long question must not widen every row: questions stay Python strings.
        samples[name] = np.array(column.to_pylist(), dtype=object if name == "question" else np.str_)
    if FOLD in table.column_names:
        samples[FOLD] = np.array([value or "" for value in table.column(FOLD).to_pylist()], dtype=np.str_)
    unknown = np.flatnonzero(~np.isin(samples["split"], SPLITS))
    if unknown.size:
        raise OutcomesError(
            f"{path.name}: split is not one of {list(SPLITS)} (rows {listed(unknown)}); name the splits so"
        )
    _, first = np.unique(samples["sample_id"], return_index=True)
    again = np.setdiff1d(np.arange(len(samples["sample_id"])), first)
    if again.size:
        raise OutcomesError(f"{path.name}: sample_id repeats (rows {listed(again)}); list every sample once")
    return samples


def write_samples(path: Path, samples: Mapping[str, np.ndarray]) -> None:
    """Write samples.parquet from text arrays (samples,); the folds too, where there are some."""
    schema = SAMPLES_SCHEMA.append(pa.field(FOLD, pa.string())) if FOLD in samples else SAMPLES_SCHEMA
    table = pa.table({name: pa.array(samples[name].tolist(), pa.string()) for name in schema.names})
    write_atomically(path, lambda temporary: pq.write_table(table.cast(schema), temporary))


def read_features(path: Path) -> np.ndarray:
    """float32 (samples, features); further sets in the file are not read."""
    return read_arrays(path, ("features",))["features"].astype(np.float32, copy=False)


def write_features(path: Path, features: np.ndarray, sets: Mapping[str, np.ndarray] | None = None) -> None:
    """Write features.safetensors; `sets`: further arrays as `outcomes.feature_sets` describes them."""
    arrays = {name: np.ascontiguousarray(array) for name, array in (sets or {}).items()}
    arrays["features"] = np.ascontiguousarray(features, np.float32)
    write_atomically(path, lambda temporary: save_file(arrays, temporary))


def write_table(path: Path | str, table: OutcomeTable, progress: Progress | None = None) -> None:
    """Write an outcomes directory that `read_table` reads back; an older one there is replaced."""
    if table.feature_choice != FeatureChoice():
        raise OutcomesError(
            f"{path}: the table holds other features than the stored ones ({table.feature_choice}), which a directory "
            "cannot tell apart; read it with read_table(path) to write it"
        )
    path = Path(path)
    progress = progress or Silence()
    progress.start(table.samples, "writing samples")
    path.mkdir(parents=True, exist_ok=True)
    (path / MANIFEST).unlink(missing_ok=True)
    folds = {} if table.fold is None else {FOLD: table.fold}
    write_samples(path / SAMPLES, {name: getattr(table, name) for name in SAMPLE_FIELDS} | folds)
    write_features(path / FEATURES, table.features)
    (path / text_features.FILE).unlink(missing_ok=True)
    if table.text_features is not None:
        data = table.text_features.to_bytes()
        write_bytes(path / text_features.FILE, data)
    write_row_groups(path / OUTCOMES, _row_groups(table, progress))
    write_manifest(path, table.manifest)


def write_row_groups(path: Path, groups: Iterator[pa.Table]) -> None:
    """Write Parquet from tables of one schema, a row group each, without holding them all."""

    def write(temporary: Path) -> None:
        first = next(groups)
        with pq.ParquetWriter(temporary, first.schema) as writer:
            writer.write_table(first)
            for group in groups:
                writer.write_table(group)

    write_atomically(path, write)


def _row_groups(table: OutcomeTable, progress: Progress) -> Iterator[pa.Table]:
    required_columns(table.space)
    ids = pa.array(table.sample_id.tolist(), pa.string())
    step = max(1, ROW_GROUP_CELLS // max(1, len(table.actions)))
    for start in range(0, max(1, table.samples), step):
        sample, column = np.nonzero(~np.isnan(table.accuracy[start : start + step]))
        sample = sample + start
        values = {name: getattr(table, name)[sample, column] for name in CELL_FIELDS}
        values |= {"action": table.actions[column], "repeat": np.zeros(len(sample), np.int32)}
        yield pa.table(
            {"sample_id": ids.take(pa.array(sample))}
            | knob_columns(table.space, values["action"])
            | {name: value_column(name, values[name]) for name in VALUE_TYPES}
        )
        progress.advance(min(step, table.samples - start))


def _cells_in_memory(
    path: Path, space: KnobSpace, sample_ids: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The tested actions (m,), and the arrays (samples, m) of CELL_FIELDS."""
    rows = read_rows(path, space, sample_ids)
    actions = np.unique(rows.values["action"])
    cell = rows.sample * len(actions) + np.searchsorted(actions, rows.values["action"])
    shape = (len(sample_ids), len(actions))
    refuse_duplicates(cell, rows.values["repeat"], shape[0] * shape[1], path.name)
    return actions, _cells(rows, cell, shape)


def _cells(rows: OutcomeRows, cell: np.ndarray, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """The (samples, configurations) arrays of the table."""
    repeated = bool(rows.values["repeat"].any())
    cells = {}
    for name in CELL_FIELDS:
        values = rows.values[name]
        if name in COUNT_CELLS:
            dense = np.full(shape[0] * shape[1], -1, np.int32)
            dense[cell] = values
        elif not repeated:
            dense = np.full(shape[0] * shape[1], np.nan, np.float32)
            dense[cell] = values
        elif name == "accuracy":
            dense = group_means(cell, values, shape[0] * shape[1])
        else:
            dense = group_medians(cell, values, shape[0] * shape[1])
        cells[name] = dense.reshape(shape)
    return cells
