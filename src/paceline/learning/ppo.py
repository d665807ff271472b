"""PPO for one decision: a value network predicts a context's reward, clipped steps follow reward - value.

Schulman et al. 2017, arXiv:1707.06347, on episodes of one step: no discount and no bootstrapping are left.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from paceline.learning.groups import Groups
from paceline.learning.losses import clipped_policy_loss, entropy, masked_log_softmax, mean_over
from paceline.learning.objectives import Metrics, draw_actions
from paceline.learning.options import TrainOptions
from paceline.policies.stacked import StackedLinear


class ValueNetwork(nn.Module):
    """V(x, context): the reward to expect of the policy, per member. It trains beside the policy and is not kept."""

    def __init__(self, members: int, inputs: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first = StackedLinear(members, inputs, hidden, generator)
        self.second = StackedLinear(members, hidden, hidden, generator)
        self.last = StackedLinear(members, hidden, 1, generator)

    def forward(
        self, features: Float[Tensor, "member batch feature"], codes: Float[Tensor, "member batch code"]
    ) -> Float[Tensor, "member batch"]:
        """Values of standardised features under encoded contexts."""
        hidden = torch.relu(self.first(torch.cat([features, codes], dim=-1)))
        return self.last(torch.relu(self.second(hidden))).squeeze(-1)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rollout:
    """What the acting policy did before the updates on a batch."""

    actions: Int[Tensor, "*group draw"] | None  # None: all actions, weighted by their probability
    old_log_prob: Float[Tensor, "*group draw"]
    rewards: Float[Tensor, "*group draw"]
    advantages: Float[Tensor, "*group draw"]
    weights: Float[Tensor, "*group draw"]
    active: Bool[Tensor, "*group"]  # groups where something is feasible
    counts: Metrics


@torch.no_grad()
def roll_out(
    logits: Float[Tensor, "*group action"],
    values: Float[Tensor, "*group"],
    groups: Groups,
    options: TrainOptions,
    generator: torch.Generator,
) -> Rollout:
    """Draw actions from the current policy (or take all); advantage = reward - value, of the values as they are."""
    log_prob, rewards, actions = masked_log_softmax(logits, groups.feasible), groups.rewards, None
    if options.drawn == 0:
        weights = torch.where(groups.feasible, log_prob.exp(), 0.0)
    else:
        actions = draw_actions(log_prob, options.drawn, generator)
        log_prob, rewards = log_prob.gather(-1, actions), rewards.gather(-1, actions)
        weights = torch.full_like(log_prob, 1.0 / options.drawn)
    possible = groups.feasible.any(dim=-1)
    return Rollout(
        actions=actions,
        old_log_prob=log_prob,
        rewards=rewards,
        advantages=torch.where(weights > 0, rewards - values.unsqueeze(-1), 0.0),
        weights=weights,
        active=possible,
        counts={"groups": float(possible.numel()), "infeasible_groups": float((~possible).sum())},
    )


def ppo_objective(
    logits: Float[Tensor, "*group action"],
    values: Float[Tensor, "*group"],
    groups: Groups,
    rollout: Rollout,
    options: TrainOptions,
) -> tuple[Tensor, Metrics]:
    """Clipped policy loss - entropy + squared error of the value, over the active groups.

    Policy and value share no parameter, so the value's loss needs no weight against the policy's.
    """
    log_prob = masked_log_softmax(logits, groups.feasible)
    taken = log_prob if rollout.actions is None else log_prob.gather(-1, rollout.actions)
    policy, clipped = clipped_policy_loss(
        taken,
        rollout.old_log_prob,
        rollout.advantages,
        rollout.weights,
        clip_low=options.clip_eps_low,
        clip_high=options.clip_eps_high,
    )
    errors = (rollout.weights * (values.unsqueeze(-1) - rollout.rewards) ** 2).sum(dim=-1)
    value_loss = mean_over(errors, rollout.active)
    spread = mean_over(entropy(log_prob, groups.feasible), rollout.active)
    loss = mean_over(policy, rollout.active) - options.entropy_weight * spread + value_loss
    return loss, {
        "loss": loss.item(),
        "value_loss": value_loss.item(),
        "entropy": spread.item(),
        "clipped": mean_over(clipped, rollout.active).item(),
    }
