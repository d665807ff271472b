"""The decision rule: a price of time turns scores into logits, the guard's feasible set limits the choice."""

import numpy as np

from paceline.policies.numpy_policy import NumpyPolicy
from paceline.policies.spec import PolicySpec


def priced_logits(
    scores: np.ndarray,
    mean_latency_ms: np.ndarray,
    price: np.ndarray | float,
    *,
    full_latency_ms: float,
    temperature: float,
) -> np.ndarray:
    """Scores less the price of the time they take: (..., actions).

    `price` is accuracy per full configuration's latency; an array has one entry per row.
    logits = score - price * mean_latency / full_latency / temperature.

    >>> priced_logits(np.array([10.0, 12.0]), np.array([20.0, 40.0]), 0.2, full_latency_ms=40.0, temperature=0.1)
    array([ 9., 10.])
    """
    charge = np.asarray(price)[..., None] / (full_latency_ms * temperature)
    return scores - charge * mean_latency_ms


def action_logits(
    spec: PolicySpec,
    scores: np.ndarray,
    mean_latency_ms: np.ndarray,
    price: np.ndarray | float,
    *,
    full_latency_ms: float,
) -> np.ndarray:
    """What `choose` maximises, from scores (..., actions) made under this price.

    Accuracy policies are charged the price here (`priced_logits`); logits policies have read it already. Beyond the
    highest price that they read nothing but time counts, so that any average budget can be met that something meets.
    """
    if spec.output == "logits":
        beyond = np.asarray(price)[..., None] > spec.highest_price
        return np.where(beyond, -mean_latency_ms, scores) if beyond.any() else scores
    return priced_logits(
        scores, mean_latency_ms, price, full_latency_ms=full_latency_ms, temperature=spec.temperature
    )


def context_logits(
    policy: NumpyPolicy,
    image_features: np.ndarray,
    question_features: np.ndarray,
    *,
    budget_ms: np.ndarray | float | None,
    price: np.ndarray | float,
    mean_latency_ms: np.ndarray,
    full_latency_ms: float,
) -> np.ndarray:
    """Final logits (batch, actions) of either kind of policy under budgets and prices, one or one per row.

    `budget_ms` is of the machine that was profiled; `mean_latency_ms` (batch, actions) and `full_latency_ms`
    share any other machine's scale.
    """
    scores = policy.scores(image_features, question_features, budget_ms, price)
    return action_logits(policy.spec, scores, mean_latency_ms, price, full_latency_ms=full_latency_ms)


def choose(logits: np.ndarray, mean_latency_ms: np.ndarray, feasible: np.ndarray) -> np.ndarray:
    """Column of the best logit among the feasible ones, per row; ties go to the cheaper; -1 where nothing fits.

    All arguments (..., actions); the result is int64 (...).

    >>> choose(np.array([1.0, 1.0, 5.0]), np.array([30.0, 20.0, 90.0]), np.array([True, True, False]))
    array(1)
    """
    masked = np.where(feasible, logits, -np.inf)
    best = masked.max(axis=-1, keepdims=True)
    cost = np.where(feasible & (masked == best), mean_latency_ms, np.inf)
    return np.where(feasible.any(axis=-1), cost.argmin(axis=-1), -1).astype(np.int64)


MINUS_INFINITY = np.float32(-np.inf)


def choose_one(logits: np.ndarray, mean_latency_ms: np.ndarray, feasible: np.ndarray) -> int:
    """`choose` of one request, arrays (actions,), in fewer steps.

    >>> choose_one(np.array([1.0, 1.0, 5.0]), np.array([30.0, 20.0, 90.0]), np.array([True, True, False]))
    1
    """
    masked = np.where(feasible, logits, MINUS_INFINITY)
    column = int(masked.argmax())
    best = masked[column]
    if best == MINUS_INFINITY:  # nothing fits, or nothing that fits has a finite logit
        return int(choose(logits, mean_latency_ms, feasible))
    tied = masked == best
    if np.count_nonzero(tied) == 1:
        return column
    return int(np.where(tied, mean_latency_ms, np.inf).argmin())
