"""A trained policy as a scorer, and what one of its decisions costs."""

import time
from typing import Any

import numpy as np

from paceline.errors import ControllerError
from paceline.evaluation.pricing import pick
from paceline.evaluation.problem import Problem, Scorer
from paceline.latency.estimate import LatencyEstimator
from paceline.outcomes.table import OutcomeTable
from paceline.policies.numpy_policy import NumpyPolicy

ROWS_AT_ONCE = 4096
TIMED_DECISIONS = 200


def policy_scorer(policy: NumpyPolicy, actions: np.ndarray, *, scale: float = 1.0) -> Scorer:
    """Scores of a policy on the accuracy scale, for tables that tested `actions`.

    A logits policy's are its log-probabilities at price 0: a scorer has no way to tell it the price.
    `scale`: the time of the machine that is judged over that of the machine the policy was trained for. Raises
    ControllerError if the policy chooses among configurations that were not tested.
    """
    chosen = np.asarray(policy.spec.actions, dtype=np.int64)
    missing = np.setdiff1d(chosen, actions)
    if len(missing):
        raise ControllerError(
            f"controller: {len(missing)} of its {len(chosen)} configurations were not tested in these outcomes "
            f"(actions {missing[:8].tolist()}...); evaluate it on a profile of these "
            "configurations, or train one without score_untested"
        )
    columns = np.searchsorted(actions, chosen)

    def score(problem: Problem, budget_ms: float | None) -> np.ndarray:
        on_profile = None if budget_ms is None else budget_ms / scale
        full_ms = problem.mean_ms[:, problem.full] / scale
        values = np.full(problem.accuracy.shape, -np.inf)
        for start in range(0, len(values), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            told = policy.spec.told_ms(on_profile, full_ms[rows])
            scores = policy.scores(problem.image_features[rows], problem.question_features[rows], told)
            values[rows, columns] = policy.spec.temperature * scores
        return values

    return score


def decision_overhead(
    policy: NumpyPolicy, latency: LatencyEstimator, table: OutcomeTable, *, budget_ms: float, full_ms: float
) -> dict[str, Any]:
    """Time of one decision at batch 1: scores, latency bounds and the choice; features are computed anyway."""
    chosen = np.asarray(policy.spec.actions, dtype=np.int64)
    columns = np.searchsorted(table.actions, chosen)
    rows = np.arange(TIMED_DECISIONS + 20) % table.samples
    seconds = []
    for row in rows:
        work = tuple(part[row, columns] for part in (table.tiles, table.vision_tokens, table.prompt_tokens))
        start = time.perf_counter()
        told = policy.spec.told_ms(budget_ms, full_ms)
        scores = policy.scores(table.image_features[row], table.question_features[row], told)
        mean, upper = latency.mean_and_upper(chosen, *work)
        pick(scores[None], mean[None], upper[None] <= budget_ms)
        seconds.append(time.perf_counter() - start)
    decision_ms = 1000 * np.quantile(seconds[20:], [0.5, 0.95])
    return {
        "decision_ms_p50": float(decision_ms[0]),
        "decision_ms_p95": float(decision_ms[1]),
        "full_latency_ms": full_ms,
        "share": float(decision_ms[0] / full_ms),
        "covers": "policy scores, latency bounds and choice, batch 1, numpy",
    }
