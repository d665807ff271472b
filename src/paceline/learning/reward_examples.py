"""What a reward model is fitted to: outcomes under budgets with scores, or pairs of them with a preference."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paceline.errors import KnobError, TrainError
from paceline.knobs import Configuration, KnobSpace
from paceline.outcomes.importers.table_files import column_names, number_column, option_column, read_columns
from paceline.rewards import option_shares

MEASURES = ("accuracy", "latency_ms", "budget_ms")
PREFERRED, REJECTED = "preferred_", "rejected_"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class JudgedOutcomes:
    """n outcomes under budgets. Raises TrainError for values that are none."""

    space: KnobSpace
    actions: np.ndarray  # int64 (n,)
    accuracy: np.ndarray  # float64 (n,) in [0, 1]
    latency_ms: np.ndarray  # float64 (n,)
    budget_ms: np.ndarray  # float64 (n,), finite

    def __post_init__(self) -> None:
        lengths = {len(self.actions), *(len(getattr(self, name)) for name in MEASURES)}
        if len(lengths) != 1:
            raise TrainError(f"reward examples: columns have {sorted(lengths)} rows, expected equally many")
        _check("accuracy", self.accuracy, (self.accuracy >= 0) & (self.accuracy <= 1), "a fraction in [0, 1]")
        _check("latency_ms", self.latency_ms, self.latency_ms >= 0, "milliseconds of at least 0")
        _check("budget_ms", self.budget_ms, self.budget_ms > 0, "milliseconds above 0")

    def inputs(self) -> np.ndarray:
        """What the network sees, float64 (n, 3 + knobs): times in seconds."""
        seconds = (self.latency_ms / 1000.0, self.budget_ms / 1000.0)
        return np.column_stack([self.accuracy, *seconds, option_shares(self.space, self.actions)])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ScoredOutcomes:
    """Outcomes with a score each: on any scale, higher is better."""

    outcomes: JudgedOutcomes
    scores: np.ndarray  # float64 (n,)

    def __post_init__(self) -> None:
        if len(self.scores) != len(self.outcomes.actions):
            raise TrainError(
                f"reward examples: got {len(self.scores)} scores of {len(self.outcomes.actions)} outcomes, "
                "expected one each"
            )
        _check("score", self.scores, np.isfinite(self.scores), "a number")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PreferredOutcomes:
    """Pairs: each outcome of `preferred` was preferred to the one in the same row of `rejected`."""

    preferred: JudgedOutcomes
    rejected: JudgedOutcomes

    def __post_init__(self) -> None:
        if len(self.preferred.actions) != len(self.rejected.actions):
            raise TrainError(
                f"reward examples: got {len(self.preferred.actions)} preferred and {len(self.rejected.actions)} "
                "rejected outcomes, expected pairs"
            )


def read_reward_examples(path: Path, space: KnobSpace) -> ScoredOutcomes | PreferredOutcomes:
    """Examples in a .csv or .parquet file with the columns of docs/rewards.md.

    Raises TrainError for missing columns, options outside `space` and values that are none; OutcomesError for a
    file that cannot be read.
    """
    scored = [*MEASURES, *space.names, "score"]
    sides = [f"{side}{name}" for side in (PREFERRED, REJECTED) for name in (*MEASURES[:2], *space.names)]
    paired = ["budget_ms", *sides]
    table = read_columns(path, [], [*scored, *sides])
    present = set(column_names(table))
    expected = paired if present & set(sides) and "score" not in present else scored
    missing = [name for name in expected if name not in present]
    if missing:
        raise TrainError(
            f"{path}: columns {missing} are missing, got {column_names(table)[:40]}; expected {scored} for scores, "
            f"or {paired} for pairs"
        )

    def outcomes(prefix: str) -> JudgedOutcomes:
        values = {name: number_column(table, prefix + name, path, "a measure") for name in MEASURES[:2]}
        budget = number_column(table, "budget_ms", path, "a measure")
        try:
            return JudgedOutcomes(space=space, actions=_actions(prefix), **values, budget_ms=budget)
        except (TrainError, KnobError) as error:
            where = f"{prefix}*: " if prefix else ""
            raise TrainError(f"{path}: {where}{error}") from error

    def _actions(prefix: str) -> np.ndarray:
        columns = {name: option_column(table, prefix + name, path) for name in space.names}
        shape = tuple(len(options) for _, options in columns.values())
        flat = np.ravel_multi_index(tuple(codes for codes, _ in columns.values()), shape)
        distinct, place = np.unique(flat, return_inverse=True)
        places = np.stack(np.unravel_index(distinct, shape), axis=1)
        found: list[Configuration] = [
            {name: columns[name][1][index] for name, index in zip(space.names, row, strict=True)}
            for row in places.tolist()
        ]
        return space.actions(found)[place]

    if expected is scored:
        return ScoredOutcomes(outcomes=outcomes(""), scores=number_column(table, "score", path, "a measure"))
    return PreferredOutcomes(preferred=outcomes(PREFERRED), rejected=outcomes(REJECTED))


def _check(name: str, values: np.ndarray, fine: np.ndarray, expected: str) -> None:
    bad = np.flatnonzero(~(fine & np.isfinite(values)))
    if len(bad):
        raise TrainError(
            f"reward examples: {name} has {len(bad)} values that are not {expected} "
            f"(rows {bad[:5].tolist()}, first {values[bad[0]]:g}); correct or drop these rows"
        )
