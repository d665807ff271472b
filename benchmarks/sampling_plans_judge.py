"""The judge of replayed plans: one test split, the outcomes of every configuration, both kinds of budget."""

from collections.abc import Mapping, Sequence

import numpy as np

from paceline.errors import OutcomesError
from paceline.evaluation import baselines
from paceline.evaluation.budget_grid import budget_grid
from paceline.evaluation.choices import priced
from paceline.evaluation.metrics import sample_accuracy
from paceline.evaluation.pricing import one_hot
from paceline.evaluation.splits import fit_and_test
from paceline.evaluation.times import fit_latency
from paceline.learning.learners.contender import ValueContender
from paceline.learning.problem import Scorer, problem_of
from paceline.outcomes.table import OutcomeTable

MODES = ("hard", "average")
VIOLATION_RATE = 0.1
"""Promised to all alike: few samples are timed, and a smaller rate needs more of them to be calibrated."""


class Judge:
    """The test samples of one seed, with the outcomes of the whole space."""

    def __init__(self, table: OutcomeTable) -> None:
        self.table = table
        self.latency = fit_latency(table, violation_rate=VIOLATION_RATE)
        fit_table, test_table, _ = fit_and_test(table)
        fit = problem_of(fit_table, self.latency)
        self.unit_ms = fit.unit_ms
        self.fit = fit.with_unit(fit.unit_ms)
        self.test = problem_of(test_table, self.latency).with_unit(fit.unit_ms)
        self.budgets_ms = budget_grid(self.fit.configuration_mean_ms, self.unit_ms)[0]
        hull = baselines.best_mix(self.fit)
        rate, unit, shape = VIOLATION_RATE, self.unit_ms, self.test.accuracy.shape
        self.static = {
            "hard": self._means(
                [baselines.hard_static(self.fit, self.test, b, rate) for b in self.budgets_ms]
            ),
            "average": self._means([hull.shares(b, *shape) for b in self.budgets_ms]),
        }
        self.oracle = {
            "hard": self._means([baselines.hard_oracle(self.test, b) for b in self.budgets_ms]),
            "average": self._means([baselines.average_oracle(self.test, b, unit) for b in self.budgets_ms]),
        }

        for mode in MODES:
            if (self.oracle[mode] - self.static[mode]).mean() <= 0:
                raise OutcomesError(
                    f"sampling plans: under {mode} budgets the oracle is no better than the best static configuration; "
                    "if the machine was busy while it timed, profile again on an idle one"
                )

    def accuracy(self, scorer: Scorer) -> dict[str, np.ndarray]:
        """Accuracy of a controller at every budget, hard and average."""
        contender = ValueContender(scorer)
        choose = priced(contender, self.fit, self.test)
        average = [choose(budget) for budget in self.budgets_ms]
        shape = self.test.accuracy.shape
        hard = [one_hot(contender.choose(self.test, budget, 0.0), *shape) for budget in self.budgets_ms]
        return {"hard": self._means(hard), "average": self._means(average)}

    def closed_gap(self, accuracy: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Share of the way from best static to oracle, of the accuracies' means over budgets."""
        return {
            mode: float((values - self.static[mode]).mean() / (self.oracle[mode] - self.static[mode]).mean())
            for mode, values in accuracy.items()
        }

    def time_share(self, actions: np.ndarray) -> float:
        """Model time of the tested configurations, as a share of all; one answer each at batch 1."""
        mean = self.fit.configuration_mean_ms
        return float(mean[np.isin(self.fit.actions, actions)].sum() / mean.sum())

    def _means(self, shares: Sequence[np.ndarray]) -> np.ndarray:
        return np.array([sample_accuracy(self.test, part).mean() for part in shares])
