"""Group-relative policy optimisation of a residual on a reference policy, one network per inner fold.

The group is every configuration of a sample, so the expectation over actions is exact:

    loss = - sum_a pi(a) A(a) / spread(A) - entropy_weight H(pi) + kl_weight KL(pi || reference)

with logits (scale V(a) - charge(a)) / temperature + residual(a; x, budget), where V are the reference's values. The
residual starts at 0: the policy starts as the reference.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paceline.budgets import encode_budget
from paceline.learning.contexts import ContextRanges
from paceline.learning.losses import entropy, kl_divergence, masked_log_softmax
from paceline.learning.reference.contexts import ContextSource, DrawnContexts
from paceline.learning.reference.options import ResidualOptions
from paceline.learning.reference.stack import centred
from paceline.learning.reference.stacked_network import StackedNetwork

CODE_WIDTH = 16
"""Width of an encoded budget."""
CHECKS = 2
"""Contexts per sample under which epochs are compared."""


class ResidualPolicy:
    """Networks whose outputs are added to the reference's logits; one per inner fold, their mean counts."""

    def __init__(
        self,
        features: int,
        actions: int,
        folds: int,
        options: ResidualOptions,
        *,
        temperature: float,
        ranges: ContextRanges | None,
        generator: torch.Generator,
    ) -> None:
        """`temperature`: reward per unit of logits. `ranges`: of budgets; None where there are none."""
        self.temperature, self.ranges, self.folds = temperature, ranges, folds
        width = features + (CODE_WIDTH if ranges is not None else 0)
        self.network = StackedNetwork(
            folds,
            width,
            options.hidden,
            actions,
            dropout=options.dropout,
            generator=generator,
            zero_output=True,
        )
        self.log_scale = torch.nn.Parameter(torch.zeros(folds, 1, 1))

    def values(
        self,
        features: Float[Tensor, "member row f"],
        reference: Float[Tensor, "member row action"],
        budget_ms: Float[Tensor, "member row"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "member row action"]:
        """Values of the optimised policies, in units of the reward."""
        inputs = features
        if self.ranges is not None:
            codes = torch.from_numpy(
                encode_budget(
                    budget_ms.numpy(),
                    low_ms=self.ranges.budget_low_ms,
                    high_ms=self.ranges.budget_high_ms,
                    dimensions=CODE_WIDTH,
                )
            )
            inputs = torch.cat([features, codes], dim=-1)
        return self.log_scale.exp() * reference + self.temperature * self.network(inputs, generator)

    @torch.no_grad()
    def mean_values(
        self, features: np.ndarray, reference: np.ndarray, budget_ms: float | None
    ) -> Float[np.ndarray, "row action"]:
        """Mean over folds for new samples under one budget: scaled features (k, f), reference values (k, m)."""
        rows = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32)).expand(self.folds, -1, -1)
        base = torch.from_numpy(np.ascontiguousarray(reference, dtype=np.float32)).expand(self.folds, -1, -1)
        budget = torch.full(rows.shape[:2], math.inf if budget_ms is None else budget_ms)
        return self.values(rows, base, budget).mean(dim=0).numpy()

    def weights(self) -> dict[str, Tensor]:
        """Everything that is learned."""
        return {**self.network.state_dict(), "log_scale": self.log_scale.detach()}

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take over what `weights` gave."""
        rest = {name: tensor for name, tensor in weights.items() if name != "log_scale"}
        self.network.load_state_dict(rest)
        with torch.no_grad():
            self.log_scale.copy_(weights["log_scale"])


def fit_residual(
    features: np.ndarray,
    reference: np.ndarray,
    reward: np.ndarray,
    fold: np.ndarray,
    contexts: ContextSource,
    options: ResidualOptions,
    *,
    temperature: float,
    seed: int,
) -> tuple[ResidualPolicy, np.ndarray, list[float]]:
    """Optimise a policy per fold on the other folds' samples, stop all where their own folds earn most.

    Args:
        features: scaled, (n, f). reference: held-out values (n, m) in units of the reward. reward: (n, m).
        fold: (n,) from `scene_folds`. temperature: reward per unit of logits.

    Returns:
        The policies, their values for the samples by the network that did not see them (n, m) without a budget, and
        the expected reward of the held-out folds after each epoch, beginning with the reference's own.
    """
    generator = torch.Generator().manual_seed(seed)
    folds = int(fold.max()) + 1
    policy = ResidualPolicy(
        features.shape[1],
        reward.shape[1],
        folds,
        options,
        temperature=temperature,
        ranges=contexts.ranges,
        generator=generator,
    )
    data = _Samples(features, reference, reward)
    kept = [torch.from_numpy(np.flatnonzero(fold != index)) for index in range(folds)]
    held = [torch.from_numpy(np.flatnonzero(fold == index)) for index in range(folds)]
    checks = [contexts.draw(rows.repeat(CHECKS), generator) for rows in held]
    count = min(len(rows) for rows in kept)
    batch = min(options.batch_size, count)
    steps = count // batch
    optimiser = torch.optim.AdamW(
        [
            {"params": policy.network.parameters(), "weight_decay": options.weight_decay},
            {"params": [policy.log_scale], "weight_decay": 0.0},
        ],
        lr=options.learning_rate,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, options.epochs * steps))
    best, curve = _copy(policy), [_expected_reward(policy, data, held, checks)]
    for _ in range(options.epochs):
        order = torch.stack([rows[torch.randperm(len(rows), generator=generator)[:count]] for rows in kept])
        for rows in order[:, : steps * batch].split(batch, dim=1):
            loss = _loss(policy, data, rows, contexts.draw(rows, generator), options, generator)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
        curve.append(_expected_reward(policy, data, held, checks))
        if curve[-1] > max(curve[:-1]):
            best = _copy(policy)
    policy.load(best)
    return policy, _held_out_values(policy, data, held), curve


class _Samples:
    """Arrays of the fitted samples as tensors; rewards in their own standard deviations."""

    def __init__(self, features: np.ndarray, reference: np.ndarray, reward: np.ndarray) -> None:
        relative = centred(reward)
        self.spread = max(float(relative.std()), 1e-12)
        self.features, self.reference, self.reward = (
            torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
            for values in (features, reference, relative / self.spread)
        )


def _loss(
    policy: ResidualPolicy,
    data: _Samples,
    rows: Tensor,
    drawn: DrawnContexts,
    options: ResidualOptions,
    generator: torch.Generator,
) -> Tensor:
    """Sum over folds of the mean loss over groups; groups in which nothing or one action fits are left out."""
    reference = data.reference[rows]
    values = policy.values(data.features[rows], reference, drawn.budget_ms, generator)
    log_prob = masked_log_softmax((values - drawn.charge) / policy.temperature, drawn.feasible)
    base = masked_log_softmax((reference - drawn.charge) / policy.temperature, drawn.feasible)
    reward = data.reward[rows] - drawn.charge / data.spread
    expected = torch.where(drawn.feasible, log_prob.exp() * reward, 0.0).sum(dim=-1)
    loss = (
        -expected
        - options.entropy_weight * entropy(log_prob, drawn.feasible)
        + options.kl_weight * kl_divergence(log_prob, base, drawn.feasible)
    )
    open_groups = drawn.feasible.sum(dim=-1) > 1
    return (torch.where(open_groups, loss, 0.0).sum(dim=1) / open_groups.sum(dim=1).clamp(min=1)).sum()


@torch.no_grad()
def _expected_reward(
    policy: ResidualPolicy, data: _Samples, held: list[Tensor], checks: list[DrawnContexts]
) -> float:
    """Mean over held-out samples and their contexts of the policy's expected reward, each by its own network."""
    total, groups = 0.0, 0
    for index, (rows, drawn) in enumerate(zip(held, checks, strict=True)):
        rows = rows.repeat(CHECKS)
        shape = (policy.folds, -1, -1)
        values = policy.values(
            data.features[rows].expand(shape),
            data.reference[rows].expand(shape),
            drawn.budget_ms.expand(policy.folds, -1),
        )[index]
        log_prob = masked_log_softmax((values - drawn.charge) / policy.temperature, drawn.feasible)
        reward = data.reward[rows] - drawn.charge / data.spread
        possible = drawn.feasible.any(dim=-1)
        earned = torch.where(drawn.feasible, log_prob.exp() * reward, 0.0).sum(dim=-1)
        total += float(earned[possible].sum())
        groups += int(possible.sum())
    return total / max(groups, 1)


@torch.no_grad()
def _held_out_values(policy: ResidualPolicy, data: _Samples, held: list[Tensor]) -> np.ndarray:
    result = torch.zeros_like(data.reference)
    for index, rows in enumerate(held):
        shape = (policy.folds, -1, -1)
        budget = torch.full((policy.folds, len(rows)), math.inf)
        values = policy.values(data.features[rows].expand(shape), data.reference[rows].expand(shape), budget)
        result[rows] = values[index]
    return result.numpy().astype(np.float64)


def _copy(policy: ResidualPolicy) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in policy.weights().items()}
