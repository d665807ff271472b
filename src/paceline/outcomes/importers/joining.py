"""Joining files by sample: by question id where every file has it, else by position in the dataset."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from paceline.errors import OutcomesError
from paceline.outcomes.importers.audit import Audit
from paceline.outcomes.importers.padding import without_padding
from paceline.outcomes.importers.ranks import group_of, positions, restarts, world_sizes
from paceline.outcomes.importers.records import Run
from paceline.outcomes.importers.rows import JoinedRows, join_rows

EXPORTED = "sample_id"
"""How files that Paceline exported are joined: their question_id is the sample's whole name."""


def join_runs(runs: Sequence[Run], join: str, audit: Audit) -> JoinedRows:
    """Rows of all runs with one identity per sample.

    `join` is "auto", "question_id" or "position".

    Raises:
        OutcomesError: samples of different files cannot be told to be the same, or contradict each other.
    """
    runs = _without_copied(without_padding(runs, audit), audit)
    _note_restarts(runs, audit)
    _fill_unstated(runs, audit)
    datasets: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        datasets[(run.dataset, run.source_split)].append(run)
    several_splits = len({run.source_split for run in runs}) > 1
    joined_by, keys = {}, {}
    names: dict[tuple[str, str | int], str] = {}  # one string per sample, however many files list it
    for (dataset, split), group in datasets.items():
        how, found = _keys(group, join, audit)
        joined_by["/".join(part for part in (dataset, split) if part) or "all"] = how
        prefix = "/".join(part for part in (dataset, split if several_splits else "") if part)
        start = f"{prefix}/" if prefix and how != EXPORTED else ""
        for run in group:
            part = found.pop(0)
            part = part.tolist() if isinstance(part, np.ndarray) else part
            keys[id(run)] = [names.setdefault((start, name), f"{start}{name}") for name in part]
    audit.facts["joined_by"] = joined_by
    return join_rows(runs, keys)


def _without_copied(runs: Sequence[Run], audit: Audit) -> list[Run]:
    """Leave out samples whose score is that of their batch."""
    counts: dict[str, int] = defaultdict(int)
    kept = []
    for run in runs:
        if run.copied.any():
            counts[run.dataset or "all"] += int(run.copied.sum())
            run = run.keep(np.flatnonzero(~run.copied))
        elif not len(run.ids):
            audit.warn(f"{run.file}: holds no samples")
        if len(run.ids):
            kept.append(run)
    audit.facts["copied_scores"] = dict(counts)
    for dataset, count in counts.items():
        audit.warn(
            f"{dataset}: {count} scores are a batch's (CIDEr) copied to its samples; "
            "they say nothing of single samples and were left out"
        )
    if not kept:
        raise OutcomesError(
            f"import: {'every score is copied from its batch (CIDEr)' if counts else 'the files hold no samples'}; "
            "expected samples with scores of their own"
        )
    return kept


def _fill_unstated(runs: Sequence[Run], audit: Audit) -> None:
    """Files that name no dataset or split are of the only one that the others name."""
    for name, words in (("dataset", "dataset"), ("source_split", "split")):
        stated = {getattr(run, name) for run in runs} - {""}
        silent = [run for run in runs if not getattr(run, name)]
        if len(stated) != 1 or not silent:
            continue
        value = stated.pop()
        for run in silent:
            setattr(run, name, value)
        audit.note(
            f"{len(silent)} files name no {words}, as {silent[0].file}; taken to be of {value} like the others"
        )


def _note_restarts(runs: Sequence[Run], audit: Audit) -> None:
    files = [run.file for run in runs if run.numbering == "rank" and len(restarts(run.ids)) > 1]
    audit.facts["restarted_ids"] = {"files": len(files), "first": files[:8]}
    if files:
        audit.note(
            f"sample_id restarts in {len(files)} merged files (ranks one after the other), as in {files[0]}"
        )


def _keys(group: list[Run], join: str, audit: Audit) -> tuple[str, list[Any]]:
    """How the runs of one dataset are joined, and the names (or, as an array, positions) of the samples of each."""
    without = [run for run in group if not all(detail.question_id for detail in run.details)]
    partly = [run for run in without if any(detail.question_id for detail in run.details)]
    if partly and join != "position":
        missing = sum(not detail.question_id for detail in partly[0].details)
        raise OutcomesError(
            f"{partly[0].file}: {missing} of {len(partly[0].details)} samples have no metadata.question_id, expected "
            "it in all or none; repair the file or use --join position"
        )
    if join == "question_id" and without:
        raise OutcomesError(
            f"{without[0].file}: samples without metadata.question_id, expected it in every file; "
            "use --join position"
        )
    if join != "position" and not without and all(d.split for run in group for d in run.details):
        return EXPORTED, [[detail.question_id for detail in run.details] for run in group]
    if join != "position" and not without:
        return "question_id", [[detail.question_id for detail in run.details] for run in group]
    if join == "auto" and len(without) < len(group):
        audit.note(
            f"{len(without)} of {len(group)} files have no metadata.question_id, as {without[0].file}; "
            "joined by position instead"
        )
    return "position", _by_position(group, audit)


def _by_position(group: list[Run], audit: Audit) -> list[np.ndarray]:
    sizes = world_sizes(group)
    lengths: dict[int, str] = {}
    found = []
    advice = "use files with metadata.question_id, or profile again"
    batched_totals: dict[tuple[object, ...], int] = defaultdict(int)
    for run in group:
        where, reason = positions(run, sizes[group_of(run)])
        if where is None:
            raise OutcomesError(
                f"{run.file}: cannot be joined by position: {reason}; expected a complete file; {advice}"
            )
        found.append(where)
        if run.numbering == "batch":
            batched_totals[group_of(run)] += len(run.ids)
            lengths[batched_totals[group_of(run)]] = run.file
    totals = set(batched_totals.values())
    if len(totals) > 1:
        raise OutcomesError(
            f"{_of_total(group, batched_totals, min(totals))}: has {min(totals)} samples, other files of the grid "
            f"{max(totals)}, and nothing says which failed; cannot be joined by position, {advice}"
        )
    last = max(int(where.max()) for where in found)
    if totals and last >= min(totals):
        raise OutcomesError(
            f"{group[0].file}: the accuracy files hold {min(totals)} samples, latencies go up to sample {last}; "
            f"cannot be joined by position, {advice}"
        )
    _check_truths(group, found)
    unstated = [
        run for run in group if run.numbering == "batch" and run.world_size is None and run.rank is None
    ]
    if unstated:
        audit.warn(
            f"{len(unstated)} files do not state world_size, as {unstated[0].file}; taken to be of one process, "
            "in the dataset's order"
        )
    if totals:
        audit.note("joined by position: nothing but equal lengths and equal expected answers confirms it")
    return found


def _of_total(group: list[Run], totals: dict[tuple[object, ...], int], total: int) -> str:
    return next(run.file for run in group if totals.get(group_of(run)) == total)


def _check_truths(group: list[Run], found: list[np.ndarray]) -> None:
    """Refuse files that expect different answers at one position."""
    truths: dict[tuple[str, int], tuple[str, str]] = {}  # by what is told, such as "answers", and position
    for run, where in zip(group, found, strict=True):
        for position, detail in zip(where.tolist(), run.details, strict=True):
            if not detail.truth:
                continue
            there, file = truths.setdefault(
                (detail.truth.partition("|")[0], position), (detail.truth, run.file)
            )
            if there != detail.truth:
                raise OutcomesError(
                    f"{run.file}: expects other answers at position {position} than {file}; the files do not list "
                    "the same samples in the same order, use files with metadata.question_id"
                )
