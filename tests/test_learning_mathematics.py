"""Advantages and losses: hand-computed values and identities."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learning_groups import make_groups
from paceline.learning.advantages import group_advantages
from paceline.learning.losses import (
    best_action_targets,
    clipped_policy_loss,
    entropy,
    kl_divergence,
    masked_log_softmax,
    mean_over,
    outcome_loss,
    target_loss,
)
from paceline.learning.objectives import (
    act,
    draw_actions,
    grpo_objective,
    policy_logits,
    supervised_objective,
)
from paceline.learning.options import TrainOptions
from paceline.learning.trainer import clip_members

EQUAL = torch.full((4,), 0.25)
CLIP = {"clip_low": 0.2, "clip_high": 0.2}


def uniform(rewards: torch.Tensor) -> torch.Tensor:
    return torch.full_like(rewards, 1 / rewards.shape[-1])


def test_advantages_by_hand():
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0])
    advantages, informative = group_advantages(rewards, EQUAL)
    assert advantages.tolist() == [0.5, -0.5, -0.5, 0.5]
    assert informative.item() is True
    scaled, _ = group_advantages(rewards, EQUAL, divide_by_std=True)  # the standard deviation is 0.5
    assert scaled.tolist() == [1.0, -1.0, -1.0, 1.0]


def test_weighted_advantages_by_hand():
    advantages, _ = group_advantages(torch.tensor([1.0, 0.0, 9.0]), torch.tensor([0.25, 0.75, 0.0]))
    assert advantages.tolist() == [0.75, -0.25, 0.0]  # mean 0.25; what cannot be drawn has no advantage


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(0, 10_000), st.booleans())
def test_identities_of_advantages(seed, divide):
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.rand((3, 5), generator=generator, dtype=torch.float64)
    weights = torch.softmax(torch.randn((3, 5), generator=generator, dtype=torch.float64), dim=-1)
    advantages, _ = group_advantages(rewards, weights, divide_by_std=divide)
    torch.testing.assert_close((weights * advantages).sum(-1), torch.zeros(3, dtype=torch.float64))
    shifted, _ = group_advantages(rewards + 7.0, weights, divide_by_std=divide)
    torch.testing.assert_close(shifted, advantages)
    order = torch.randperm(5, generator=generator)
    permuted, _ = group_advantages(rewards[:, order], weights[:, order], divide_by_std=divide)
    torch.testing.assert_close(permuted, advantages[:, order])
    scaled, _ = group_advantages(3.0 * rewards, weights, divide_by_std=divide)
    torch.testing.assert_close(scaled, advantages if divide else 3.0 * advantages)


@pytest.mark.parametrize("divide", [False, True])
def test_equal_rewards_teach_nothing_and_stay_finite(divide):
    rewards = torch.full((2, 4), 0.3)
    advantages, informative = group_advantages(rewards, uniform(rewards), divide_by_std=divide)
    assert advantages.abs().max().item() == 0.0
    assert informative.tolist() == [False, False]
    logits = torch.randn(2, 4, requires_grad=True)
    log_prob = masked_log_softmax(logits, torch.ones(2, 4, dtype=torch.bool))
    loss, _ = clipped_policy_loss(log_prob, log_prob.detach(), advantages, uniform(rewards), **CLIP)
    mean_over(loss, informative).backward()
    assert logits.grad is not None
    assert logits.grad.abs().max().item() == 0.0


def test_masked_log_softmax_by_hand():
    logits = torch.tensor([math.log(1.0), math.log(3.0), 50.0])
    probability = masked_log_softmax(logits, torch.tensor([True, True, False])).exp()
    torch.testing.assert_close(probability, torch.tensor([0.25, 0.75, 0.0]))


def test_a_group_without_feasible_actions_keeps_gradients_finite():
    logits = torch.randn(3, requires_grad=True)
    mask = torch.zeros(3, dtype=torch.bool)
    log_prob = masked_log_softmax(logits, mask)
    values = entropy(log_prob, mask) + kl_divergence(log_prob, log_prob.detach(), mask)
    values.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "clipped"),
    [
        (1.0, 2.0, -2.0, 0.0),
        (1.1, 1.0, -1.1, 0.0),
        (1.5, 1.0, -1.2, 1.0),  # gains are capped
        (0.5, 1.0, -0.5, 0.0),
        (0.5, -1.0, 0.8, 1.0),  # so are avoided losses
        (1.5, -1.0, 1.5, 0.0),  # losses are not
    ],
)
def test_clipped_loss_by_hand(ratio, advantage, expected, clipped):
    loss, outside = clipped_policy_loss(
        torch.tensor([math.log(ratio)]), torch.zeros(1), torch.tensor([advantage]), torch.ones(1), **CLIP
    )
    assert loss.item() == pytest.approx(expected)
    assert outside.item() == clipped


def test_ratio_one_gives_the_reinforce_gradient():
    logits = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(4, 6, dtype=torch.bool)
    advantages, weights = torch.randn(2, 4, 6, dtype=torch.float64)
    weights = torch.softmax(weights, dim=-1)
    log_prob = masked_log_softmax(logits, mask)
    loss, _ = clipped_policy_loss(log_prob, log_prob.detach(), advantages, weights, **CLIP)
    (clipped_gradient,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
    (reinforce,) = torch.autograd.grad(-(weights * advantages * log_prob).sum(), logits)
    torch.testing.assert_close(clipped_gradient, reinforce)


def test_exact_expectation_has_the_gradient_of_the_expected_reward():
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(3, 5) < 0.7
    mask[:, 0] = True
    rewards = torch.rand(3, 5, dtype=torch.float64)
    log_prob = masked_log_softmax(logits, mask)
    weights = torch.where(mask, log_prob.exp(), 0.0).detach()
    advantages, _ = group_advantages(rewards, weights)
    loss, _ = clipped_policy_loss(log_prob, log_prob.detach(), advantages, weights, **CLIP)
    (gradient,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
    (expected,) = torch.autograd.grad(-(log_prob.exp() * rewards * mask).sum(), logits)
    torch.testing.assert_close(gradient, expected)


def test_exact_expectation_is_the_limit_of_many_samples():
    generator = torch.Generator().manual_seed(3)
    logits = torch.tensor([[0.5, -0.3, 1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    mask, rewards = (
        torch.ones(1, 4, dtype=torch.bool),
        torch.tensor([[1.0, 0.2, 0.4, 0.9]], dtype=torch.float64),
    )
    log_prob = masked_log_softmax(logits, mask)

    def gradient(chosen, rewards, weights):
        advantages, _ = group_advantages(rewards, weights)
        loss, _ = clipped_policy_loss(chosen, chosen.detach(), advantages, weights, **CLIP)
        return torch.autograd.grad(loss.sum(), logits, retain_graph=True)[0]

    exact = gradient(log_prob, rewards, log_prob.exp().detach())
    drawn = draw_actions(log_prob, 200_000, generator)
    sampled = gradient(
        log_prob.gather(-1, drawn), rewards.gather(-1, drawn), torch.full(drawn.shape, 1 / 200_000).double()
    )
    torch.testing.assert_close(sampled, exact, atol=2e-3, rtol=0.0)
    assert exact.abs().max().item() > 0.05


def test_kl_and_entropy_by_hand():
    mask = torch.tensor([True, True, False])
    even, skewed = torch.tensor([0.0, 0.0, 9.0]), torch.tensor([0.0, math.log(3.0), -4.0])
    p, q = masked_log_softmax(even, mask), masked_log_softmax(skewed, mask)
    assert entropy(p, mask).item() == pytest.approx(math.log(2.0))
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert kl_divergence(p, q, mask).item() == pytest.approx(expected, abs=1e-6)
    assert kl_divergence(p, p, mask).item() == 0.0


def test_outcome_loss_ignores_untested_cells():
    logits = torch.tensor([[0.0, 5.0]], requires_grad=True)
    loss = outcome_loss(logits, torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]]))
    assert loss.item() == pytest.approx(math.log(2.0))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0, 1].item() == 0.0


def test_targets_are_shared_by_the_best_feasible_actions():
    rewards = torch.tensor([[0.99, 1.0, 0.2, 2.0], [0.3, 0.1, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    mask = torch.tensor([[True, True, True, False], [True, True, False, False], [False] * 4])
    targets = best_action_targets(rewards, mask, 0.011)
    assert targets.tolist() == [[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0] * 4]


def test_target_loss_by_hand():
    log_prob = torch.log(torch.tensor([[0.2, 0.8, 0.0], [0.5, 0.25, 0.25]]))
    losses = target_loss(log_prob, torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0]]))
    expected = [-math.log(0.8), -0.5 * math.log(0.5) - 0.5 * math.log(0.25)]
    torch.testing.assert_close(losses, torch.tensor(expected))


def test_mean_over_active_groups():
    values = torch.tensor([1.0, 5.0, 3.0], requires_grad=True)
    assert mean_over(values, torch.tensor([True, False, True])).item() == 2.0
    none = mean_over(values, torch.zeros(3, dtype=torch.bool))
    none.backward()
    assert none.item() == 0.0
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("group_size", [None, 8])
def test_acting_counts_groups_that_teach_nothing(group_size):
    rewards = torch.tensor([[[0.0, 1.0, 1.0], [0.5, 0.5, 0.5], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]])
    feasible = torch.tensor([[[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 1]]]).bool()
    logits = torch.zeros(1, 4, 3)
    groups, options = (
        make_groups(rewards, feasible),
        TrainOptions(algorithm="grpo_warm", group_size=group_size),
    )
    behaviour = act(logits, logits, groups, options, torch.Generator().manual_seed(0))
    # equal rewards, nothing feasible, one feasible action: only the first group teaches
    assert behaviour.active.tolist() == [[True, False, False, False]]
    assert behaviour.counts == {"groups": 4.0, "infeasible_groups": 1.0, "zero_variance_groups": 2.0}
    if behaviour.actions is not None:
        assert behaviour.actions.shape == (1, 4, 8)
        assert set(behaviour.actions[0, 3].tolist()) == {2}


def test_grpo_steps_raise_the_expected_reward_and_kl_holds_them_back():
    generator = torch.Generator().manual_seed(0)
    rewards = torch.tensor([[[0.0, 1.0, 0.2], [0.3, 0.0, 0.9]]])
    groups = make_groups(rewards, torch.ones(1, 2, 3, dtype=torch.bool))

    def train(options: TrainOptions) -> float:
        logits = torch.zeros(1, 2, 3, requires_grad=True)
        optimiser = torch.optim.SGD([logits], lr=0.05)
        for _ in range(60):
            behaviour = act(10 * logits, torch.zeros(1, 2, 3), groups, options, generator)
            loss, _ = grpo_objective(10 * logits, groups, behaviour, options)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        probability = masked_log_softmax(10 * logits, groups.feasible).exp()
        return (probability * rewards).sum(-1).mean().item()

    free = train(TrainOptions(algorithm="grpo_warm", kl_weight=0.0, entropy_weight=0.0))
    held = train(TrainOptions(algorithm="grpo_warm", kl_weight=1.0, entropy_weight=0.0))
    sampled = train(TrainOptions(algorithm="grpo_warm", kl_weight=0.0, entropy_weight=0.0, group_size=16))
    spread = train(TrainOptions(algorithm="grpo_warm", kl_weight=0.0, entropy_weight=1.0))
    assert free > 0.9
    assert sampled > 0.9
    assert 0.4 < held < 0.7
    assert 0.4 < spread < 0.7  # 0.4 is the even policy's


def test_the_price_is_charged_in_the_logits():
    groups = make_groups(torch.tensor([[0.5, 0.5]]), torch.ones(1, 2, dtype=torch.bool))
    logits = policy_logits(torch.zeros(1, 2), torch.tensor([[0.1, 0.3]]), 0.05)
    torch.testing.assert_close(logits, torch.tensor([[8.0, 4.0]]))
    assert groups.charge.abs().max().item() == 0.0


def test_supervised_learns_the_best_feasible_action():
    rewards = torch.tensor([[[0.0, 1.0, 0.2], [0.3, 0.0, 0.9]]])
    feasible = torch.tensor([[[True, False, True], [True, True, True]]])
    logits = torch.zeros(1, 2, 3, requires_grad=True)
    loss, _ = supervised_objective(logits, make_groups(rewards, feasible), TrainOptions())
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0].argmin(dim=-1).tolist() == [2, 2]
    assert logits.grad[0, 0, 1].item() == 0.0


def test_clipping_is_per_member():
    weight = torch.nn.Parameter(torch.zeros(2, 3))
    weight.grad = torch.tensor([[3.0, 0.0, 4.0], [0.3, 0.0, 0.4]])
    clip_members([weight], 1.0)
    torch.testing.assert_close(weight.grad, torch.tensor([[0.6, 0.0, 0.8], [0.3, 0.0, 0.4]]))
