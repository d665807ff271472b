"""Recognising result files and reading them, whatever their format."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from paceline.errors import OutcomesError
from paceline.outcomes.importers import core_exp, exp5, exp6, lmms_eval
from paceline.outcomes.importers.audit import Audit, some
from paceline.outcomes.importers.json_files import object_at, read_json, result_files
from paceline.outcomes.importers.options import ImportOptions
from paceline.outcomes.importers.ranks import without_merged_twins
from paceline.outcomes.importers.records import Detail, Run
from paceline.outcomes.importers.units import refuse_percentages
from paceline.outcomes.progress import Progress, Silence

EXPECTED = (
    "exp5_accuracy_results_crops*_topk*_blocks*.json, exp6_latency_crops*_topk*_blocks*.json, "
    "*_imgsizetier-*_crops*_topk*_blocks*.json or samples_*.jsonl"
)


def read_runs(
    paths: Sequence[Path], options: ImportOptions, audit: Audit, progress: Progress | None = None
) -> list[Run]:
    """The runs of all files at or below the paths, without those that are there twice (merged and by rank).

    Raises:
        OutcomesError: damaged files, none of a known layout, or files that contradict each other.
    """
    known: dict[Detail, Detail] = {}
    runs: list[Run] = []
    overall: list[tuple[Path, str, Callable[[], list[Run]]]] = []
    ignored: list[str] = []
    files = result_files(paths)
    progress = progress or Silence()
    progress.start(len(files), "reading files")
    for number, path in enumerate(files):
        progress.advance(int(number > 0))
        if lmms_eval.is_lmms_eval(path):
            runs.append(lmms_eval.read_lmms_eval(path, known, options, audit))
            continue
        if lmms_eval.is_results(path):
            audit.note("lmms-eval: results files hold averages; only the model's name was read from them")
            continue
        if path.suffix.lower() == ".jsonl":
            ignored.append(str(path))
            continue
        content = read_json(path)
        if not isinstance(content, dict):
            ignored.append(str(path))
        elif core_exp.is_core_exp(path, content):
            runs.append(core_exp.read_core_exp(path, content, known, audit))
        elif exp6.is_exp6(path, content):
            if exp6.is_overall(path, content):
                overall.append((path, exp6.FAMILY, _later(exp6, path, known, options, audit)))
            else:
                runs.append(exp6.read_exp6(path, content, known, options, audit))
        elif exp5.is_exp5(path, content):
            if exp5.is_overall(path, content):
                overall.append((path, exp5.FAMILY, _later(exp5, path, known, options, audit)))
            else:
                runs.append(exp5.read_exp5(path, content, known, audit))
        else:
            ignored.append(str(path))
    progress.advance(1)
    for path, family, read in overall:
        if any(run.family == family and run.folder == str(path.parent) for run in runs):
            audit.note(
                f"{path}: not read, the files of the single configurations beside it hold the same samples"
            )
        else:
            runs += read()
    if not runs:
        raise OutcomesError(
            f"{', '.join(str(path) for path in paths)}: none of the names match a known format (got "
            f"{some(ignored)}), expected {EXPECTED}"
        )
    if ignored:
        audit.warn(f"{len(ignored)} files are of no known format and were not read ({some(ignored)})")
    return _checked(without_merged_twins(runs, audit), options, audit)


def _later(
    module: object, path: Path, known: dict[Detail, Detail], options: ImportOptions, audit: Audit
) -> Callable[[], list[Run]]:
    """Read an overall file only when it is needed: it is as large as all others together."""

    def read() -> list[Run]:
        content = object_at(read_json(path), str(path))
        if module is exp6:
            return list(exp6.read_overall(path, content, known, options, audit))
        return list(exp5.read_overall(path, content, known, audit))

    return read


def _checked(runs: list[Run], options: ImportOptions, audit: Audit) -> list[Run]:
    """Scores as fractions, one list of knobs, and a line per file in the audit."""
    first = runs[0]
    factor = 0.01 if options.quality_unit == "percent" else 1.0
    for run in runs:
        if list(run.configuration) != list(first.configuration):
            raise OutcomesError(
                f"{run.file}: has the knobs {list(run.configuration)}, {first.file} has {list(first.configuration)}; "
                "expected one kind of files, import these folders apart"
            )
        scores = run.values["accuracy"][~np.isnan(run.values["accuracy"]) & ~run.copied]
        if len(scores):
            refuse_percentages(
                run.file,
                float(scores.min()),
                float(scores.max()),
                factor,
                "if they are percentages use --quality-unit percent",
            )
        run.values["accuracy"] = run.values["accuracy"] * factor
    if factor != 1.0:
        audit.note("scores: percentages, divided by 100, as stated by --quality-unit")
    audit.facts["files"] = [
        {
            "file": run.file,
            "format": run.family,
            "configuration": dict(run.configuration),
            "rank": run.rank,
            "samples": len(run.ids),
        }
        for run in runs
    ]
    return runs
