"""DPO's loss by hand and by gradient, and what counts as a pair."""

import math

import pytest
import torch

from learning_groups import make_groups
from paceline.learning.dpo import Pairs, dpo_objective, draw_pairs, preference_loss
from paceline.learning.options import TrainOptions

OPTIONS = TrainOptions(algorithm="dpo", dpo_beta=0.5, dpo_pairs=64)


def pairs_of(preferred: list[int], other: list[int], counted: list[bool], margin: list[float]) -> Pairs:
    return Pairs(
        preferred=torch.tensor([[preferred]]),
        other=torch.tensor([[other]]),
        counted=torch.tensor([[counted]]),
        margin=torch.tensor([[margin]]),
        counts={},
    )


def test_the_loss_by_hand():
    groups = make_groups(torch.tensor([[[1.0, 0.2, 0.0]]]))
    logits = torch.tensor([[[1.0, 0.0, 3.0]]])
    # margins 1 and -2 against the reference's .5 and 0; a tie is left out
    pairs = pairs_of([0, 0, 1], [1, 2, 1], [True, True, False], [0.5, 0.0, 0.0])
    loss, metrics = dpo_objective(logits, groups, pairs, OPTIONS)
    expected = [math.log1p(math.exp(-0.5 * 0.5)), math.log1p(math.exp(0.5 * 2.0))]
    assert loss.item() == pytest.approx(sum(expected) / 2)
    assert metrics["preferred"] == pytest.approx(0.5)


def test_at_the_reference_the_loss_is_log_two_and_pulls_by_half_of_beta():
    margin = torch.tensor([0.7], requires_grad=True)
    loss = preference_loss(margin, torch.tensor([0.7]), 0.4)
    assert loss.item() == pytest.approx(math.log(2))
    loss.sum().backward()
    assert margin.grad is not None
    assert margin.grad.item() == pytest.approx(-0.2)


def test_the_gradient_raises_the_preferred_and_lowers_the_other():
    groups = make_groups(torch.tensor([[[1.0, 0.2, 0.0]]]))
    logits = torch.zeros(1, 1, 3, requires_grad=True)
    loss, _ = dpo_objective(logits, groups, pairs_of([0], [2], [True], [0.0]), OPTIONS)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, torch.tensor([[[-0.25, 0.0, 0.25]]]))


def test_a_stronger_reference_asks_for_more():
    """The same policy is pulled harder where the reference already preferred the winner as much."""
    pulls = [
        preference_loss(torch.tensor([1.0]), torch.tensor([reference]), 0.5).item()
        for reference in (0.0, 1.0, 2.0)
    ]
    assert pulls == sorted(pulls)
    assert pulls[0] < pulls[2]


def test_pairs_are_of_feasible_actions_in_order_of_reward_without_ties():
    rewards = torch.tensor([[[1.0, 0.2, 0.9, 0.205], [0.3, 0.3, 0.3, 0.3], [0.5, 0.1, 0.2, 0.3]]])
    feasible = torch.tensor([[[1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]]]).bool()
    groups = make_groups(rewards, feasible)
    reference = torch.tensor([[[2.0, 0.0, 9.0, 1.0]] * 3])
    pairs = draw_pairs(reference, groups, OPTIONS, torch.Generator().manual_seed(0))
    counted = pairs.counted[0, 0]
    assert counted.any()
    assert set(pairs.preferred[0, 0][counted].tolist()) == {0}  # .205 against .2 is a tie
    assert set(pairs.other[0, 0][counted].tolist()) == {1, 3}
    assert not pairs.counted[0, 1:].any()  # equal rewards; nothing feasible
    expected = torch.where(pairs.other[0, 0] == 1, 2.0, 1.0)[counted]
    torch.testing.assert_close(pairs.margin[0, 0][counted], expected)
    assert pairs.counts == {"groups": 3.0, "infeasible_groups": 1.0, "zero_variance_groups": 1.0}
    # both of a pair are drawn evenly from three: 4 of 9 pairs are of the winner and another
    many = draw_pairs(reference, groups, TrainOptions(algorithm="dpo", dpo_pairs=4000), torch.Generator())
    assert many.counted[0, 0].float().mean().item() == pytest.approx(4 / 9, abs=0.03)


def test_groups_without_pairs_change_nothing():
    groups = make_groups(torch.full((1, 2, 3), 0.4))
    logits = torch.randn(1, 2, 3, requires_grad=True)
    pairs = draw_pairs(torch.zeros(1, 2, 3), groups, OPTIONS, torch.Generator())
    loss, _ = dpo_objective(logits, groups, pairs, OPTIONS)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0.0
    assert gradient.abs().max() == 0.0
