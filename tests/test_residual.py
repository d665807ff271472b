"""The residual on a reference: its loss, and that whatever is said of a sample comes from a network without it."""

import math

import numpy as np
import pytest
import torch

from fixed_contexts import FixedContexts
from paceline.learning.reference.options import ResidualOptions
from paceline.learning.reference.residual import ResidualPolicy, _loss, _Samples, fit_residual

TEMPERATURE = 0.2
OPTIONS = ResidualOptions(hidden=16, dropout=0.0, epochs=30, batch_size=16, learning_rate=0.02, kl_weight=0.0)


def twins(apart: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """12 samples twice: features that no other sample has, each of 3 actions right for 8 samples, and folds."""
    order = np.random.default_rng(0).permutation(12)
    features = np.tile(3.0 * np.eye(12), (2, 1))[:, order]
    reward = np.tile(np.eye(3)[np.arange(12) % 3], (2, 1))
    first = np.arange(12) // 3
    return features, reward, np.concatenate([first, (first + 1) % 4 if apart else first])


def test_what_only_the_held_out_samples_show_earns_nothing() -> None:
    """Each network can learn its samples by heart; that helps on the fold outside only where that has their twins."""
    curves = {}
    for apart in (True, False):
        features, reward, fold = twins(apart)
        reference = np.zeros_like(reward)
        contexts = FixedContexts(np.ones(reward.shape, dtype=bool), np.zeros(reward.shape))
        _, held_out, curves[apart] = fit_residual(
            features, reference, reward, fold, contexts, OPTIONS, temperature=TEMPERATURE, seed=0
        )
        assert curves[apart][0] == pytest.approx(0.0, abs=1e-6)
        assert ((held_out.argmax(axis=1) == reward.argmax(axis=1)).mean() > 0.9) == apart
    assert max(curves[True]) > 1.0  # standard deviations; all there is are 1.41
    assert max(curves[False]) < 0.3


def learned(feasible: np.ndarray, charge: np.ndarray):
    """A residual that has learned something from features that tell the right action, under fixed contexts."""
    rng = np.random.default_rng(1)
    right = np.arange(len(charge)) % charge.shape[1]
    features = np.eye(charge.shape[1])[right] + 0.3 * rng.normal(size=charge.shape)
    reward = np.eye(charge.shape[1])[right] + 0.1 * rng.random(charge.shape) + 5.0
    reference = 0.1 * rng.normal(size=charge.shape)
    fold = rng.permutation(len(charge)) % 3
    contexts = FixedContexts(feasible, charge)
    options = ResidualOptions(hidden=16, dropout=0.0, epochs=60, batch_size=8, learning_rate=0.03)
    policy, held_out, curve = fit_residual(
        features, reference, reward, fold, contexts, options, temperature=TEMPERATURE, seed=0
    )
    assert max(curve[1:]) > curve[0] + 0.1
    return policy, features, reference, reward, fold, held_out, curve


def test_values_and_the_curve_are_of_the_network_that_did_not_see_the_sample() -> None:
    rng = np.random.default_rng(2)
    feasible = rng.random((30, 4)) < 0.7
    feasible[:4] = False  # nothing can be decided there: these do not count
    charge = 0.3 * rng.random((30, 4))
    policy, features, reference, reward, fold, held_out, curve = learned(feasible, charge)
    own = np.zeros(reward.shape)
    for row in range(len(own)):
        shape = (policy.folds, 1, -1)
        with torch.no_grad():
            values = policy.values(
                torch.tensor(features[row], dtype=torch.float32).expand(shape),
                torch.tensor(reference[row], dtype=torch.float32).expand(shape),
                torch.full((policy.folds, 1), math.inf),
            )
        assert values.std(dim=0).min() > 1e-4  # networks differ
        own[row] = values[fold[row], 0].numpy()
    assert held_out == pytest.approx(own, abs=1e-5)

    relative = reward - reward.mean(axis=1, keepdims=True)
    weight = np.where(feasible, np.exp((own - charge) / TEMPERATURE), 0.0)[4:]
    chance = weight / weight.sum(axis=1, keepdims=True)
    earned = (chance * (relative - charge)[4:]).sum(axis=1)[feasible[4:].any(axis=1)] / relative.std()
    assert max(curve) == pytest.approx(earned.mean(), abs=1e-5)


@pytest.mark.parametrize(("entropy_weight", "kl_weight"), [(0.0, 0.0), (0.7, 0.0), (0.0, 0.9), (0.7, 0.9)])
def test_the_loss_by_hand(entropy_weight: float, kl_weight: float) -> None:
    """Two folds of three samples: value and gradient against the formula, sample by sample."""
    rng = np.random.default_rng(3)
    features, reference, reward = (rng.normal(size=(5, 3)) for _ in range(3))
    feasible = np.ones((5, 3), dtype=bool)
    feasible[1, 2], feasible[3, 1:] = False, False  # the latter leaves nothing to choose and counts nowhere
    contexts = FixedContexts(feasible, 0.3 * rng.random((5, 3)))
    options = ResidualOptions(hidden=8, dropout=0.0, entropy_weight=entropy_weight, kl_weight=kl_weight)
    generator = torch.Generator().manual_seed(0)
    policy = ResidualPolicy(3, 3, 2, options, temperature=TEMPERATURE, ranges=None, generator=generator)
    torch.nn.init.normal_(policy.network.last.weight, generator=generator)
    torch.nn.init.constant_(policy.log_scale, 0.4)
    rows = torch.tensor([[0, 1, 2], [3, 4, 1]])
    loss = _loss(
        policy,
        _Samples(features, reference, reward),
        rows,
        contexts.draw(rows, generator),
        options,
        generator,
    )

    relative = reward - reward.mean(axis=1, keepdims=True)
    inputs, base_values = (torch.tensor(part, dtype=torch.float32)[rows] for part in (features, reference))
    values = policy.log_scale.exp() * base_values + TEMPERATURE * policy.network(inputs)
    expected = torch.zeros(())
    for member, row in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2)):
        sample = int(rows[member, row])
        on = torch.tensor(feasible[sample])
        charge = torch.tensor(contexts.charge[sample], dtype=torch.float32)[on]
        p = torch.softmax((values[member, row][on] - charge) / TEMPERATURE, dim=0)
        q = torch.softmax((base_values[member, row][on] - charge) / TEMPERATURE, dim=0)
        earned = (torch.tensor(relative[sample], dtype=torch.float32)[on] - charge) / relative.std()
        one = (
            -(p * earned).sum()
            + entropy_weight * (p * p.log()).sum()
            + kl_weight * (p * (p.log() - q.log())).sum()
        )
        expected = expected + one / (3 if member == 0 else 2)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for weight in (policy.log_scale, *policy.network.parameters()):
        gradients = [torch.autograd.grad(of, weight, retain_graph=True)[0] for of in (loss, expected)]
        assert gradients[0].numpy() == pytest.approx(gradients[1].numpy(), abs=1e-5)
        assert gradients[0].abs().max() > 0
