"""exp5: accuracy of every sample under one configuration, answered in batches."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paceline.errors import OutcomesError
from paceline.outcomes.importers.audit import Audit
from paceline.outcomes.importers.json_files import numbers, object_at, records_at, sample_ids, whole
from paceline.outcomes.importers.metadata import copied_scores, detail_of
from paceline.outcomes.importers.naming import (
    KNOBS,
    agreed_configuration,
    block_set,
    model_facts,
    run_dataset,
)
from paceline.outcomes.importers.records import Detail, Run

FAMILY = "exp5"
OVERALL = re.compile(r"exp5_accuracy_results\.json")


def is_exp5(path: Path, content: Mapping[str, Any]) -> bool:
    """Whether a file holds accuracies in this layout."""
    records = content.get("all_samples")
    if path.name.startswith("exp5_accuracy"):
        return True
    return isinstance(records, list) and all(isinstance(r, Mapping) and "score" in r for r in records[:1])


def is_overall(path: Path, content: Mapping[str, Any]) -> bool:
    """Whether a file lists the samples of all configurations one after the other."""
    config = content.get("config")
    return OVERALL.fullmatch(path.name) is not None or (
        isinstance(config, Mapping) and "num_combinations" in config
    )


def read_exp5(path: Path, content: Mapping[str, Any], known: dict[Detail, Detail], audit: Audit) -> Run:
    """The run in the file of one configuration; one rank's, or all ranks merged."""
    config = object_at(content.get("config", {}), f"{path}: config")
    configuration, rank = agreed_configuration(path, config)
    records = records_at(content, "all_samples", str(path))
    summary = records_at(content, "summary", str(path)) if "summary" in content else []
    run = _run(path, config, configuration, rank, records, known)
    if summary:
        _check_summary(run, summary[0], audit)
    return run


def read_overall(
    path: Path, content: Mapping[str, Any], known: dict[Detail, Detail], audit: Audit
) -> Iterator[Run]:
    """The runs in the file of all configurations: consecutive samples, as many as each summary says."""
    config = object_at(content.get("config", {}), f"{path}: config")
    records = records_at(content, "all_samples", str(path))
    summary = records_at(content, "summary", str(path))
    counts = [whole(item.get("num_samples"), f"{path}: summary.num_samples") for item in summary]
    if sum(counts) != len(records):
        raise OutcomesError(
            f"{path}: the summaries count {sum(counts)} samples, all_samples has {len(records)}; which belong to "
            "which configuration cannot be told, import the files of the single configurations"
        )
    audit.note(f"{path}: samples were assigned to configurations by the order and counts of the summaries")
    shared = {key: value for key, value in config.items() if key not in ("active_block_indices", "rank")}
    start = 0
    for item, count in zip(summary, counts, strict=True):
        configuration = {name: whole(item.get(name), f"{path}: summary.{name}") for name in KNOBS}
        part = shared | {"active_block_indices": item.get("active_block_indices")}
        run = _run(path, part, configuration, None, records[start : start + count], known)
        _check_summary(run, item, audit)
        start += count
        yield run


def _run(
    path: Path,
    config: Mapping[str, Any],
    configuration: dict[str, Any],
    rank: int | None,
    records: list[Mapping[str, Any]],
    known: dict[Detail, Detail],
) -> Run:
    place = str(path)
    ids = sample_ids(records, place)
    scores = numbers(records, "score", place, required=True)
    world_size = config.get("world_size")
    return Run(
        file=place,
        folder=str(path.parent),
        family=FAMILY,
        configuration=configuration,
        blocks=block_set(config.get("active_block_indices"), configuration["num_active_blocks"], place),
        dataset=run_dataset(config, path),
        source_split=str(config.get("split") or ""),
        rank=rank,
        world_size=None if world_size is None else whole(world_size, f"{place}: config.world_size"),
        ids=ids,
        numbering="batch",
        details=[detail_of(record, known) for record in records],
        values={"accuracy": scores},
        copied=copied_scores(records, ids, scores),
        model=model_facts(config),
        facts={"max_new_tokens": config.get("max_new_tokens")},
    )


def _check_summary(run: Run, summary: Mapping[str, Any], audit: Audit) -> None:
    """Warn where the file's own summary tells of other samples than the file holds."""
    count, mean = summary.get("num_samples"), summary.get("accuracy")
    if isinstance(count, int) and count != len(run.ids):
        audit.warn(f"{run.file}: the summary counts {count} samples, the file holds {len(run.ids)}")
    elif isinstance(mean, int | float) and len(run.ids) and not run.copied.any():
        got = (
            float(np.nanmean(run.values["accuracy"])) if np.isfinite(run.values["accuracy"]).any() else np.nan
        )
        if not abs(got - mean) < 1e-3:
            audit.warn(f"{run.file}: the summary's accuracy is {mean:.4f}, the samples' mean {got:.4f}")
