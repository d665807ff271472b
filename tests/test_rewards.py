import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paceline.errors import TrainError
from paceline.knobs import SEED_SPACE, Knob, KnobSpace
from paceline.learning.dataset import training_problems
from paceline.learning.group_rewards import Baseline
from paceline.learning.groups import GroupSource
from paceline.learning.inputs import fit_inputs
from paceline.learning.options import TrainOptions
from paceline.learning.train import train_controller_policy
from paceline.rewards import (
    RewardParams,
    configuration_complexity,
    masked_accuracy_reward,
    option_shares,
    relative_accuracy,
    reward_v1,
    reward_v2,
)
from small_training import SMALL, make_latency, make_source, make_table

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


@pytest.mark.parametrize(
    ("accuracy", "baseline", "headroom", "expected"),
    [
        (0.8, 0.6, 0.0, 0.5),
        (0.6, 0.6, 0.0, 0.0),
        (0.0, 0.5, 0.0, -1.0),
        (1.0, 0.99, 0.0, 1.0),
        (0.0, 1.0, 0.0, -1e6),  # as published: one wrong answer outweighs everything
        (1.0, 1.0, 0.0, 0.0),
        (0.0, 1.0, 0.1, -10.0),
        (1.0, 0.95, 0.1, 0.5),
        (0.8, 0.6, 0.1, 0.5),  # a headroom below 1 - baseline changes nothing
    ],
)
def test_relative_accuracy_by_hand(accuracy, baseline, headroom, expected):
    assert relative_accuracy(accuracy, baseline, headroom) == pytest.approx(expected, abs=1e-3)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 1))
def test_relative_accuracy_is_the_published_formula_bounded(accuracy, baseline, headroom):
    published = (accuracy - baseline) / (1 - baseline + 1e-6)
    assert relative_accuracy(accuracy, baseline) == pytest.approx(published, rel=1e-6, abs=1e-9)
    bounded = relative_accuracy(accuracy, baseline, headroom)
    assert -1 / headroom <= bounded <= 1
    assert bounded * published >= 0
    assert abs(bounded) <= abs(published) + 1e-9


def baseline_source(**changes):
    options = TrainOptions(algorithm="grpo_warm", reward="v2", mask_infeasible=False, **changes)
    source, table = make_source(options)
    return source, table.split_rows("train")


def published_v2(source, row, budget, baseline, headroom=0.1):
    return reward_v2(
        source.accuracy[row],
        source.mean_ms[row],
        budget,
        source.rewards.complexity,
        PARAMS,
        baseline,
        headroom,
    )


def test_baseline_full_of_a_split_is_its_mean_accuracy():
    source, train = baseline_source(baseline="full")
    groups = source.groups(torch.tensor([0, 3]), torch.tensor([6.0, 9.0]), torch.zeros(2))
    mean = float(train.accuracy[:, -1].mean())
    for place, (row, budget) in enumerate([(0, 6.0), (3, 9.0)]):
        torch.testing.assert_close(groups.rewards[place], published_v2(source, row, budget, mean))


def test_baseline_full_of_a_sample_is_its_own_accuracy():
    source, train = baseline_source(baseline="full", baseline_scope="sample", baseline_headroom=0.25)
    rows = [int(np.flatnonzero(train.accuracy[:, -1] == value)[0]) for value in (0.0, 1.0)]
    groups = source.groups(torch.tensor(rows), torch.tensor([6.0, 6.0]), torch.zeros(2))
    torch.testing.assert_close(groups.rewards[0], published_v2(source, rows[0], 6.0, 0.0))
    torch.testing.assert_close(groups.rewards[1], published_v2(source, rows[1], 6.0, 1.0, 0.25))
    assert groups.rewards[1].min() > -60  # one published 1e-6 would make it -1e6


def test_baseline_best_static_is_the_most_accurate_within_the_budget():
    source, _ = baseline_source(baseline="best_static")
    train, _ = training_problems(make_table(), make_latency())
    accuracy, upper = train.accuracy.mean(axis=0), train.upper_ms.mean(axis=0)
    for budget in (*np.quantile(upper, [0.0, 0.3, 0.6, 1.0]) + 1e-3, upper.min() / 2):
        within = upper <= budget if (upper <= budget).any() else upper == upper.min()
        best = accuracy[within].max()
        groups = source.groups(torch.tensor([5]), torch.tensor([budget]).float(), torch.zeros(1))
        torch.testing.assert_close(
            groups.rewards[0],
            published_v2(source, 5, torch.tensor(budget).float(), best),
            rtol=1e-4,
            atol=1e-4,
        )


