"""What a chooser is judged on: accuracy, expected and upper latency of every sample under every configuration."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from paceline.errors import OutcomesError
from paceline.knobs import KnobSpace
from paceline.latency.estimate import LatencyEstimator
from paceline.outcomes.chunks import row_chunks
from paceline.outcomes.table import OutcomeTable


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Problem:
    """n samples, m configurations; every configuration was tested on every sample."""

    space: KnobSpace
    actions: np.ndarray  # int64 (m,)
    accuracy: np.ndarray  # float64 (n, m) in [0, 1]
    mean_ms: np.ndarray  # float64 (n, m): expected latency
    upper_ms: np.ndarray  # float64 (n, m): calibrated upper latency
    measured_ms: np.ndarray  # float64 (n, m); NaN = not timed
    kind: np.ndarray  # str (n,)
    scene: np.ndarray  # str (n,): equal for equal images
    image_features: np.ndarray  # float32 (n, image_width)
    question_features: np.ndarray  # float32 (n, question_width)

    def __post_init__(self) -> None:
        if np.isnan(self.accuracy).any() or not len(self.accuracy):
            raise OutcomesError(
                "evaluation: expected at least one sample and an outcome in every cell; select complete samples"
            )

    @property
    def configuration_mean_ms(self) -> np.ndarray:
        """Mean expected latency per configuration, (m,)."""
        return self.mean_ms.mean(axis=0)

    @property
    def cheapest(self) -> int:
        """Column of the configuration with the lowest mean latency."""
        return int(np.argmin(self.configuration_mean_ms))

    @property
    def full(self) -> int:
        """Column of the space's full configuration; of the slowest if the full one was not tested."""
        found = np.flatnonzero(self.actions == self.space.action(self.space.full))
        return int(found[0]) if len(found) else int(np.argmax(self.configuration_mean_ms))

    def feasible(self, budget_ms: float) -> np.ndarray:
        """bool (n, m): upper latency within the budget."""
        return self.upper_ms <= budget_ms


Scorer: TypeAlias = Callable[[Problem, float | None], np.ndarray]
"""(problem, budget in ms or None) -> values on the accuracy scale, (n, m); -inf where it never chooses."""


def problem_of(table: OutcomeTable, latency: LatencyEstimator) -> Problem:
    """The judged arrays of a table; expected and upper latencies come from the estimate for all contenders alike."""
    work = (table.tiles, table.vision_tokens, table.prompt_tokens)
    mean, upper = latency.mean_and_upper(table.actions, *work)
    return Problem(
        space=table.space,
        actions=table.actions,
        accuracy=table.accuracy.astype(np.float64),
        mean_ms=mean,
        upper_ms=upper,
        measured_ms=table.latency_ms.astype(np.float64),
        kind=table.kind,
        scene=table.image_hash,
        image_features=table.image_features,
        question_features=table.question_features,
    )


def fit_latency(
    table: OutcomeTable, *, first_token: bool = False, violation_rate: float = 0.05, seed: int = 0
) -> LatencyEstimator:
    """The latency estimate (whole call, or to the first token) from timed samples outside the test split.

    Where no first token was timed, as in some imports, the whole call's time stands in: it is never below it.
    """
    rows = table.split != "test"
    # A table mapped from files is not copied: the fit takes what it needs of it.
    first_token = first_token and any(
        np.isfinite(table.first_token_ms[part][rows[part]]).any()
        for part in row_chunks(*table.accuracy.shape)
    )
    return LatencyEstimator.fit(
        table.space,
        table.actions,
        table.tiles,
        table.vision_tokens,
        table.prompt_tokens,
        table.output_tokens,
        table.first_token_ms if first_token else table.latency_ms,
        samples=rows,
        violation_rate=violation_rate,
        seed=seed,
    )
