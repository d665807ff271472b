"""Budgets that training is limited to: parts of the range, in training and in validation."""

import pytest
import torch

from paceline.errors import TrainError
from paceline.learning.budget_parts import parse_parts, within_parts
from paceline.learning.contexts import ContextRanges, sample_contexts, validation_contexts
from paceline.learning.options import TrainOptions

PARTS = ((0.0, 0.25), (0.5, 1.0))
RANGES = ContextRanges(budget_low_ms=1.0, budget_high_ms=16.0, price_low=0.1, price_high=1.0)


def test_positions_run_through_the_parts_laid_end_to_end():
    position = torch.tensor([0.0, 1 / 6, 2 / 3, 1.0], dtype=torch.float64)
    assert within_parts(position, PARTS).tolist() == pytest.approx([0.0, 0.125, 0.75, 1.0])
    assert within_parts(position, None) is position
    assert within_parts(position, ((0.0, 1.0),)).tolist() == pytest.approx(position.tolist())


@pytest.mark.parametrize("knots", [None, (1.0, 2.0, 4.0, 8.0, 16.0)])
def test_no_budget_is_drawn_or_validated_in_the_gap(knots):
    ranges = ContextRanges(
        budget_low_ms=1.0,
        budget_high_ms=16.0,
        price_low=0.1,
        price_high=1.0,
        budget_knots_ms=knots,
        budget_parts=PARTS,
    )
    drawn, _ = sample_contexts((4000,), ranges, 0.0, torch.Generator().manual_seed(0))
    validated = torch.tensor([budget for budget, price in validation_contexts(ranges) if price == 0.0])
    for budgets in (drawn, validated):
        assert not ((budgets > 2.001) & (budgets < 3.999)).any()  # positions .25 and .5 of 1 to 16 ms
        assert (budgets <= 2.001).any()
        assert (budgets >= 3.999).any()
    assert (drawn < 2.0).float().mean().item() == pytest.approx(1 / 3, abs=0.03)  # by length


def test_without_parts_nothing_changes():
    whole = ContextRanges(
        budget_low_ms=1.0, budget_high_ms=16.0, price_low=0.1, price_high=1.0, budget_parts=((0.0, 1.0),)
    )
    assert [b for b, _ in validation_contexts(whole)] == pytest.approx(
        [b for b, _ in validation_contexts(RANGES)]
    )


@pytest.mark.parametrize("text", ["", "0.5", "0.7-0.3", "0-0.5,0.4-1", "-0.1-0.5", "0.5-1.1", "a-b", "0-nan"])
def test_parts_that_are_none(text):
    with pytest.raises(TrainError, match=r"budget_range: got .* expected parts LOW-HIGH"):
        parse_parts(text)


def test_options_check_the_parts_and_who_can_take_them():
    with pytest.raises(TrainError, match="budget_range: got '1-0'"):
        TrainOptions(algorithm="grpo_warm", budget_range="1-0")
    with pytest.raises(TrainError, match="budget_range: got '0-0.5' with algorithm 'grpo'"):
        TrainOptions(budget_range="0-0.5")
    assert TrainOptions(algorithm="ppo", budget_range="0-0.5").budget_range == "0-0.5"
