"""Samples that a distributed sampler repeats so that all ranks get equally many.

Of N samples on W ranks it gives rank r those at r, r + W, ...; where W does not divide N, it goes on after the last one
with the first ones. So the last entries of the last ranks are the first entries of the first ranks once more: scored
again, and with another time.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from paceline.outcomes.importers.audit import Audit
from paceline.outcomes.importers.ranks import group_of, restarts, world_sizes
from paceline.outcomes.importers.records import Run

Entry = tuple[Run, int]
"""A run and the row of an entry in it."""


def without_padding(runs: Sequence[Run], audit: Audit) -> list[Run]:
    """The runs without repeated entries, which are told by their question ids; the first entry of a sample stays."""
    groups: dict[tuple[object, ...], list[Run]] = defaultdict(list)
    for run in runs:
        groups[group_of(run)].append(run)
    sizes = world_sizes(runs)
    repeated: dict[int, set[int]] = defaultdict(set)  # rows by id() of the run
    silent = 0
    for key, group in groups.items():
        ranks = _ranks(group, sizes[key]) if sizes[key] > 1 else None
        if ranks is None:
            continue
        first, last = [rank[0] for rank in ranks], [rank[1] for rank in ranks]
        for run, row in _repeats(first, last):
            repeated[id(run)].add(row)
        full = [entry for entry in last if entry is not None]
        silent += len(full) == len(last) and not all(_question(entry) for entry in full)
    count = sum(len(rows) for rows in repeated.values())
    audit.facts["padding"] = count
    if count:
        audit.note(
            f"{count} entries at the ends of ranks repeat the first samples, as a distributed sampler does to give all "
            "ranks equally many; they were dropped"
        )
    if silent:
        audit.note(
            f"{silent} configurations come from several ranks of equal length and have no metadata.question_id: if a "
            "distributed sampler padded them, up to one sample per rank is there twice"
        )
    return [
        run.keep(np.setdiff1d(np.arange(len(run.ids)), list(repeated[id(run)])))
        if id(run) in repeated
        else run
        for run in runs
    ]


def _ranks(group: list[Run], size: int) -> list[tuple[Entry | None, Entry | None]] | None:
    """(first, last) entry of each rank, None where it failed; None for the whole where the ranks cannot be told."""
    parts = _parts(group, size)
    if parts is None:
        return None
    if group[0].numbering == "rank":
        longest = max((int(run.ids[rows].max()) for run, rows in parts if len(rows)), default=0)
        return [(_numbered(run, rows, 0), _numbered(run, rows, longest)) for run, rows in parts]
    if len({len(rows) for _, rows in parts}) > 1 or not len(parts[0][1]):
        return None
    return [((run, int(rows[0])), (run, int(rows[-1]))) for run, rows in parts]


def _parts(group: list[Run], size: int) -> list[tuple[Run, np.ndarray]] | None:
    """The rows of each rank, in order."""
    if group[0].numbering == "global":
        return None
    if len(group) == 1 and group[0].rank is None:
        run = group[0]
        rows = np.arange(len(run.ids))
        starts = (
            restarts(run.ids)
            if run.numbering == "rank"
            else np.arange(0, len(rows), max(1, len(rows) // size))
        )
        whole = len(starts) == size and (run.numbering == "rank" or len(rows) % size == 0)
        return [(run, part) for part in np.split(rows, starts[1:])] if whole else None
    by_rank = {run.rank: run for run in group}
    if len(group) != size or set(by_rank) != set(range(size)):
        return None
    return [(by_rank[rank], np.arange(len(by_rank[rank].ids))) for rank in range(size)]


def _numbered(run: Run, rows: np.ndarray, number: int) -> Entry | None:
    found = rows[run.ids[rows] == number]
    return (run, int(found[0])) if len(found) == 1 else None


def _question(entry: Entry) -> str:
    return entry[0].details[entry[1]].question_id


def _repeats(first: list[Entry | None], last: list[Entry | None]) -> list[Entry]:
    """The repeated entries: with p of them, rank W - p + j ends with the first entry of rank j."""
    size = len(first)
    for padded in range(size - 1, 0, -1):
        pairs = [
            (one, other)
            for one, other in zip(first[:padded], last[size - padded :], strict=True)
            if one is not None and other is not None and one != other
        ]
        if pairs and all(_question(one) and _question(one) == _question(other) for one, other in pairs):
            return [other for _, other in pairs]
    return []
