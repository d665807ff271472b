"""Policies that read the price of time and whose outputs are action logits; older ones beside them."""

import math

import numpy as np
import pytest
import torch

from paceline.budgets import encode_budget
from paceline.errors import ControllerError
from paceline.knobs import Knob, KnobSpace
from paceline.policies.context_code import encode_context, encode_price
from paceline.policies.decision import action_logits, context_logits, priced_logits
from paceline.policies.feature_scaling import FeatureScaling
from paceline.policies.network import PolicyNetwork, export_arrays
from paceline.policies.numpy_policy import NumpyPolicy
from paceline.policies.spec import PolicySpec

SPACE = KnobSpace((Knob(name="crops", options=(2, 4, 6)), Knob(name="top_k", options=(4, 8))))
READS_PRICE: dict = {"output": "logits", "price_low": 0.1, "price_high": 10.0, "temperature": 1.0}


def make_spec(**changes: object) -> PolicySpec:
    values: dict = {
        "head": "joint",
        "members": 3,
        "image_width": 4,
        "question_width": 3,
        "hidden": 8,
        "budget_low_ms": 10.0,
        "budget_high_ms": 50.0,
        "full_latency_ms": 50.0,
        "actions": (0, 1, 3, 5),
    }
    return PolicySpec(**(values | changes))


PLAIN = FeatureScaling(method="standard", first=np.zeros(7, np.float32), second=np.ones(7, np.float32))


def make_policy(spec: PolicySpec) -> tuple[PolicyNetwork, NumpyPolicy]:
    network = PolicyNetwork(spec, SPACE, dropout=0.1, generator=torch.Generator().manual_seed(0))
    arrays = export_arrays(network, PLAIN)
    return network, NumpyPolicy(spec, arrays)


def test_price_code_by_hand():
    code = encode_price(np.array([0.0, 0.1, 1.0, 10.0]), low=0.1, high=10.0, dimensions=2)
    angle = math.pi / 4  # position 1/2 at the lowest frequency, pi / 2
    expected = [[0, 0, 1], [0, 1, 0], [math.sin(angle), math.cos(angle), 0], [1, 0, 0]]
    np.testing.assert_allclose(code, expected, atol=1e-6)
    assert code.dtype == np.float32
    far = encode_price(np.array([1e3, 1e6]), low=0.1, high=10.0)
    np.testing.assert_array_equal(far[0], far[1])  # clipped beyond the range


def test_context_code_is_budget_then_price():
    budgets, prices = np.array([20.0, np.inf]), np.array([0.0, 0.5])
    plain = encode_context(make_spec(), budgets, prices)
    np.testing.assert_array_equal(plain, encode_budget(budgets, low_ms=10.0, high_ms=50.0))
    spec = make_spec(**READS_PRICE)
    both = encode_context(spec, budgets, prices)
    assert both.shape == (2, spec.code_width) == (2, 65)
    np.testing.assert_array_equal(both[:, :32], plain)
    np.testing.assert_array_equal(both[:, 32:], encode_price(prices, low=0.1, high=10.0))
    np.testing.assert_array_equal(encode_context(spec, None, prices)[1], both[1])  # broadcast


@pytest.mark.parametrize("price", [-0.1, float("nan")])
def test_prices_that_cannot_be(price):
    with pytest.raises(ControllerError, match="expected accuracy per full latency, 0 or more"):
        encode_price(price, low=0.1, high=10.0)


@pytest.mark.parametrize("head", ["joint", "independent"])
def test_numpy_policy_equals_the_network_and_reads_the_price(head):
    spec = make_spec(head=head, **READS_PRICE)
    network, policy = make_policy(spec)
    rng = np.random.default_rng(0)
    features = rng.normal(0.0, 1.0, (20, 7)).astype(np.float32)
    budgets, prices = np.append(rng.uniform(5, 80, 19), np.inf), np.append(0.0, rng.uniform(0.1, 10.0, 19))
    codes = torch.from_numpy(encode_context(spec, budgets, prices))
    rows = torch.from_numpy(PLAIN.apply(features))
    with torch.no_grad():
        outputs = network(rows.expand(3, -1, -1), codes.expand(3, -1, -1))
        expected = network.mean_scores(outputs).numpy()
    torch.testing.assert_close(torch.from_numpy(expected), outputs.mean(dim=0))  # no sigmoid, no temperature
    got = policy.scores(features[:, :4], features[:, 4:], budgets, prices)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    one = policy.scores(features[7, :4], features[7, 4:], float(budgets[7]), float(prices[7]))
    np.testing.assert_allclose(one, got[7], atol=1e-6)
    free = policy.scores(features[:, :4], features[:, 4:], budgets)
    assert (np.abs(free - got).max(axis=1)[1:] > 1e-4).all()
    np.testing.assert_allclose(free[0], got[0], atol=1e-6)  # its price is 0


def test_final_logits_of_both_kinds():
    rng = np.random.default_rng(1)
    image, question = rng.normal(size=(5, 4)), rng.normal(size=(5, 3))
    mean_ms, price = rng.uniform(10, 50, (5, 4)), np.linspace(0.0, 2.0, 5)
    context = {"budget_ms": None, "price": price, "mean_latency_ms": mean_ms, "full_latency_ms": 50.0}
    _, predicts = make_policy(make_spec())
    scores = predicts.scores(image, question)
    np.testing.assert_array_equal(predicts.scores(image, question, None, price), scores)
    charged = priced_logits(scores, mean_ms, price, full_latency_ms=50.0, temperature=0.05)
    np.testing.assert_array_equal(context_logits(predicts, image, question, **context), charged)
    _, reads = make_policy(make_spec(**READS_PRICE))
    final = reads.scores(image, question, None, price)
    np.testing.assert_array_equal(context_logits(reads, image, question, **context), final)
    same = action_logits(reads.spec, final, mean_ms, price, full_latency_ms=50.0)
    np.testing.assert_array_equal(same, final)


def test_older_specifications_are_of_accuracy_policies():
    value = make_spec().to_json()
    for name in ("output", "price_low", "price_high"):
        del value[name]
    assert PolicySpec.from_json(value) == make_spec()
    assert PolicySpec.from_json(value).output == "accuracy"
    spec = make_spec(**READS_PRICE)
    assert PolicySpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": "odds"}, "policy output: got 'odds', expected one of"),
        ({"price_low": 0.1, "price_high": 1.0}, "an accuracy policy does not read the price"),
        (READS_PRICE | {"price_low": None}, "policy prices: got None to 10.0, expected 0 < low < high"),
        (READS_PRICE | {"price_high": 0.1}, "policy prices: got 0.1 to 0.1"),
        (READS_PRICE | {"temperature": 0.05}, "policy temperature: got 0.05, expected 1"),
    ],
)
def test_specifications_that_cannot_be(changes, message):
    with pytest.raises(ControllerError, match=message):
        make_spec(**changes)