def test_baseline_best_static_of_a_sample():
    train, _ = training_problems(make_table(), make_latency())
    full = np.arange(27) == 26
    options = TrainOptions(
        algorithm="grpo_warm", reward="v2", baseline="best_static", baseline_scope="sample"
    )
    baseline = Baseline(train, full, options)
    limit = torch.tensor([[7.0], [12.0]])
    columns = baseline.within(limit)
    accuracy = torch.from_numpy(train.accuracy[:2])
    torch.testing.assert_close(baseline.accuracy(accuracy, limit), accuracy.gather(1, columns))
    assert columns[0] != columns[1]


def test_a_baseline_changes_the_weight_of_samples_not_their_order():
    plain, _ = baseline_source()
    relative, _ = baseline_source(baseline="full", baseline_scope="sample")
    rows, budget, price = torch.arange(40), torch.full((40,), 8.0), torch.zeros(40)
    gain = relative.groups(rows, budget, price).rewards - plain.groups(rows, budget, price).rewards
    accuracy = plain.accuracy[rows]
    for row in range(40):  # the difference depends on a sample's accuracy only, and rises with it
        right, wrong = gain[row][accuracy[row] == 1], gain[row][accuracy[row] == 0]
        for part in (right, wrong):
            assert len(part) == 0 or float(part.max() - part.min()) < 1e-4
        assert len(right) == 0 or len(wrong) == 0 or right.min() >= wrong.max() - 1e-4


def test_a_sample_without_its_baseline_is_refused():
    table = without_action_of_one(26)
    train, _ = training_problems(table, make_latency())
    options = TrainOptions(algorithm="grpo_warm", reward="v2", baseline="full", baseline_scope="sample")
    source, _ = make_source(TrainOptions(algorithm="grpo_warm"))
    inputs = fit_inputs(train.features, table.image_width, table.feature_choice)
    with pytest.raises(TrainError, match="1 samples have no outcome under 'full'; .*baseline_scope='split'"):
        GroupSource(train, source.spec, table.space, options, inputs)
    split = dataclasses.replace(options, baseline_scope="split")
    GroupSource(train, source.spec, table.space, split, inputs)


def without_action_of_one(column):
    table = make_table()
    accuracy = table.accuracy.copy()
    accuracy[np.flatnonzero(table.split == "train")[0], column] = np.nan
    return dataclasses.replace(table, accuracy=accuracy)


@pytest.mark.parametrize("scope", ["split", "sample"])
def test_a_policy_is_learned_relative_to_a_baseline(scope):
    options = dataclasses.replace(SMALL, reward="v2", baseline="best_static", baseline_scope=scope)
    trained = train_controller_policy(make_table(), make_latency(), options)
    assert trained.facts["options"]["baseline"] == "best_static"
    assert all(math.isfinite(entry["loss"]) for entry in trained.history)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": "v2", "baseline": "cheapest"}, "baseline: got 'cheapest', expected one of"),
        ({"reward": "v2", "baseline_scope": "row"}, "baseline_scope: got 'row'"),
        ({"baseline_headroom": 0.0}, "baseline_headroom: got 0.0, expected a number above 0"),
        ({"baseline": "full"}, "baseline: got 'full' with reward 'masked', expected reward 'v2'"),
        ({"baseline": "full", "reward": "v1"}, "with reward 'v1', expected reward 'v2'"),
    ],
)
def test_baseline_options_are_validated(changes, message):
    with pytest.raises(TrainError, match=message):
        TrainOptions(**{"algorithm": "grpo_warm", **changes})


def test_shares_by_hand():
    actions = SEED_SPACE.actions([{"max_crops": 6, "top_k": 8, "num_active_blocks": 12}])
    np.testing.assert_allclose(option_shares(SEED_SPACE, actions), [[0.5, 0.25, 0.75]])
