import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paceline.errors import TrainError
from paceline.knobs import SEED_SPACE, Knob, KnobSpace
from paceline.rewards import (
    RewardParams,
    configuration_complexity,
    masked_accuracy_reward,
    reward_v1,
    reward_v2,
)

PARAMS = RewardParams()


@pytest.mark.parametrize(
    ("accuracy", "latency", "budget", "expected"),
    [
        (1.0, 0.5, 0.5, 1.0),  # at the budget: neither penalty nor bonus
        (1.0, 0.7, 0.5, 1.0 - 0.5 * 0.2 - 10 * 0.04),
        (0.0, 1.5, 0.5, -0.5 - 10.0),
        (1.0, 0.25, 0.5, 1.0 + 0.1 * 0.5),
        (0.0, 0.0, 0.5, 0.1),
    ],
)
def test_v1_by_hand(accuracy, latency, budget, expected):
    assert reward_v1(accuracy, latency, budget, PARAMS) == pytest.approx(expected)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("accuracy", "latency", "budget", "complexity", "baseline", "expected"),
    [
        (1.0, 1.0, 1.0, 0.0, None, 1.0 - 0.25),  # half of beta at latency = budget
        (1.0, 1.2, 1.0, 1.0, None, 1.0 - 0.5 * sigmoid(2) - 10 * 0.04 - 0.05),
        (1.0, 0.5, 1.0, 0.5, None, 1.0 - 0.5 * sigmoid(-5) - 0.025 + 0.05),
        (0.8, 0.5, 1.0, 0.0, 0.6, 0.5 - 0.5 * sigmoid(-5) + 0.05),
        (0.6, 0.5, 1.0, 0.0, 0.6, 0.0 - 0.5 * sigmoid(-5) + 0.05),
    ],
)
def test_v2_by_hand(accuracy, latency, budget, complexity, baseline, expected):
    assert reward_v2(accuracy, latency, budget, complexity, PARAMS, baseline) == pytest.approx(
        expected, abs=1e-5
    )


def test_v1_and_v2_pay_for_being_cheap_and_the_default_hardly_does():
    # two configurations of equal accuracy, one at half the budget and one at a tenth
    fast, slow, budget = 0.1, 0.5, 1.0
    assert reward_v1(1.0, fast, budget, PARAMS) - reward_v1(1.0, slow, budget, PARAMS) == pytest.approx(0.04)
    gain_v2 = reward_v2(1.0, fast, budget, 0.2, PARAMS) - reward_v2(1.0, slow, budget, 0.8, PARAMS)
    assert gain_v2 > 0.06
    gain = (
        masked_accuracy_reward(1.0, fast, budget, 1.0)[0] - masked_accuracy_reward(1.0, slow, budget, 1.0)[0]
    )
    assert gain == pytest.approx(0.004)


def test_masked_reward_by_hand():
    accuracy = np.array([0.0, 0.5, 1.0])
    latency = np.array([10.0, 50.0, 100.0])
    reward, feasible = masked_accuracy_reward(accuracy, latency, 50.0, 100.0, price=0.3, tie_break=0.1)
    np.testing.assert_allclose(reward, [-0.04, 0.3, 0.6])
    np.testing.assert_array_equal(feasible, [True, True, False])
    assert masked_accuracy_reward(1.0, 7.0, math.inf, 10.0)[1] is True


def rewards_of(accuracy, latency, budget, complexity):
    masked, feasible = masked_accuracy_reward(accuracy, latency, budget, 2.0, price=0.2)
    return [
        reward_v1(accuracy, latency, budget, PARAMS),
        reward_v2(accuracy, latency, budget, complexity, PARAMS),
        reward_v2(accuracy, latency, budget, complexity, PARAMS, 0.3),
        masked,
        feasible,
    ]


def test_tensors_and_arrays_agree_and_broadcast():
    generator = np.random.default_rng(0)
    accuracy, latency = generator.random((5, 7)), generator.uniform(0.1, 2, (5, 7))
    budget, complexity = generator.uniform(0.1, 2, (5, 1)), np.tile(generator.random(7), (5, 1))
    arrays = rewards_of(accuracy, latency, budget, complexity)
    tensors = rewards_of(*(torch.from_numpy(x) for x in (accuracy, latency, budget, complexity)))
    for array, tensor in zip(arrays, tensors, strict=True):
        assert array.shape == (5, 7)
        np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-12)
    one = rewards_of(accuracy[2, 3], latency[2, 3], budget[2, 0], complexity[2, 3])
    for array, number in zip(arrays, one, strict=True):
        assert array[2, 3] == pytest.approx(number)


def test_gradients_flow_through_latency():
    latency = torch.tensor([0.5, 1.5], dtype=torch.float64, requires_grad=True)
    reward_v1(torch.ones(2), latency, 1.0, PARAMS).sum().backward()
    assert latency.grad is not None
    torch.testing.assert_close(latency.grad, torch.tensor([-0.1, -0.5 - 20 * 0.5], dtype=torch.float64))


@given(st.floats(0, 1), st.floats(0.01, 5), st.floats(0.01, 5), st.floats(0.01, 5))
def test_more_accuracy_or_less_latency_never_pays_less(accuracy, latency, slower, budget):
    fast, slow = sorted((latency, slower))
    for reward in (
        lambda a, t: reward_v1(a, t, budget, PARAMS),
        lambda a, t: reward_v2(a, t, budget, 0.5, PARAMS),
        lambda a, t: masked_accuracy_reward(a, t, budget, 5.0)[0],
    ):
        assert reward(accuracy, fast) >= reward(accuracy, slow) - 1e-9
        assert reward(1.0, slow) >= reward(accuracy, slow)


@given(st.floats(0.5, 2))
def test_v2_and_the_default_ignore_the_unit_of_time(unit):
    def both(scale):
        return (
            reward_v2(0.5, 0.7 * scale, 0.6 * scale, 0.5, PARAMS),
            masked_accuracy_reward(0.5, 0.7 * scale, 0.6 * scale, 1.0 * scale)[0],
        )

    assert both(unit) == pytest.approx(both(1.0), abs=1e-4)


@pytest.mark.parametrize("name", ["alpha", "beta", "gamma", "delta", "epsilon"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_parameters_are_checked(name, value):
    with pytest.raises(TrainError, match=f"reward parameter {name}"):
        RewardParams(**{name: value})


def test_complexity_by_hand():
    actions = SEED_SPACE.actions([SEED_SPACE.cheapest, SEED_SPACE.full])
    expected = [(2 / 12 + 4 / 32 + 8 / 16) / 3, 1.0]
    np.testing.assert_allclose(configuration_complexity(SEED_SPACE, actions), expected)
    router = KnobSpace((Knob(name="model", options=("small", "large")), Knob(name="k", options=(0, 1))))
    np.testing.assert_allclose(configuration_complexity(router, np.arange(4)), [0.5, 0.75, 0.75, 1.0])
