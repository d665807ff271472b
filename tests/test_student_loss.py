"""The student's loss: values by hand, and each term's value and gradient against its formula row by row."""

import math

import numpy as np
import pytest
import torch

from paceline.learning.reference.student import student_loss

SCALES = {"temperature": 0.25, "taught_temperature": 0.5, "reward_spread": 0.4}


def test_an_undecided_student_by_hand() -> None:
    """Both actions alike: cross-entropy ln 2 whatever is taught, half of each reward less its charge, accuracy 1/2."""
    loss, imitation, earned = student_loss(
        torch.zeros(1, 2, 2),
        torch.tensor([[0.9, 0.1], [0.0, 0.3]]),  # the second row is made up
        torch.tensor([[0.7, -0.1]]),
        torch.tensor([[1.0, 0.25]]),
        torch.ones(2, 2, dtype=torch.bool),
        torch.full((2, 2), 0.1),
        reward_weight=2.0,
        outcome_weight=3.0,
        **SCALES,
    )
    assert imitation.tolist() == pytest.approx([math.log(2)])
    assert earned.tolist() == [pytest.approx([(0.6 / 2 - 0.2 / 2) / 0.4])]
    assert loss.tolist() == pytest.approx([math.log(2) - 2.0 * 0.5 + 3.0 * math.log(2)])


def test_what_is_taught_is_priced_and_as_sharp_as_its_temperature_says() -> None:
    """Values 0.8 and 0.5, charges 0.4 and 0: the dearer one is 0.1 worse, a fifth of the teacher's temperature."""
    predicted = torch.tensor([[[2.0, -1.0]]])
    _, imitation, _ = student_loss(
        predicted,
        torch.tensor([[0.8, 0.5]]),
        torch.zeros(1, 2),
        None,
        torch.ones(1, 2, dtype=torch.bool),
        torch.tensor([[0.4, 0.0]]),
        reward_weight=0.0,
        outcome_weight=0.0,
        **SCALES,
    )
    ahead = (1 / (1 + math.exp(-2.0)) - 0.4 - 1 / (1 + math.exp(1.0))) / 0.25  # of the student's logits
    first = 1 / (1 + math.exp(0.2))
    by_hand = first * math.log1p(math.exp(-ahead)) + (1 - first) * math.log1p(math.exp(ahead))
    assert imitation.item() == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("reward_weight", [0.0, 2.0])
@pytest.mark.parametrize("outcome_weight", [0.0, 3.0, None])
def test_each_term_against_its_formula(reward_weight: float, outcome_weight: float | None) -> None:
    """Two members, three real samples and two made-up ones; nothing fits the second, and one is short of an action."""
    rng = np.random.default_rng(0)
    predicted = torch.tensor(rng.normal(size=(2, 5, 3)), requires_grad=True)
    values, reward, charge, accuracy = (torch.tensor(rng.random((rows, 3))) for rows in (5, 3, 5, 3))
    feasible = torch.ones(5, 3, dtype=torch.bool)
    feasible[1], feasible[2, 0] = False, False
    loss, imitation, earned = student_loss(
        predicted,
        values,
        reward,
        None if outcome_weight is None else accuracy,
        feasible,
        charge,
        reward_weight=reward_weight,
        outcome_weight=1.0 if outcome_weight is None else outcome_weight,
        **SCALES,
    )
    for member in range(2):
        taught, gained = [], []
        for row in (0, 2, 3, 4):
            on = feasible[row]
            accuracies = torch.sigmoid(predicted[member, row])
            p = torch.softmax((accuracies - charge[row])[on] / 0.25, dim=0)
            target = torch.softmax((values[row] - charge[row])[on] / 0.5, dim=0)
            taught.append(-(target * p.log()).sum())
            if row < 3:
                gained.append((p * (reward[row] - charge[row])[on] / 0.4).sum())
        chance = torch.sigmoid(predicted[member, :3])
        outcome = -(accuracy * chance.log() + (1 - accuracy) * (1 - chance).log()).mean()
        mean = torch.stack(taught).mean()
        expected = mean - reward_weight * torch.stack(gained).mean() + (outcome_weight or 0.0) * outcome
        assert loss[member].item() == pytest.approx(expected.item())
        assert imitation[member].item() == pytest.approx(mean.item())
        assert earned[member].tolist() == pytest.approx([gained[0].item(), 0.0, gained[1].item()])
        gradients = [
            torch.autograd.grad(of, predicted, retain_graph=True)[0] for of in (loss[member], expected)
        ]
        assert gradients[0].numpy() == pytest.approx(gradients[1].numpy())
        assert gradients[0][member].abs().max() > 0


def test_where_nothing_fits_there_is_nothing_to_learn() -> None:
    predicted = torch.zeros(2, 3, 3, requires_grad=True)
    ones = torch.ones(3, 3)
    loss, imitation, _ = student_loss(
        predicted,
        ones,
        ones[:2],
        None,
        torch.zeros(3, 3, dtype=torch.bool),
        ones,
        reward_weight=1.0,
        outcome_weight=0.0,
        **SCALES,
    )
    loss.sum().backward()
    assert loss.tolist() == imitation.tolist() == [0.0, 0.0]
    assert predicted.grad is not None
    assert predicted.grad.abs().max() == 0.0
