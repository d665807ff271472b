"""`export_outcomes`: a finished outcomes directory in a public layout, in place complete or not at all."""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq

from paceline.errors import OutcomesError
from paceline.knobs import KnobSpace
from paceline.outcomes.columns import PHASE_COLUMNS
from paceline.outcomes.exporters import core_exp, exp6
from paceline.outcomes.exporters.entries import left_out
from paceline.outcomes.groups import group_medians
from paceline.outcomes.store import OUTCOMES, read_table
from paceline.outcomes.table import OutcomeTable

FORMATS: dict[str, ModuleType] = {"exp6": exp6, "core_exp": core_exp}


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """What was written, and what the format cannot carry."""

    format: str
    path: Path
    files: int
    left_out: list[str]  # a line each


def check_format(name: str, space: KnobSpace) -> None:
    """Refuse a format that is unknown or cannot express a knob space, before anything is measured.

    Raises:
        OutcomesError: either of these.
    """
    if name not in FORMATS:
        raise OutcomesError(f"--format: got {name!r}, expected one of {list(FORMATS)}")
    FORMATS[name].check_space(space)


def export_outcomes(directory: Path | str, name: str) -> Export:
    """Write a finished outcomes directory as files of a public layout, into the folder `name` inside it.

    `paceline import` of that folder gives the same samples, splits, configurations, accuracies, times and tokens,
    but for what `Export.left_out` lists. An export that is there already is replaced.

    Args:
        directory: finished outcomes, profiled or imported.
        name: "exp6" or "core_exp".

    Raises:
        OutcomesError: an unknown format, knobs or costs that it cannot express, or a folder that holds other files.
    """
    directory = Path(directory)
    table = read_table(directory)
    check_format(name, table.space)
    if table.manifest.options.get("latency_kind") == "cost":
        raise OutcomesError(
            f"--format {name}: latency_ms of {directory} holds costs, expected milliseconds; the layout has no place "
            "for costs, keep the outcomes directory"
        )
    out = directory / name
    _refuse_other_files(out)
    staging = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".exporting", dir=directory))
    try:
        staging.chmod(0o755)
        count = 0
        for path, value in FORMATS[name].files(table, _phases(directory / OUTCOMES, table)):
            place = staging / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
            count += 1
        if out.exists():
            shutil.rmtree(out)
        os.replace(staging, out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    lines = [*left_out(table, pq.read_schema(directory / OUTCOMES).names), *FORMATS[name].LEFT_OUT]
    return Export(format=name, path=out, files=count, left_out=lines)


def _refuse_other_files(out: Path) -> None:
    """Only what looks like an earlier export may be replaced."""
    if not out.exists():
        return
    others = sorted(str(path) for path in out.rglob("*") if path.is_file() and path.suffix != ".json")
    if others or not out.is_dir():
        raise OutcomesError(
            f"{out}: holds {others[0] if others else 'no folder'}, expected nothing or an earlier export, which would "
            "be replaced; move it away"
        )


def _phases(path: Path, table: OutcomeTable) -> dict[str, np.ndarray]:
    """Median time of each phase, float32 (samples, configurations); empty where outcomes.parquet has none."""
    if not set(PHASE_COLUMNS) <= set(pq.read_schema(path).names):
        return {}
    rows = pq.read_table(path, columns=["sample_id", "action", *PHASE_COLUMNS])
    place = {name: row for row, name in enumerate(table.sample_id.tolist())}
    sample = np.array([place[name] for name in rows.column("sample_id").to_pylist()], np.int64)
    cell = sample * len(table.actions) + np.searchsorted(table.actions, rows.column("action").to_numpy())
    shape = table.accuracy.shape
    return {
        name: group_medians(cell, rows.column(name).to_numpy(), shape[0] * shape[1]).reshape(shape)
        for name in PHASE_COLUMNS
    }
