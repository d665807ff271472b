"""Every option of GRPO, by an identity that fails when the option has no effect or another one."""

import dataclasses

import pytest
import torch

from learning_groups import make_groups
from paceline.learning.losses import (
    clipped_policy_loss,
    entropy,
    kl_divergence,
    masked_log_softmax,
    sampled_kl_divergence,
)
from paceline.learning.objectives import Behaviour, act, draw_actions, grpo_objective
from paceline.learning.options import TrainOptions
from paceline.learning.stages import stages_of

FREE = TrainOptions(algorithm="grpo_warm", kl_weight=0.0, entropy_weight=0.0)
GENERATOR = torch.Generator()
REWARDS = torch.tensor([[[0.1, 0.9, 0.4], [1.0, 0.0, 0.3]]])
LOGITS = torch.tensor([[[0.2, -0.4, 0.1], [1.0, 0.3, -0.5]]])


def gradient_of(
    options: TrainOptions, *, rewards=REWARDS, logits=LOGITS, reference=None, behaviour=None, seed=0
) -> torch.Tensor:
    """Gradient of GRPO's loss at `logits`, with the behaviour of these very logits unless given."""
    groups = make_groups(rewards)
    logits = logits.clone().requires_grad_()
    reference = torch.zeros_like(logits) if reference is None else reference
    behaviour = behaviour or act(logits, reference, groups, options, GENERATOR.manual_seed(seed))
    loss, _ = grpo_objective(logits, groups, behaviour, options)
    return torch.autograd.grad(loss, logits)[0]


def moved(options: TrainOptions, behaviour: Behaviour, shift: float) -> torch.Tensor:
    """Gradient after one action's logit has moved by `shift` since the group was drawn."""
    step = torch.zeros_like(LOGITS)
    step[..., 1] = shift
    return gradient_of(options, logits=LOGITS + step, behaviour=behaviour)


@pytest.mark.parametrize("size", [0, 16])
def test_advantages_of_a_group_sum_to_zero(size):
    options = dataclasses.replace(FREE, group_size=size)
    behaviour = act(LOGITS, LOGITS, make_groups(REWARDS), options, GENERATOR.manual_seed(0))
    sums = (behaviour.weights * behaviour.advantages).sum(-1)
    torch.testing.assert_close(sums, torch.zeros_like(sums), atol=1e-6, rtol=0.0)
    assert behaviour.advantages.abs().max() > 0.1


@pytest.mark.parametrize("size", [0, 8])
@pytest.mark.parametrize("divide", [False, True])
def test_rewards_may_be_shifted_and_only_scaled_with_division(size, divide):
    options = dataclasses.replace(FREE, group_size=size, divide_by_std=divide)
    plain = gradient_of(options)
    assert plain.abs().max() > 0.01
    torch.testing.assert_close(gradient_of(options, rewards=REWARDS + 5.0), plain, atol=1e-5, rtol=1e-4)
    scaled = gradient_of(options, rewards=3.0 * REWARDS)
    torch.testing.assert_close(scaled, plain if divide else 3.0 * plain, atol=1e-5, rtol=1e-4)


def test_the_first_update_is_reinforce_whatever_the_clip():
    behaviour = act(LOGITS, LOGITS, make_groups(REWARDS), FREE, GENERATOR)
    logits = LOGITS.clone().requires_grad_()
    log_prob = torch.log_softmax(logits, -1)
    loss = -(behaviour.weights * behaviour.advantages * log_prob).sum(-1).mean()
    (reinforce,) = torch.autograd.grad(loss, logits)
    for low, high in ((0.2, 0.2), (1e-6, 1e-6), (1.0, 9.0)):
        options = dataclasses.replace(FREE, clip_eps_low=low, clip_eps_high=high)
        torch.testing.assert_close(gradient_of(options, behaviour=behaviour), reinforce)
        _, metrics = grpo_objective(LOGITS, make_groups(REWARDS), behaviour, options)
        assert metrics["clipped"] == 0.0


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [
        (1.25, 1.0, True),  # within 1 + high
        (1.35, 1.0, False),
        (1.35, -1.0, True),  # what went the wrong way is always pulled back
        (0.95, -1.0, True),  # within 1 - low
        (0.85, -1.0, False),
        (0.85, 1.0, True),
    ],
)
def test_gradients_vanish_beyond_each_clip_of_its_own(ratio, advantage, moves):
    log_prob = torch.tensor([ratio]).log().requires_grad_()
    loss, _ = clipped_policy_loss(
        log_prob, torch.zeros(1), torch.tensor([advantage]), torch.ones(1), clip_low=0.1, clip_high=0.3
    )
    (gradient,) = torch.autograd.grad(loss.sum(), log_prob)
    assert gradient.item() == pytest.approx(-ratio * advantage if moves else 0.0)


