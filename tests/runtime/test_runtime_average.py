"""Average budgets: the steered mean meets the target, whatever the estimate's bias."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from controllers import context, controller, rows_to_serve
from paceline.errors import BudgetError, ControllerError
from paceline.runtime.average import AverageBudget, PriceTable

REQUESTS = 200


def serve(stream, bias, seed=0, rows=None, count=REQUESTS):
    """Run a stream over the test split; the machine takes `bias` x the profile's measured time."""
    measured = rows_to_serve().latency_ms
    rows = np.random.default_rng(seed).integers(0, len(measured), count) if rows is None else rows
    actions = []
    for row in rows:
        made = controller().decide(context(int(row)), average=stream)
        stream.reserve(made.predicted_ms)
        stream.record(predicted_ms=made.predicted_ms, measured_ms=bias * float(measured[row, made.action]))
        actions.append(made.action)
    return actions


@pytest.mark.parametrize("bias", [1 / 1.15, 1.0, 1.15])
@pytest.mark.parametrize("average", [5.0, 6.0, 7.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_mean_of_200_requests_is_within_3_percent(average, bias, seed):
    stream = AverageBudget(average)
    serve(stream, bias, seed)
    assert stream.count == REQUESTS
    assert stream.mean_ms == pytest.approx(average, rel=0.03)


def test_without_steering_a_biased_estimate_misses():
    measured = rows_to_serve().latency_ms
    rows = np.random.default_rng(0).integers(0, len(measured), REQUESTS)
    spent = [1.15 * measured[r, controller().decide(context(int(r)), average=6.0).action] for r in rows]
    assert np.mean(spent) > 1.05 * 6.0


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_the_mean_holds_when_all_requests_are_alike(share):
    unpriced = controller().decide(context(3)).predicted_ms
    average = controller().decide(context(3), average=4.5).predicted_ms * (1 - share) + unpriced * share
    stream = AverageBudget(average)
    serve(stream, 1.0, rows=[3] * REQUESTS)
    assert stream.mean_ms == pytest.approx(average, rel=0.03)


def test_the_mean_holds_when_traffic_turns_hard_half_way():
    rows = rows_to_serve()
    wide = np.argsort(rows.tiles[:, -1], kind="stable")
    stream = AverageBudget(6.0)
    serve(stream, 1.0, rows=[*wide[:100], *wide[100:]])
    assert stream.mean_ms == pytest.approx(6.0, rel=0.03)


def test_steering_is_deterministic():
    first, second = AverageBudget(6.0), AverageBudget(6.0)
    assert serve(first, 1.1) == serve(second, 1.1)
    assert first.price(controller().prices) == second.price(controller().prices)


def test_price_starts_fitted_and_answers_excess():
    prices = PriceTable(np.array([4.0, 8.0]), np.array([2.0, 0.0]))
    stream = AverageBudget(6.0)
    start = stream.price(prices)
    assert start == pytest.approx(prices.price(6.0))
    assert 0.0 < start < 2.0
    assert stream.price(prices, scale=1.5) == pytest.approx(2.0)  # 6 ms here are 4 ms there
    stream.reserve(6.0)
    stream.record(predicted_ms=6.0, measured_ms=9.0)
    assert stream.price(prices) > start
    assert stream.bias > 1
    for _ in range(20):
        stream.reserve(6.0)
        stream.record(predicted_ms=6.0, measured_ms=3.0)
    assert stream.price(prices) < start
    assert stream.bias < 1


def test_a_stream_in_debt_pays_even_where_time_was_free():
    prices = PriceTable(np.array([4.0, 5.0]), np.array([2.0, 0.0]))
    stream = AverageBudget(6.0)
    assert stream.price(prices) == pytest.approx(0.0, abs=1e-12)
    stream.reserve(6.0)
    stream.record(predicted_ms=6.0, measured_ms=7.0)
    assert stream.price(prices) > 0


def test_requests_under_way_count_as_predicted():
    prices = PriceTable(np.array([4.0, 8.0]), np.array([2.0, 0.0]))
    stream = AverageBudget(6.0)
    start = stream.price(prices)
    stream.reserve(12.0)
    raised = stream.price(prices)
    assert raised > start
    stream.cancel(12.0)
    assert stream.price(prices) == pytest.approx(start)
    assert stream.count == 0
    assert math.isnan(stream.mean_ms)


def test_debt_is_bounded():
    prices = PriceTable(np.array([4.0, 8.0]), np.array([2.0, 0.5]))
    stream = AverageBudget(6.0)
    for _ in range(500):
        stream.reserve(3.0)
        stream.record(predicted_ms=3.0, measured_ms=3.0)
    lowest = stream.price(prices)
    assert lowest >= 0.5 * math.exp(-0.25 * 25) - 1e-9
    for _ in range(60):
        stream.reserve(12.0)
        stream.record(predicted_ms=12.0, measured_ms=12.0)
    assert stream.price(prices) > 2.0


def test_threads_lose_no_request():
    stream = AverageBudget(6.0)

    def one(index):
        stream.reserve(5.0)
        stream.price(controller().prices)
        stream.record(predicted_ms=5.0, measured_ms=4.0 + (index % 2))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(2000)))
    assert stream.count == 2000
    assert stream.mean_ms == pytest.approx(4.5)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, True, "soon", None])
def test_bad_targets(value):
    with pytest.raises(BudgetError, match="average_budget_ms: got"):
        AverageBudget(value)


def test_misuse():
    stream = AverageBudget(6.0)
    with pytest.raises(BudgetError, match="never reserved"):
        stream.cancel(3.0)
    stream.reserve(3.0)
    with pytest.raises(BudgetError, match="measured nan ms"):
        stream.record(predicted_ms=3.0, measured_ms=math.nan)


@pytest.mark.parametrize(
    ("budgets", "prices", "message"),
    [
        ([4.0, 8.0], [1.0], "as many finite numbers"),
        ([], [], "as many finite numbers"),
        ([4.0, math.nan], [1.0, 0.0], "as many finite numbers"),
        ([8.0, 4.0], [1.0, 0.0], "positive ascending"),
        ([4.0, 8.0], [0.0, 1.0], "never rise"),
        ([4.0, 8.0], [1.0, -1.0], "never rise"),
    ],
)
def test_bad_price_tables(budgets, prices, message):
    with pytest.raises(ControllerError, match=message):
        PriceTable(np.array(budgets), np.array(prices))


def test_prices_are_met_at_the_rows_and_flat_beyond():
    prices = controller().prices
    assert prices.prices[-1] == 0.0
    for budget, price in zip(prices.budgets_ms, prices.prices, strict=True):
        assert prices.price(float(budget)) == pytest.approx(price, abs=1e-9)
    assert prices.price(1e-3) == pytest.approx(prices.prices[0])
    assert prices.price(1e6) == pytest.approx(0.0, abs=1e-12)
