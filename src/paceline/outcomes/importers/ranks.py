"""Positions in the dataset from numbers that count batches or the samples of one rank."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from paceline.outcomes.importers.audit import Audit, some
from paceline.outcomes.importers.records import Run


def restarts(ids: np.ndarray) -> np.ndarray:
    """Which entries start a new count, int (starts,); the first always does.

    >>> restarts(np.array([0, 1, 2, 0, 2])).tolist()
    [0, 3]
    """
    return np.flatnonzero(np.diff(ids, prepend=ids[0] if len(ids) else 0) <= 0)


def positions(run: Run, world_size: int) -> tuple[np.ndarray | None, str]:
    """The position in the dataset of each sample, int64 (n,), or None and the reason why it cannot be told."""
    if run.numbering == "global" or not len(run.ids):
        return run.ids, ""
    if run.numbering == "rank":
        return _from_counter(run, world_size)
    return _from_batches(run, world_size)


def _from_counter(run: Run, world_size: int) -> tuple[np.ndarray | None, str]:
    starts = restarts(run.ids)
    if run.rank is not None:
        if len(starts) > 1:
            return None, f"sample_id restarts {len(starts) - 1} times within rank {run.rank}"
        return run.ids * world_size + run.rank, ""
    if len(starts) != world_size:
        return None, f"sample_id starts {len(starts)} times, world_size is {world_size}"
    rank = np.cumsum(np.isin(np.arange(len(run.ids)), starts)) - 1
    return run.ids * world_size + rank, ""


def _from_batches(run: Run, world_size: int) -> tuple[np.ndarray | None, str]:
    steps = np.diff(run.ids, prepend=-1)
    if np.any((steps != 1) & (run.ids != 0)):
        return None, "sample_id has gaps within a batch, samples were dropped silently"
    n = len(run.ids)
    if run.rank is not None:
        return np.arange(n, dtype=np.int64) * world_size + run.rank, ""
    sizes = [-(-(n - rank) // world_size) for rank in range(world_size)]
    first = np.cumsum([0, *sizes[:-1]])
    if any(run.ids[start] != 0 for start in first if start < n):
        return (
            None,
            f"no batch starts where one of the {world_size} merged ranks should, samples were dropped",
        )
    parts = [np.arange(size, dtype=np.int64) * world_size + rank for rank, size in enumerate(sizes)]
    return np.concatenate(parts), ""


def group_of(run: Run) -> tuple[object, ...]:
    """Runs of one group are the ranks of one configuration, or these merged."""
    return (run.family, run.folder, run.label, run.dataset, run.source_split)


def without_merged_twins(runs: Sequence[Run], audit: Audit) -> list[Run]:
    """Read each sample once: from the rank files where all are there, else from the merged file."""
    groups: dict[tuple[object, ...], list[Run]] = defaultdict(list)
    for run in runs:
        groups[group_of(run)].append(run)
    kept = []
    for group in groups.values():
        ranks, merged = [r for r in group if r.rank is not None], [r for r in group if r.rank is None]
        if ranks and merged:
            stated = ranks[0].world_size or len(ranks)
            complete = {run.rank for run in ranks} == set(range(stated))
            kept += ranks if complete else merged
            audit.note(
                f"{merged[0].family}: rank files and their merged file are both there; "
                f"the {'rank files' if complete else 'merged file'} was read"
            )
            counts = sum(len(run.ids) for run in ranks), sum(len(run.ids) for run in merged)
            if complete and counts[0] != counts[1]:
                audit.warn(
                    f"{merged[0].file}: holds {counts[1]} samples, its rank files {counts[0]}; "
                    "the rank files were read"
                )
            continue
        kept += group
        stated = ranks[0].world_size if ranks else None
        missing = sorted(set(range(stated or 0)) - {run.rank for run in ranks})
        if missing:
            audit.warn(
                f"{ranks[0].file}: the files of ranks {some(missing)} of {stated} are missing beside it"
            )
    return kept


def world_sizes(runs: Sequence[Run]) -> dict[tuple[object, ...], int]:
    """Number of ranks per group: as stated, else as many as there are rank files or counts that restart."""
    sizes: dict[tuple[object, ...], int] = {}
    for run in runs:
        size = run.world_size
        if size is None:
            size = run.rank + 1 if run.rank is not None else max(1, len(restarts(run.ids)))
            if run.numbering == "batch" and run.rank is None:
                size = 1
        sizes[group_of(run)] = max(size, sizes.get(group_of(run), 1))
    return sizes