def test_both_clips_reach_the_objective():
    behaviour = act(LOGITS, LOGITS, make_groups(REWARDS), FREE, GENERATOR)
    narrow_high = dataclasses.replace(FREE, clip_eps_high=0.01)
    narrow_low = dataclasses.replace(FREE, clip_eps_low=0.01)
    # action 1 is the best of the first sample and the worst of the second
    up, down = 0.15, -0.15
    for shift in (up, down):
        assert not torch.allclose(moved(narrow_high, behaviour, shift), moved(FREE, behaviour, shift))
        assert not torch.allclose(moved(narrow_low, behaviour, shift), moved(FREE, behaviour, shift))
    assert not torch.allclose(moved(narrow_high, behaviour, up), moved(narrow_low, behaviour, up))


def test_kl_and_its_gradient_are_zero_at_the_reference():
    logits = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(2, 5, dtype=torch.bool)
    log_prob = masked_log_softmax(logits, mask)
    exact = kl_divergence(log_prob, log_prob.detach(), mask)
    drawn = draw_actions(log_prob.detach(), 64, GENERATOR)
    taken = log_prob.gather(-1, drawn)
    sampled = sampled_kl_divergence(
        taken, taken.detach(), taken.detach(), torch.full_like(taken, 1 / 64).detach()
    )
    for value in (exact, sampled):
        (gradient,) = torch.autograd.grad(value.sum(), logits, retain_graph=True)
        assert value.abs().max().item() == pytest.approx(0.0, abs=1e-12)
        assert gradient.abs().max().item() == pytest.approx(0.0, abs=1e-12)


def test_sampled_kl_by_hand():
    # one draw: p = 1/2, old p = 1/4, q = 1/8: 2 x (1/4 - 1 + log 4)
    log = torch.log(torch.tensor([0.5, 0.25, 0.125], dtype=torch.float64)).unsqueeze(-1)
    value = sampled_kl_divergence(log[0], log[1], log[2], torch.ones(1, dtype=torch.float64))
    assert value.item() == pytest.approx(2 * (0.25 - 1 + 1.3862943611))


def test_sampled_kl_is_unbiased_in_value_and_gradient_also_after_an_update():
    logits = torch.tensor([[0.4, -0.2, 0.1, 0.9]], dtype=torch.float64, requires_grad=True)
    mask = torch.ones(1, 4, dtype=torch.bool)
    log_prob = masked_log_softmax(logits, mask)
    reference = torch.log_softmax(torch.tensor([[1.0, 0.0, -0.5, 0.2]], dtype=torch.float64), -1)
    old = torch.log_softmax(torch.tensor([[0.1, 0.1, 0.4, 0.6]], dtype=torch.float64), -1)
    drawn = draw_actions(old, 400_000, GENERATOR.manual_seed(1))
    weights = torch.full(drawn.shape, 1 / 400_000, dtype=torch.float64)
    parts = (log_prob.gather(-1, drawn), old.gather(-1, drawn), reference.gather(-1, drawn))
    sampled, exact = sampled_kl_divergence(*parts, weights), kl_divergence(log_prob, reference, mask)
    assert sampled.item() == pytest.approx(exact.item(), rel=0.01)
    gradients = [torch.autograd.grad(v.sum(), logits, retain_graph=True)[0] for v in (sampled, exact)]
    torch.testing.assert_close(*gradients, atol=2e-3, rtol=0.0)
    assert gradients[1].abs().max() > 0.05


@pytest.mark.parametrize("size", [0, 400_000])
def test_the_kl_weight_adds_exactly_the_gradient_of_the_kl(size):
    reference = torch.tensor([[[0.5, 0.0, -0.5], [0.0, 1.0, 0.0]]])
    weighted = dataclasses.replace(FREE, group_size=size, kl_weight=0.7)
    free = dataclasses.replace(FREE, group_size=size)
    added = gradient_of(weighted, reference=reference) - gradient_of(free, reference=reference)
    logits = LOGITS.clone().requires_grad_()
    mask = torch.ones_like(LOGITS, dtype=torch.bool)
    pulled = kl_divergence(torch.log_softmax(logits, -1), torch.log_softmax(reference, -1), mask).mean()
    (expected,) = torch.autograd.grad(0.7 * pulled, logits)
    torch.testing.assert_close(added, expected, atol=1e-5 if size == 0 else 3e-3, rtol=1e-4)


