"""Prices for choices that read them: the search over a grid, and a controller built from such a policy."""

import math

import numpy as np
import pytest
import torch

from controllers import context, fit_latency, rows_to_serve, table
from paceline.errors import TrainError
from paceline.learning.contexts import ContextRanges, sample_contexts
from paceline.learning.options import TrainOptions
from paceline.learning.price_curve import PriceCurve
from paceline.learning.train import train_controller_policy
from paceline.policies.decision import action_logits
from paceline.runtime.controller import Controller

RANGES = ContextRanges(budget_low_ms=5.0, budget_high_ms=20.0, price_low=0.1, price_high=10.0)


def test_curve_by_hand():
    latency = np.array([[10.0, 40.0], [20.0, 60.0]])

    def choose_at(price: float) -> np.ndarray:  # sample 0 is cheap from 0.5 on, sample 1 from 2 on
        return np.array([int(price < 0.5), int(price < 2.0)])

    curve = PriceCurve.measure(choose_at, latency, 0.1, 10.0)
    assert curve.prices[[0, 1, -1]] == pytest.approx([0.0, 0.1, 10.0])
    assert sorted(set(curve.mean_ms)) == [15.0, 35.0, 50.0]
    assert curve.price(50.0) == 0.0
    assert 0.5 <= curve.price(49.0) < 0.6
    assert 2.0 <= curve.price(34.0) < 2.3
    with pytest.raises(TrainError, match="got 14 ms, but the choices take 15 ms on average at the price"):
        curve.price(14.0)
    with pytest.raises(TrainError, match="got no samples to fit the price"):
        PriceCurve.measure(choose_at, latency[:0], 0.1, 10.0)


def test_a_curve_that_rises_again_gives_the_most_time_within_the_budget():
    curve = PriceCurve(prices=np.array([0.0, 0.1, 0.2, 0.3]), mean_ms=np.array([40.0, 10.0, 20.0, 20.0]))
    assert [curve.price(budget) for budget in (40.0, 30.0, 15.0)] == [0.0, 0.2, 0.1]


def test_contexts_with_a_budget_and_a_price():
    generator = torch.Generator().manual_seed(0)
    budget, price = sample_contexts((8000,), RANGES, 0.5, generator, mixed_share=0.2)
    hard = budget < math.inf
    assert hard.float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert (price > 0)[hard].float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert (price == 0)[~hard].float().mean().item() == pytest.approx(0.2, abs=0.02)
    both = hard & (price > 0)
    budgets, prices = budget[both].log(), price[both].log()
    assert abs(torch.corrcoef(torch.stack([budgets, prices]))[0, 1].item()) < 0.1  # drawn apart
    plain = sample_contexts((8000,), RANGES, 0.5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(plain[0], budget)


@pytest.fixture(scope="module")
def reader() -> Controller:
    """A controller whose policy reads the price."""
    latency, first = fit_latency(table(), table().latency_ms), fit_latency(table(), table().first_token_ms)
    options = TrainOptions(algorithm="supervised", members=1, hidden=24, batch_size=50, warm_epochs=40)
    trained = train_controller_policy(table(), latency, options)
    assert trained.spec.output == "logits"
    return Controller.from_training(trained, table(), latency, first)


def test_average_budgets_are_met_by_a_policy_that_reads_the_price(reader):
    prices = reader.prices
    assert (np.diff(prices.prices) <= 0).all()
    assert prices.prices[0] > 0
    low, high = float(prices.budgets_ms[0]), float(prices.budgets_ms[-1])
    assert high > 1.3 * low  # the price moves its choices
    spent = []
    for average in np.linspace(1.02 * low, 0.98 * high, 4):
        made = [
            reader.decide(context(i), average=float(average)) for i in range(len(rows_to_serve().accuracy))
        ]
        spent.append(np.mean([decision.predicted_ms for decision in made]))
        assert spent[-1] <= 1.1 * average  # fitted on validation, judged on test
    assert spent[-1] > 1.2 * spent[0]


def test_its_decisions_are_the_policys_own_at_the_fitted_price(reader):
    middle = float(np.median(reader.prices.budgets_ms))
    made = reader.decide(context(3), average=middle)
    asked = context(3)
    own = reader.policy.scores(asked.image_features, asked.question_features, None, made.price)
    assert made.price == pytest.approx(reader.prices.price(middle))
    np.testing.assert_allclose(made.candidates.values, own, atol=1e-6)
    assert made.action == reader.actions[own.argmax()]
    assert "value" in made.explain()


def test_it_survives_saving(reader, tmp_path):
    reader.save(tmp_path)
    again = Controller.load(tmp_path)
    assert again.policy.spec == reader.policy.spec
    assert again.fingerprint == reader.fingerprint
    for budgets in ({"budget_ms": 9.0}, {"average": 8.0}, {}):
        assert again.decide(context(1), **budgets).action == reader.decide(context(1), **budgets).action


def test_prices_are_met_on_the_validation_split(reader):
    rows = table().split_rows("validation")
    mean_ms = reader.latency.mean(reader.actions, rows.tiles, rows.vision_tokens, rows.prompt_tokens)
    for budget, price in zip(reader.prices.budgets_ms, reader.prices.prices, strict=True):
        scores = reader.policy.scores(rows.image_features, rows.question_features, None, float(price))
        logits = action_logits(reader.policy.spec, scores, mean_ms, float(price), full_latency_ms=1.0)
        assert mean_ms[np.arange(len(mean_ms)), logits.argmax(axis=1)].mean() <= budget * (1 + 1e-9)
