"""What a report shows beyond the results object."""

from typing import Any

import numpy as np

from paceline.evaluation.baselines import hard_static, static_shares
from paceline.evaluation.splits import fit_and_test
from paceline.learning.learners.policy_contender import policy_contender
from paceline.learning.problem import problem_of
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
    paceline = policy_contender(controller.policy, table.actions, scale=controller.latency.scale)
    violation_rate = results["provenance"]["violation_rate"]

    def measured(columns: np.ndarray) -> np.ndarray:
        chosen = test.measured_ms[np.arange(len(columns)), columns]
        return chosen[np.isfinite(chosen)]

    budgets = results["hard"]["budgets_ms"]
    return {
        "hard": {
            "paceline": [measured(paceline.choose(test, b, 0.0)) for b in budgets],
            "best_static": [
                measured(hard_static(fit, test, b, violation_rate).argmax(axis=1)) for b in budgets
            ],
            "full": [measured(static_shares(test, fit.full).argmax(axis=1)) for b in budgets],
        }
    }
