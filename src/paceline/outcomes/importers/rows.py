"""Outcomes of all files, joined by sample: one row per sample, configuration and file."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paceline.errors import OutcomesError
from paceline.knobs import Configuration
from paceline.outcomes.importers.audit import some
from paceline.outcomes.importers.records import VALUES, Detail, Run


@dataclass(kw_only=True, slots=True)
class JoinedRows:
    """n samples, c configurations, r rows."""

    sample_id: list[str]  # (n,)
    dataset: list[str]  # (n,)
    image: list[str]  # (n,): equal for equal images, of whatever split
    picture: list[str]  # (n,): the image as the files name it; empty where they do not
    question: list[str]  # (n,)
    kind: list[str]  # (n,)
    source_split: list[str]  # (n,): as the files say; empty where they do not
    split: list[str]  # (n,): train, validation or test in files that Paceline exported; empty in others
    configurations: list[Configuration]  # (c,)
    sources: list[str]  # file names
    sample: np.ndarray  # int64 (r,)
    configuration: np.ndarray  # int64 (r,)
    source: np.ndarray  # int64 (r,): which of `sources`
    batched: np.ndarray  # bool (r,): the score comes from a batch, apart from any timing
    values: dict[str, np.ndarray]  # of records.VALUES, (r,); NaN where unknown, left out where always unknown


def join_rows(runs: Sequence[Run], keys: dict[int, list[str]]) -> JoinedRows:
    """The rows of all runs. `keys`: the names of each run's samples, by the run's id()."""
    index: dict[str, int] = {}
    details: list[Detail] = []
    datasets: list[str] = []
    splits: list[str] = []
    configurations: dict[tuple[tuple[str, object], ...], int] = {}
    sample = []
    for run in runs:
        row = np.empty(len(run.ids), np.int64)
        for i, (name, detail) in enumerate(zip(keys[id(run)], run.details, strict=True)):
            at = index.setdefault(name, len(index))
            if at == len(details):
                details.append(detail)
                datasets.append(run.dataset)
                splits.append(run.source_split)
            elif details[at] is not detail:
                details[at] = _both(details[at], detail, name, run)
            row[i] = at
        sample.append(row)
    order = []
    for run in runs:
        order.append(configurations.setdefault(tuple(run.configuration.items()), len(configurations)))
    counts = [len(run.ids) for run in runs]
    return JoinedRows(
        sample_id=list(index),
        dataset=datasets,
        image=[
            _image(dataset, detail, name)
            for dataset, detail, name in zip(datasets, details, index, strict=True)
        ],
        picture=[detail.image for detail in details],
        question=[detail.question for detail in details],
        kind=[detail.kind for detail in details],
        source_split=splits,
        split=[detail.split for detail in details],
        configurations=[dict(items) for items in configurations],  # pyright: ignore[reportArgumentType]
        sources=[run.file for run in runs],
        sample=np.concatenate(sample),
        configuration=np.repeat(order, counts),
        source=np.repeat(np.arange(len(runs)), counts),
        batched=np.repeat([run.batched for run in runs], counts),
        values={name: _values(runs, name) for name in VALUES if any(name in run.values for run in runs)},
    )


def _values(runs: Sequence[Run], name: str) -> np.ndarray:
    """float32 (rows,) of all runs; they give up theirs, so that no value is held twice."""
    return np.concatenate([run.values.pop(name, np.full(len(run.ids), np.nan, np.float32)) for run in runs])


def _image(dataset: str, detail: Detail, name: str) -> str:
    """The name of a sample's image: whole in exported files, else unique within its dataset only."""
    if not detail.image:
        return name
    return detail.image if detail.split else f"{dataset}/{detail.image}"


def _both(there: Detail, other: Detail, name: str, run: Run) -> Detail:
    """What two files say of one sample; they must not contradict each other."""
    merged = {}
    for part in ("question_id", "image", "question", "kind", "split"):
        mine, theirs = getattr(there, part), getattr(other, part)
        if mine and theirs and mine != theirs:
            raise OutcomesError(
                f"{run.file}: sample {name} has the {part} {theirs!r}, another file says {mine!r}; expected files of "
                f"the same samples, {some(['import them apart', 'or repair the ids'])}"
            )
        merged[part] = mine or theirs
    return Detail(**merged, truth=there.truth or other.truth)
