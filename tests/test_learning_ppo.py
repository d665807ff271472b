"""PPO's losses by hand and by gradient."""

import math

import pytest
import torch

from learning_groups import make_groups
from paceline.learning.options import TrainOptions
from paceline.learning.ppo import Rollout, ValueNetwork, ppo_objective, roll_out

OPTIONS = TrainOptions(algorithm="ppo", entropy_weight=0.0)


def rollout_of(old: list[float], rewards: list[float], value: float) -> Rollout:
    """Two drawn actions, 0 and 1, of one group."""
    gained = torch.tensor([[rewards]])
    return Rollout(
        actions=torch.tensor([[[0, 1]]]),
        old_log_prob=torch.tensor([[old]]).log(),
        rewards=gained,
        advantages=gained - value,
        weights=torch.full((1, 1, 2), 0.5),
        active=torch.tensor([[True]]),
        counts={},
    )


def test_the_loss_by_hand():
    # the policy has p = (.5, .5), the acting one had (.4, .6): ratios 1.25 and .8333; values were .3 and are .5
    groups = make_groups(torch.tensor([[[1.0, 0.2]]]))
    rollout = rollout_of([0.4, 0.6], [1.0, 0.2], value=0.3)
    loss, metrics = ppo_objective(torch.zeros(1, 1, 2), torch.tensor([[0.5]]), groups, rollout, OPTIONS)
    policy = -0.5 * (1.2 * 0.7) - 0.5 * (
        0.8333333 * -0.1
    )  # the first is clipped at 1.2, the second is inside
    value = 0.5 * (0.5 - 1.0) ** 2 + 0.5 * (0.5 - 0.2) ** 2
    assert loss.item() == pytest.approx(policy + value, abs=1e-6)
    assert metrics["value_loss"] == pytest.approx(value)
    assert metrics["clipped"] == pytest.approx(0.5)
    assert metrics["entropy"] == pytest.approx(math.log(2))
    spread = TrainOptions(algorithm="ppo", entropy_weight=0.3)
    loss, _ = ppo_objective(torch.zeros(1, 1, 2), torch.tensor([[0.5]]), groups, rollout, spread)
    assert loss.item() == pytest.approx(policy + value - 0.3 * math.log(2), abs=1e-6)
    narrow = TrainOptions(algorithm="ppo", entropy_weight=0.0, clip_eps_low=0.05, clip_eps_high=0.5)
    loss, _ = ppo_objective(torch.zeros(1, 1, 2), torch.tensor([[0.5]]), groups, rollout, narrow)
    assert loss.item() == pytest.approx(-0.5 * (1.25 * 0.7) - 0.5 * (0.95 * -0.1) + value, abs=1e-6)


def test_gradients_point_to_better_actions_and_better_values():
    groups = make_groups(torch.tensor([[[1.0, 0.2]]]))
    logits, values = torch.zeros(1, 1, 2, requires_grad=True), torch.tensor([[0.4]], requires_grad=True)
    rollout = rollout_of([0.5, 0.5], [1.0, 0.2], value=0.6)
    loss, _ = ppo_objective(logits, values, groups, rollout, OPTIONS)
    to_logits, to_values = torch.autograd.grad(loss, [logits, values])
    # ratio 1: the REINFORCE gradient, -sum w A (onehot - p)
    torch.testing.assert_close(to_logits, torch.tensor([[[-0.2, 0.2]]]))
    assert to_values.item() == pytest.approx(2 * (0.4 - 0.6))  # towards the mean reward, .6


def test_advantages_are_rewards_less_values_of_feasible_draws():
    rewards = torch.tensor([[[1.0, 0.2, 0.6], [0.3, 0.1, 0.9], [0.5, 0.5, 0.5]]])
    feasible = torch.tensor([[[True, True, False], [True, True, True], [False, False, False]]])
    groups, values = make_groups(rewards, feasible), torch.tensor([[0.5, 0.25, 0.0]])
    generator = torch.Generator().manual_seed(0)
    rollout = roll_out(torch.zeros(1, 3, 3), values, groups, OPTIONS, generator)
    assert rollout.actions is not None
    assert rollout.actions.shape == (1, 3, 8)
    assert 2 not in rollout.actions[0, 0]
    expected = rewards.gather(-1, rollout.actions) - values.unsqueeze(-1)
    torch.testing.assert_close(rollout.advantages, expected)
    assert rollout.active.tolist() == [[True, True, False]]
    assert rollout.counts == {"groups": 3.0, "infeasible_groups": 1.0}
    exact = roll_out(
        torch.zeros(1, 3, 3), values, groups, TrainOptions(algorithm="ppo", group_size=0), generator
    )
    assert exact.actions is None
    torch.testing.assert_close(exact.weights[0, 0], torch.tensor([0.5, 0.5, 0.0]))
    torch.testing.assert_close(exact.advantages[0, 0], torch.tensor([0.5, -0.3, 0.0]))


def test_groups_without_a_feasible_action_change_nothing():
    groups = make_groups(torch.tensor([[[1.0, 0.2]]]), torch.zeros(1, 1, 2, dtype=torch.bool))
    logits, values = torch.randn(1, 1, 2, requires_grad=True), torch.randn(1, 1, requires_grad=True)
    rollout = roll_out(logits, values, groups, OPTIONS, torch.Generator())
    loss, _ = ppo_objective(logits, values, groups, rollout, OPTIONS)
    for gradient in torch.autograd.grad(loss, [logits, values]):
        assert gradient.abs().max() == 0.0


def test_value_network_learns_the_mean_reward_of_a_context():
    generator = torch.Generator().manual_seed(0)
    network = ValueNetwork(2, 3, 16, generator)
    features, codes = torch.randn(2, 40, 2, generator=generator), torch.randn(2, 40, 1, generator=generator)
    target = features[..., 0] - codes[..., 0]
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(150):
        loss = ((network(features, codes) - target) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert network(features, codes).shape == (2, 40)
    assert loss.item() < 0.02
