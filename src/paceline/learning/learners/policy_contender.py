"""A trained policy as a contender."""

import numpy as np

from paceline.errors import ControllerError
from paceline.learning.learners.contender import Contender, ValueContender, allowed, pick
from paceline.learning.problem import Problem, Scorer
from paceline.policies.numpy_policy import NumpyPolicy

ROWS_AT_ONCE = 4096


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
        logits = _scores(self.policy, self.columns, self.scale, problem, budget_ms, price)
        return pick(logits, problem.mean_ms, allowed(problem, budget_ms))


def policy_scorer(policy: NumpyPolicy, actions: np.ndarray, *, scale: float = 1.0) -> Scorer:
    """Scores of an accuracy policy on the accuracy scale, for tables that tested `actions`.

    `scale`: the time of the machine that is judged over that of the machine the policy was trained for. Raises
    ControllerError if the policy chooses among configurations that were not tested, or gives logits.
    """
    if policy.spec.output != "accuracy":
        raise ControllerError(
            f"policy: its outputs are {policy.spec.output}, which have no accuracy scale; use policy_contender"
        )
    columns = policy_columns(policy, actions)

    def score(problem: Problem, budget_ms: float | None) -> np.ndarray:
        return policy.spec.temperature * _scores(policy, columns, scale, problem, budget_ms, 0.0)

    return score


def policy_columns(policy: NumpyPolicy, actions: np.ndarray) -> np.ndarray:
    """Columns of a table that tested `actions` which the policy chooses among; ControllerError if some are missing."""
    chosen = np.asarray(policy.spec.actions, dtype=np.int64)
    missing = np.setdiff1d(chosen, actions)
    if len(missing):
        raise ControllerError(
            f"controller: {len(missing)} of its {len(chosen)} configurations were not tested in these outcomes "
            f"(actions {missing[:8].tolist()}...); evaluate it on a profile of these configurations, or one that was "
            "trained on configurations of these outcomes"
        )
    return np.searchsorted(actions, chosen)


def _scores(
    policy: NumpyPolicy,
    columns: np.ndarray,
    scale: float,
    problem: Problem,
    budget_ms: float | None,
    price: float,
) -> np.ndarray:
    """The policy's scores in the columns of the problem, -inf elsewhere."""
    on_profile = None if budget_ms is None else budget_ms / scale
    full_ms = problem.mean_ms[:, problem.full] / scale
    values = np.full(problem.accuracy.shape, -np.inf)
    for start in range(0, len(values), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        told = policy.spec.told_ms(on_profile, full_ms[rows])
        values[rows, columns] = policy.scores(
            problem.image_features[rows], problem.question_features[rows], told, price
        )
    return values
