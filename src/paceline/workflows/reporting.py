"""What a report shows beyond the results object."""

from typing import Any

import numpy as np

from paceline.evaluation.baselines import hard_policy, hard_static, static_shares
from paceline.evaluation.policy_scorer import policy_scorer
from paceline.evaluation.problem import problem_of
from paceline.evaluation.splits import fit_and_test
from paceline.outcomes.table import OutcomeTable
from paceline.runtime.controller import Controller


def measured_latencies(
    controller: Controller, table: OutcomeTable, results: dict[str, Any]
) -> dict[str, dict[str, list[np.ndarray]]]:
    """Measured latencies in ms of what each contender chooses on the timed test samples.

    Keys: "hard", then contender; one array (timed samples,) per hard budget of `results`, empty where nothing
    that was chosen had been timed.
    """
    fit_table, test_table, _ = fit_and_test(table)
    fit, test = problem_of(fit_table, controller.latency), problem_of(test_table, controller.latency)
    scorer = policy_scorer(controller.policy, table.actions, scale=controller.latency.scale)
    violation_rate = results["provenance"]["violation_rate"]

    def measured(shares: np.ndarray) -> np.ndarray:
        chosen = test.measured_ms[np.arange(len(shares)), shares.argmax(axis=1)]
        return chosen[np.isfinite(chosen)]

    budgets = results["hard"]["budgets_ms"]
    return {
        "hard": {
            "paceline": [measured(hard_policy(scorer, test, b)) for b in budgets],
            "best_static": [measured(hard_static(fit, test, b, violation_rate)) for b in budgets],
            "full": [measured(static_shares(test, fit.full)) for b in budgets],
        }
    }