def test_entropy_pushes_nowhere_from_the_even_policy_and_to_it_from_others():
    even = torch.zeros(1, 4, requires_grad=True)
    mask = torch.ones(1, 4, dtype=torch.bool)
    (gradient,) = torch.autograd.grad(entropy(masked_log_softmax(even, mask), mask).sum(), even)
    assert gradient.abs().max().item() == pytest.approx(0.0, abs=1e-7)
    spread = dataclasses.replace(FREE, entropy_weight=0.5)
    added = gradient_of(spread) - gradient_of(FREE)
    assert added[0, 1].argmax() == LOGITS[0, 1].argmax()  # descent lowers the likeliest most


def test_the_mean_gradient_of_sampled_groups_is_the_exact_one():
    exact = gradient_of(dataclasses.replace(FREE, group_size=0))
    size, draws = 8, 3000
    rewards, logits = REWARDS.expand(draws, -1, -1), LOGITS.expand(draws, -1, -1)
    sampled = gradient_of(dataclasses.replace(FREE, group_size=size), rewards=rewards, logits=logits)
    # a group's own mean holds a G-th of each reward, so the expectation is (G - 1) / G of the exact gradient
    torch.testing.assert_close(sampled.sum(0, keepdim=True), exact * (size - 1) / size, atol=4e-3, rtol=0.0)
    assert exact.abs().max() > 0.04


def test_groups_of_equal_rewards_are_counted_and_change_nothing():
    equal = torch.cat([REWARDS, torch.full((1, 2, 3), 0.7)], dim=1)
    logits = torch.cat([LOGITS, LOGITS], dim=1)
    spread = dataclasses.replace(FREE, entropy_weight=0.3, kl_weight=0.3)
    gradient = gradient_of(spread, rewards=equal, logits=logits)
    assert gradient[0, 2:].abs().max() == 0.0
    torch.testing.assert_close(gradient[0, :2], gradient_of(spread)[0])
    behaviour = act(logits, logits, make_groups(equal), FREE, GENERATOR)
    assert behaviour.counts == {"groups": 4.0, "infeasible_groups": 0.0, "zero_variance_groups": 2.0}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [("warm", 6, 1), ("grpo", 4, 2)]),
        ({"inner_epochs": 3}, [("warm", 6, 1), ("grpo", 4, 3)]),
        ({"warm_epochs": 0}, [("warm", 0, 1), ("grpo", 4, 2)]),
        ({"algorithm": "grpo_scratch"}, [("grpo", 7, 2)]),
        ({"algorithm": "grpo_scratch", "inner_epochs": 1}, [("grpo", 10, 1)]),
        ({"algorithm": "ppo"}, [("ppo", 7, 2)]),
        ({"algorithm": "dpo"}, [("supervised", 6, 1), ("dpo", 4, 2)]),
        ({"algorithm": "supervised"}, [("supervised", 14, 1)]),
        ({"algorithm": "outcome"}, [("warm", 14, 1)]),
    ],
)
def test_stages(changes, expected):
    options = dataclasses.replace(TrainOptions(algorithm="grpo_warm", warm_epochs=6, epochs=4), **changes)
    assert [(stage.name, stage.epochs, stage.updates) for stage in stages_of(options)] == expected


@pytest.mark.parametrize(
    ("changes", "drawn", "kl"),
    [
        ({}, 0, 0.15),
        ({"algorithm": "grpo_scratch"}, 8, 0.0),
        ({"algorithm": "grpo_scratch", "group_size": 0, "kl_weight": 0.2}, 0, 0.2),
        ({"group_size": 4, "kl_weight": 0.0}, 4, 0.0),
        ({"algorithm": "ppo", "group_size": 1}, 1, 0.0),
    ],
)
def test_what_is_drawn_and_held_by_default(changes, drawn, kl):
    options = TrainOptions(**{"algorithm": "grpo_warm", **changes})
    assert (options.drawn, options.kl) == (drawn, kl)
