"""Hand-made groups for tests of objectives."""

import torch

from paceline.learning.groups import Groups


def make_groups(rewards: torch.Tensor, feasible: torch.Tensor | None = None) -> Groups:
    """Groups with these rewards (member, batch, action) and nothing else of interest."""
    feasible = torch.ones_like(rewards, dtype=torch.bool) if feasible is None else feasible
    return Groups(
        features=torch.zeros(*rewards.shape[:-1], 1),
        codes=torch.zeros(*rewards.shape[:-1], 2),
        accuracy=rewards,
        tested=torch.ones_like(feasible),
        feasible=feasible,
        charge=torch.zeros_like(rewards),
        rewards=rewards,
    )
