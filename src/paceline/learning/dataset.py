"""One split of an outcome table as the arrays that learners index: features, accuracy, latencies, what is tested."""

import hashlib
from dataclasses import dataclass

import numpy as np

from paceline.errors import OutcomesError, TrainError
from paceline.latency.estimate import LatencyEstimator
from paceline.outcomes.table import OutcomeTable


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DecisionProblem:
    """Samples x tested configurations. Untested cells hold accuracy 0, latency 0 and upper latency inf."""

    features: np.ndarray  # float32 (n, f), as stored
    accuracy: np.ndarray  # float32 (n, m)
    tested: np.ndarray  # bool (n, m)
    mean_ms: np.ndarray  # float32 (n, m): expected latency
    upper_ms: np.ndarray  # float32 (n, m): calibrated upper latency
    full_latency_ms: float  # mean latency of the full configuration over the training samples

    def configuration_means(self, values: np.ndarray) -> np.ndarray:
        """Mean of (n, m) values per configuration over the samples where it is tested: float64 (m,)."""
        total = np.where(self.tested, values, 0.0).sum(axis=0, dtype=np.float64)
        return total / np.maximum(self.tested.sum(axis=0), 1)

    def digest(self) -> str:
        """Hash of the contents, so that a checkpoint is never resumed on other data."""
        state = hashlib.sha256(repr(self.full_latency_ms).encode())
        for array in (self.features, self.accuracy, self.tested, self.mean_ms, self.upper_ms):
            state.update(repr(array.shape).encode())
            state.update(np.ascontiguousarray(array).tobytes())
        return state.hexdigest()


def full_column(table: OutcomeTable) -> int:
    """Column of the full configuration; TrainError when it was not tested."""
    action = table.space.action(table.space.full)
    columns = np.flatnonzero(table.actions == action)
    if not len(columns):
        raise TrainError(
            f"outcomes: the full configuration {table.space.full} was not tested among {len(table.actions)} "
            "configurations; profile it too, it is the unit of time"
        )
    return int(columns[0])


def training_problems(
    table: OutcomeTable, latency: LatencyEstimator
) -> tuple[DecisionProblem, DecisionProblem]:
    """The training and the validation split, checked."""
    if len(table.actions) < 2:
        raise TrainError(
            f"outcomes: {len(table.actions)} configuration was tested, expected at least 2; "
            "with one there is nothing to choose"
        )
    if not np.isfinite(table.features).all():
        rows = np.flatnonzero(~np.isfinite(table.features).all(axis=1))
        raise TrainError(
            f"features: {len(rows)} samples have NaN or infinite features (rows {rows[:5].tolist()}); "
            "extract the features again"
        )
    full = full_column(table)
    train = _problem(_split(table, "train"), latency, full, None)
    validation = _problem(_split(table, "validation"), latency, full, train.full_latency_ms)
    return train, validation


def _split(table: OutcomeTable, name: str) -> OutcomeTable:
    if not (table.split == name).any():
        raise TrainError(
            f"outcomes: no samples in the {name} split, only {sorted(set(table.split.tolist()))}; "
            f"profile {name} samples or assign some by image"
        )
    try:
        return table.split_rows(name)
    except OutcomesError as error:
        raise TrainError(str(error)) from error


def _problem(
    table: OutcomeTable, latency: LatencyEstimator, full: int, full_latency_ms: float | None
) -> DecisionProblem:
    workload = (table.tiles, table.vision_tokens, table.prompt_tokens)
    mean = np.asarray(latency.mean(table.actions, *workload), dtype=np.float64)
    upper = np.asarray(latency.upper(table.actions, *workload), dtype=np.float64)
    tested = np.isfinite(table.accuracy) & (table.tiles >= 0)
    broken = tested & ~(np.isfinite(mean) & np.isfinite(upper) & (mean > 0))
    if broken.any():
        actions = table.actions[broken.any(axis=0)]
        raise TrainError(
            f"latency: the estimate is not a positive finite time for {int(broken.sum())} outcomes "
            f"(actions {actions[:5].tolist()}); fit it on this table's timings"
        )
    if not tested.any(axis=1).all():
        rows = np.flatnonzero(~tested.any(axis=1))
        raise TrainError(
            f"outcomes: samples {table.sample_id[rows[:5]].tolist()} have no tested configuration; drop them"
        )
    if full_latency_ms is None:
        absent = table.actions[~tested.any(axis=0)]
        if len(absent):
            raise TrainError(
                f"outcomes: actions {absent[:5].tolist()} have no outcome in the train split; "
                "profile them there or leave them out of the table"
            )
        full_latency_ms = float(mean[tested[:, full], full].mean())
    return DecisionProblem(
        features=np.ascontiguousarray(table.features, dtype=np.float32),
        accuracy=np.where(tested, table.accuracy, 0.0).astype(np.float32),
        tested=tested,
        mean_ms=np.where(tested, mean, 0.0).astype(np.float32),
        upper_ms=np.where(tested, upper, np.inf).astype(np.float32),
        full_latency_ms=full_latency_ms,
    )
