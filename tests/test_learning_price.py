"""The price of time: fitted on a validation set, and the range that training covers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.errors import TrainError
from paceline.learning.price import fit_price, mean_chosen_latency, price_range

UNITS = {"full_latency_ms": 40.0, "temperature": 0.05}
LATENCY = np.array([[10.0, 40.0], [10.0, 40.0]])
SCORES = np.array([[0.2, 0.8], [0.5, 0.6]]) / 0.05  # gains of 0.6 and 0.1 for 30 of 40 ms


@pytest.mark.parametrize(
    ("budget_ms", "price"),
    [
        (40.0, 0.0),  # does not bind
        (25.0, 0.1 / 0.75),  # the second sample gives way: 0.1 accuracy for 0.75 of the full latency
        (30.0, 0.1 / 0.75),
        (10.0, 0.6 / 0.75),
    ],
)
def test_price_by_hand(budget_ms, price):
    fitted = fit_price(SCORES, LATENCY, budget_ms, **UNITS)
    assert fitted == pytest.approx(price, rel=1e-6, abs=1e-9)
    assert mean_chosen_latency(SCORES, LATENCY, fitted, **UNITS) <= budget_ms


def test_infeasible_samples_count_with_their_cheapest():
    feasible = np.array([[False, False], [True, True]])
    assert mean_chosen_latency(SCORES, LATENCY, 0.0, feasible=feasible, **UNITS) == 25.0


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95))
def test_fitted_price_meets_the_budget_and_a_lower_one_does_not(seed, position):
    rng = np.random.default_rng(seed)
    latency = np.sort(rng.uniform(5.0, 50.0, (40, 6)), axis=1)
    scores = rng.uniform(0.0, 1.0, (40, 6)) / 0.05
    cheapest = latency.min(axis=1).mean()
    free = mean_chosen_latency(scores, latency, 0.0, **UNITS)
    budget = cheapest + position * (free - cheapest)
    price = fit_price(scores, latency, budget, **UNITS)
    assert mean_chosen_latency(scores, latency, price, **UNITS) <= budget
    assert price > 0
    assert mean_chosen_latency(scores, latency, price * (1 - 1e-6), **UNITS) > budget


@pytest.mark.parametrize(
    ("budget_ms", "message"),
    [
        (9.0, "at the highest price choices still take 10 ms"),
        (0.0, "expected a positive time"),
        (float("nan"), "got nan ms"),
    ],
)
def test_impossible_average_budgets(budget_ms, message):
    with pytest.raises(TrainError, match=message):
        fit_price(SCORES, LATENCY, budget_ms, **UNITS)


def test_no_samples():
    with pytest.raises(TrainError, match="got no samples to fit the price"):
        fit_price(np.empty((0, 2)), np.empty((0, 2)), 10.0, **UNITS)


@pytest.mark.parametrize(
    ("accuracy", "latency", "low", "high"),
    [
        ([0.5, 0.8, 0.9], [10.0, 20.0, 40.0], 0.05, 4.8),
        ([0.5, 0.1, 0.8, 0.9], [10.0, 15.0, 20.0, 40.0], 0.05, 4.8),  # what is below the hull changes nothing
        ([0.9, 0.8, 0.7], [10.0, 20.0, 40.0], 0.02, 20.0),  # the cheapest is best: everything is worth trying
        ([0.2, 0.5, 0.8, 0.9], [10.0, 10.0, 20.0, 40.0], 0.05, 4.8),  # two of the same latency
    ],
)
def test_price_range_follows_the_hull(accuracy, latency, low, high):
    got = price_range(np.array(accuracy), np.array(latency), 40.0)
    assert got == pytest.approx((low, high))
