"""One split of an outcome table as the arrays that learners index: features, accuracy, latencies, what is tested.

Nothing is larger than samples x configurations, and what is large is mapped from files (`outcomes.chunks`).
"""

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from paceline.errors import TrainError
from paceline.latency.estimate import LatencyEstimator
from paceline.learning.table_checks import check_size
from paceline.outcomes.chunks import cell_array, row_chunks
from paceline.outcomes.table import CELL_FIELDS, OutcomeTable


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DecisionProblem:
    """Samples x tested configurations. Untested cells hold accuracy 0, latency 0 and upper latency inf."""

    features: np.ndarray  # float32 (n, f), as stored
    accuracy: np.ndarray  # float32 (n, m)
    tested: np.ndarray  # bool (n, m)
    mean_ms: np.ndarray  # float32 (n, m): expected latency
    upper_ms: np.ndarray  # float32 (n, m): calibrated upper latency
    full_latency_ms: float  # mean latency of the full configuration over the training samples
    runtime_ms: np.ndarray | None = None  # float32 (n, m), where times are known only afterwards
    cutoff_ms: float = math.inf  # of such runtimes

    def configuration_means(self, values: np.ndarray) -> np.ndarray:
        """Mean of (n, m) values per configuration over the samples where it is tested: float64 (m,)."""
        total = np.zeros(self.tested.shape[1])
        for rows in row_chunks(*self.tested.shape):
            total += np.where(self.tested[rows], values[rows], 0.0).sum(axis=0, dtype=np.float64)
        return total / np.maximum(self.tested.sum(axis=0), 1)

    def digest(self) -> str:
        """Hash of the contents, so that a checkpoint is never resumed on other data."""
        state = hashlib.sha256(repr((self.full_latency_ms, self.cutoff_ms)).encode())
        arrays = (self.features, self.accuracy, self.tested, self.mean_ms, self.upper_ms, self.runtime_ms)
        for array in (array for array in arrays if array is not None):
            state.update(repr(array.shape).encode())
            for rows in row_chunks(*array.shape):
                state.update(np.ascontiguousarray(array[rows]).data)
        return state.hexdigest()


def full_column(table: OutcomeTable) -> int:
    """Column of the full configuration; TrainError when it was not tested."""
    action = table.space.action(table.space.full)
    columns = np.flatnonzero(table.actions == action)
    if not len(columns):
        raise TrainError(
            f"outcomes: the full configuration {table.space.full} was not tested among {len(table.actions)} "
            "configurations, expected outcomes of it, since its time is the unit of all times; measure it too"
        )
    return int(columns[0])


def training_problems(
    table: OutcomeTable, latency: LatencyEstimator
) -> tuple[DecisionProblem, DecisionProblem]:
    """The training and the validation split, checked."""
    check_size(table)
    full = full_column(table)
    train = _problem(table, _rows(table, "train"), latency, full, None)
    validation = _problem(table, _rows(table, "validation"), latency, full, train.full_latency_ms)
    return train, validation


def split_samples(table: OutcomeTable, split: str) -> OutcomeTable:
    """The samples of a split without their cells: what balancing and features need, at the price of a few columns."""
    no_cells = {name: getattr(table, name)[:, :0] for name in CELL_FIELDS}
    return dataclasses.replace(table, actions=table.actions[:0], **no_cells).split_rows(split)


def _rows(table: OutcomeTable, split: str) -> np.ndarray:
    """The positions of a split's samples."""
    rows = np.flatnonzero(table.split == split)
    if not len(rows):
        raise TrainError(
            f"outcomes: no samples in the {split} split, only {sorted(set(table.split.tolist()))}; "
            f"profile {split} samples or assign some by image"
        )
    return rows


def _problem(
    table: OutcomeTable,
    samples: np.ndarray,
    latency: LatencyEstimator,
    full: int,
    full_latency_ms: float | None,
) -> DecisionProblem:
    """The samples (n,) of a table; in pieces, so that only results are as large as the split."""
    shape = (len(samples), len(table.actions))
    accuracy, mean_ms, upper_ms = (cell_array(shape, np.float32) for _ in range(3))
    tested = cell_array(shape, np.bool_)
    broken, full_ms = np.zeros(shape[1], np.int64), []
    for rows in row_chunks(*shape):
        tiles = table.tiles[samples[rows]]
        workload = (tiles, table.vision_tokens[samples[rows]], table.prompt_tokens[samples[rows]])
        mean = np.asarray(latency.mean(table.actions, *workload), dtype=np.float64)
        upper = np.asarray(latency.upper(table.actions, *workload), dtype=np.float64)
        observed = table.accuracy[samples[rows]]
        known = np.isfinite(observed) & (tiles >= 0)
        broken += (known & ~(np.isfinite(mean) & np.isfinite(upper) & (mean > 0))).sum(axis=0)
        full_ms.append(mean[known[:, full], full])
        accuracy[rows], tested[rows] = np.where(known, observed, 0.0), known
        mean_ms[rows], upper_ms[rows] = np.where(known, mean, 0.0), np.where(known, upper, np.inf)
    if broken.any():
        raise TrainError(
            f"latency: the estimate is not a positive finite time for {int(broken.sum())} outcomes "
            f"(actions {table.actions[broken > 0][:5].tolist()}); fit it on this table's timings"
        )
    if not tested.any(axis=1).all():
        untested = samples[~tested.any(axis=1)]
        raise TrainError(
            f"outcomes: samples {table.sample_id[untested[:5]].tolist()} have no tested configuration; drop them"
        )
    if full_latency_ms is None:
        absent = table.actions[~tested.any(axis=0)]
        if len(absent):
            raise TrainError(
                f"outcomes: actions {absent[:5].tolist()} have no outcome in the train split; "
                "profile them there or leave them out of the table"
            )
        full_latency_ms = float(np.concatenate(full_ms).mean())
    return DecisionProblem(
        features=np.ascontiguousarray(table.features[samples], dtype=np.float32),
        accuracy=accuracy,
        tested=tested,
        mean_ms=mean_ms,
        upper_ms=upper_ms,
        full_latency_ms=full_latency_ms,
        **_runtimes(table, samples, latency),
    )


def _runtimes(table: OutcomeTable, samples: np.ndarray, latency: LatencyEstimator) -> dict[str, Any]:
    cutoff_ms = latency.facts.get("cutoff_ms")
    if cutoff_ms is None:
        return {}
    times = np.nan_to_num(table.latency_ms[samples], nan=float(cutoff_ms)).astype(np.float32)
    return {"runtime_ms": times, "cutoff_ms": float(cutoff_ms)}
