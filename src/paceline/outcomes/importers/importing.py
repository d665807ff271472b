"""`import_outcomes`: read, join, check, and put a finished outcomes directory in place, or nothing."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from paceline.errors import OutcomesError
from paceline.outcomes.feature_makers import FeatureMaker
from paceline.outcomes.files import exclusive
from paceline.outcomes.importers.assembling import assemble
from paceline.outcomes.importers.audit import Audit, some
from paceline.outcomes.importers.blocks import block_ranking, block_sets, one_model
from paceline.outcomes.importers.joining import join_runs
from paceline.outcomes.importers.made_before import made_before
from paceline.outcomes.importers.options import ImportOptions
from paceline.outcomes.importers.records import Run
from paceline.outcomes.importers.result_files import read_runs
from paceline.outcomes.importers.rows import JoinedRows
from paceline.outcomes.importers.table_files import is_table
from paceline.outcomes.importers.tables import TableRows, read_outcome_table
from paceline.outcomes.progress import Progress, Silence
from paceline.outcomes.store import OUTCOMES, write_table
from paceline.outcomes.table import OutcomeTable


def import_outcomes(
    paths: Sequence[Path],
    out: Path,
    options: ImportOptions,
    progress: Progress | None = None,
    maker: FeatureMaker | None = None,
) -> OutcomeTable:
    """Import result files, or one table, into a new outcomes directory.

    Args:
        paths: folders or files of one kind; or one CSV or Parquet table.
        out: must not exist, or be an empty directory.
        options: how to read and join.
        progress: shown how far reading, joining and writing are; nobody if None.
        maker: makes features of the samples' images and questions; None: they are columns, or made from questions.

    Returns:
        The table that was written; its manifest holds the audit.

    Raises:
        OutcomesError: anything that cannot be imported; `out` is then as it was before.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutcomesError(
            f"{out}: exists already, expected a new or empty directory; name another or delete it"
        )
    if not paths:
        raise OutcomesError("import: got no files, expected folders of results or one table")
    if options.features_from is not None:  # refused before anything is read
        made_before(options.features_from, bool(options.table.features))
    audit = Audit()
    progress = progress or Silence()
    tables = [path for path in paths if is_table(path)]
    if tables:
        if len(paths) > 1:
            raise OutcomesError(
                f"import: got {some(paths)}, expected one table, or folders of result files; import one at a time"
            )
        found = read_outcome_table(paths[0], options, audit, progress)
        table, propensity = _of_table(found, paths[0], options, audit, progress, maker), found.propensity
    else:
        if options.table.knobs or options.table.sample:
            raise OutcomesError(
                f"import: --sample and --knobs are for tables, got {some(paths)}; expected a .csv or .parquet file"
            )
        if options.table.features:
            raise OutcomesError(
                f"import: --features {','.join(options.table.features)} names columns of a table, got {some(paths)}; "
                "with --images DIR it names the model that makes features"
            )
        runs = read_runs(paths, options, audit, progress)
        table, propensity = _of_runs(runs, options, audit, progress, maker), None
    put_in_place(table, out, propensity, progress)
    return table


def _of_runs(
    runs: list[Run], options: ImportOptions, audit: Audit, progress: Progress, maker: FeatureMaker | None
) -> OutcomeTable:
    model = one_model(runs)
    sets = block_sets(runs, audit)
    total = model.get("num_total_blocks")
    ranking = block_ranking(sets, total if isinstance(total, int) else None, audit)
    lengths = sorted(
        {run.facts["max_new_tokens"] for run in runs if run.facts.get("max_new_tokens") is not None}
    )
    if len(lengths) > 1:
        audit.warn(f"files differ in max_new_tokens: {lengths}; answers of different lengths are compared")
    progress.start(1, f"joining {sum(len(run.ids) for run in runs)} outcomes")
    rows = join_runs(runs, options.join, audit)
    progress.advance(1)
    timed = bool(np.isfinite(rows.values.get("latency_ms", np.nan)).any())
    if not timed:
        audit.warn("no file holds latencies: nothing is timed, training needs them")
    said: dict[str, Any] = {
        "formats": sorted({run.family for run in runs}),
        "latency_kind": "latency" if timed else "none",
        "latency_unit": "ms" if timed else "",
        "active_block_indices": {str(count): list(blocks) for count, blocks in sets.items()},
    }
    if lengths:
        said["max_new_tokens"] = lengths[-1]
    tiers = {
        run.configuration["tier"]: run.facts["tier_range"]
        for run in runs
        if run.facts.get("tier_range") is not None
    }
    if tiers:
        said["tiers"] = tiers
    return assemble(
        rows,
        options,
        audit,
        progress=progress,
        maker=maker,
        manifest={"task": _task(rows), "model": model, "block_ranking": ranking, "options": said},
    )


def _of_table(
    found: TableRows,
    path: Path,
    options: ImportOptions,
    audit: Audit,
    progress: Progress,
    maker: FeatureMaker | None,
) -> OutcomeTable:
    audit.facts["files"] = [{"file": str(path), "format": "table", "samples": len(found.rows.sample_id)}]
    if options.table.features_table is not None:
        audit.facts["files"].append({"file": options.table.features_table, "format": "samples table"})
    if options.latency_unknown:
        audit.note(
            f"the {found.latency_kind} of an outcome is known only afterwards: as stated by --latency-unknown"
        )
    said = {
        "formats": ["table"],
        "latency_kind": "runtime"
        if found.latency_kind == "latency" and options.latency_unknown
        else found.latency_kind,
        "latency_unit": found.latency_unit,
        "columns": {
            name: getattr(options.table, name)
            for name in (
                "sample",
                "quality",
                "latency",
                "cost",
                "split",
                "kind",
                "dataset",
                "question",
                "image",
                "group",
            )
            if getattr(options.table, name) is not None
        },
    }
    if found.propensity is not None:
        said["propensity"] = "column propensity of outcomes.parquet: probability of the logged choice"
    given = None if found.features is None else (found.features, found.feature_names)
    return assemble(
        found.rows,
        options,
        audit,
        progress=progress,
        maker=maker,
        given=given,
        split=found.split,
        manifest={"task": _task(found.rows) or path.stem, "options": said},
    )


def _task(rows: JoinedRows) -> str:
    return ", ".join(sorted({name for name in rows.dataset if name}))


def put_in_place(
    table: OutcomeTable, out: Path, propensity: np.ndarray | None = None, progress: Progress | None = None
) -> None:
    """Write the directory beside `out` and rename it: it is there complete, or not at all.

    What a killed import left beside `out` is deleted by the next one.
    """
    out = out.resolve()
    made = next((parent for parent in reversed(out.parents) if not parent.exists()), None)
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = out.with_name(f".{out.name}.importing")
    staging.mkdir(exist_ok=True)
    with exclusive(staging):
        try:
            for left in staging.iterdir():
                left.unlink()
            write_table(staging, table, progress)
            if propensity is not None:
                _add_propensity(staging / OUTCOMES, propensity)
            os.replace(staging, out)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            if made is not None:
                shutil.rmtree(made, ignore_errors=True)
            raise


def _add_propensity(path: Path, propensity: np.ndarray) -> None:
    """Append the optional column; every row of a log is one sample, and samples are numbered by row."""
    rows = pq.read_table(path)
    order = np.array([int(name) for name in rows.column("sample_id").to_pylist()])
    pq.write_table(rows.append_column("propensity", pa.array(propensity[order], pa.float64())), path)
