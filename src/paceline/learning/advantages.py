"""Advantages of actions relative to their group: actions of the same sample under the same budget and price."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

EQUAL_REWARDS = 1e-6
"""Rewards of a group whose standard deviation is below this count as equal: nothing to learn from them."""


def group_mean_and_std(
    rewards: Float[Tensor, "*group action"], weights: Float[Tensor, "*group action"]
) -> tuple[Float[Tensor, "*group 1"], Float[Tensor, "*group 1"]]:
    """Weighted mean and standard deviation of the rewards in each group; weights sum to 1 or are all 0."""
    mean = (weights * rewards).sum(dim=-1, keepdim=True)
    variance = (weights * (rewards - mean) ** 2).sum(dim=-1, keepdim=True)
    return mean, variance.sqrt()


def group_advantages(
    rewards: Float[Tensor, "*group action"],
    weights: Float[Tensor, "*group action"],
    *,
    divide_by_std: bool = False,
) -> tuple[Float[Tensor, "*group action"], Bool[Tensor, "*group"]]:
    """A_i = r_i - sum_j w_j r_j, over the group's standard deviation if asked; and which groups have any variance.

    For G sampled actions w = 1/G (the group mean of GRPO). For the exact expectation w is the policy's own
    probability of every action, which is what the mean of a sampled group tends to as G grows. Groups of equal
    rewards get zeros and False.
    """
    mean, std = group_mean_and_std(rewards, weights)
    informative = std > EQUAL_REWARDS
    advantages = torch.where(informative & (weights > 0), rewards - mean, 0.0)
    if divide_by_std:
        advantages = advantages / torch.where(informative, std, 1.0)
    return advantages, informative.squeeze(-1)
