"""A trained policy as a contender."""

import numpy as np

from paceline.evaluation.policy_scorer import ROWS_AT_ONCE, policy_columns, policy_scorer
from paceline.learning.learners.contender import Contender, ValueContender, allowed, pick
from paceline.learning.problem import Problem
from paceline.policies.numpy_policy import NumpyPolicy


def policy_contender(policy: NumpyPolicy, actions: np.ndarray, *, scale: float = 1.0) -> Contender:
    """A policy that chooses among tested `actions`; see `policy_scorer`."""
    if policy.spec.output == "logits":
        return LogitsContender(policy, actions, scale)
    return ValueContender(policy_scorer(policy, actions, scale=scale))


class LogitsContender:
    """A policy that reads the price of time."""

    def __init__(self, policy: NumpyPolicy, actions: np.ndarray, scale: float) -> None:
        self.policy, self.scale = policy, scale
        self.columns = policy_columns(policy, actions)

    def choose(self, problem: Problem, budget_ms: float | None, price: float) -> np.ndarray:
        """See `Contender.choose`."""
        told = None if budget_ms is None else budget_ms / self.scale
        values = np.full(problem.accuracy.shape, -np.inf)
        for start in range(0, len(values), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            values[rows, self.columns] = self.policy.scores(
                problem.image_features[rows], problem.question_features[rows], told, price
            )
        return pick(values, problem.mean_ms, allowed(problem, budget_ms))
