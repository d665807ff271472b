"""Direct preference optimisation on pairs of configurations (Rafailov et al. 2023, arXiv:2305.18290)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from paceline.learning.groups import Groups
from paceline.learning.losses import masked_log_softmax, mean_over
from paceline.learning.objectives import Metrics, draw_actions
from paceline.learning.options import TrainOptions


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pairs:
    """Two feasible configurations of the same sample and context, several times per group."""

    preferred: Int[Tensor, "*group pair"]  # the one of higher reward
    other: Int[Tensor, "*group pair"]
    counted: Bool[Tensor, "*group pair"]  # False where the rewards tie
    margin: Float[Tensor, "*group pair"]  # the reference's log p(preferred) - log p(other)
    counts: Metrics


@torch.no_grad()
def draw_pairs(
    reference_logits: Float[Tensor, "*group action"],
    groups: Groups,
    options: TrainOptions,
    generator: torch.Generator,
) -> Pairs:
    """`options.dpo_pairs` pairs per group, both drawn evenly from what is feasible.

    Rewards within the tie-break of each other are a tie, as they are for supervised learning: which of two right
    answers came a moment sooner is no preference.
    """
    possible = groups.feasible.any(dim=-1)
    even = torch.where(possible.unsqueeze(-1), groups.feasible, True).float()
    drawn = draw_actions(even.log(), 2 * options.dpo_pairs, generator)
    first, second = drawn.unflatten(-1, (2, options.dpo_pairs)).unbind(dim=-2)
    gap = groups.rewards.gather(-1, first) - groups.rewards.gather(-1, second)
    preferred, other = torch.where(gap >= 0, first, second), torch.where(gap >= 0, second, first)
    counted = (gap.abs() > options.tie_break) & possible.unsqueeze(-1)
    reference = masked_log_softmax(reference_logits, groups.feasible)
    counts = {
        "groups": float(possible.numel()),
        "infeasible_groups": float((~possible).sum()),
        "zero_variance_groups": float((possible & ~counted.any(dim=-1)).sum()),
    }
    return Pairs(
        preferred=preferred,
        other=other,
        counted=counted,
        margin=reference.gather(-1, preferred) - reference.gather(-1, other),
        counts=counts,
    )


def preference_loss(
    margin: Float[Tensor, "*group pair"], reference_margin: Float[Tensor, "*group pair"], beta: float
) -> Float[Tensor, "*group pair"]:
    """- log sigmoid(beta (margin - reference margin)); a margin is log p(preferred) - log p(other)."""
    return -F.logsigmoid(beta * (margin - reference_margin))


def dpo_objective(
    logits: Float[Tensor, "*group action"], groups: Groups, pairs: Pairs, options: TrainOptions
) -> tuple[Tensor, Metrics]:
    """Mean preference loss over the counted pairs of a group, then over the groups that have any."""
    log_prob = masked_log_softmax(logits, groups.feasible)
    margin = log_prob.gather(-1, pairs.preferred) - log_prob.gather(-1, pairs.other)
    active, total = pairs.counted.any(dim=-1), pairs.counted.sum(dim=-1).clamp(min=1)
    losses = torch.where(pairs.counted, preference_loss(margin, pairs.margin, options.dpo_beta), 0.0)
    loss = mean_over(losses.sum(dim=-1) / total, active)
    right = (pairs.counted & (margin > 0)).sum(dim=-1) / total
    return loss, {"loss": loss.item(), "preferred": mean_over(right, active).item()}
