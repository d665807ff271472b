"""What one decision of a policy costs."""

import time
from typing import Any

import numpy as np

from paceline.latency.estimate import LatencyEstimator
from paceline.latency.quantity import LATENCY, Quantity
from paceline.outcomes.table import OutcomeTable
from paceline.policies.decision import choose_one
from paceline.policies.numpy_policy import NumpyPolicy

TIMED_DECISIONS = 200


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
        features = table.image_features[row], table.question_features[row]
        values = policy.values(*features, None if told is None else float(told), 0.0)
        mean, upper = latency.mean_and_upper(chosen, *work)
        choose_one(values, mean, upper <= budget_ms)
        seconds.append(time.perf_counter() - start)
    decision_ms = 1000 * np.quantile(seconds[20:], [0.5, 0.95])
    return {
        "decision_ms_p50": float(decision_ms[0]),
        "decision_ms_p95": float(decision_ms[1]),
        "full_latency_ms": full_ms,
        "share": float(decision_ms[0] / full_ms) if Quantity.of(latency.facts).kind == LATENCY else None,
        "covers": "policy scores, latency bounds and choice, batch 1, numpy",
    }
