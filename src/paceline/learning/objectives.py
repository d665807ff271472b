"""One update's loss for each learner: outcome prediction, GRPO, and supervised learning of the best configuration."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from paceline.learning.advantages import group_advantages
from paceline.learning.groups import Groups
from paceline.learning.losses import (
    best_action_targets,
    clipped_policy_loss,
    entropy,
    kl_divergence,
    masked_log_softmax,
    mean_over,
    outcome_loss,
    sampled_kl_divergence,
    target_loss,
)
from paceline.learning.options import TrainOptions
from paceline.policies.spec import PolicySpec

Metrics = dict[str, float]


def action_logits(
    spec: PolicySpec, outputs: Float[Tensor, "*group action"], charge: Float[Tensor, "*group action"]
) -> Float[Tensor, "*group action"]:
    """The decision rule's logits from a network's outputs, whichever they are."""
    return outputs if spec.output == "logits" else policy_logits(outputs, charge, spec.temperature)


def policy_logits(
    accuracy_logits: Float[Tensor, "*group action"],
    charge: Float[Tensor, "*group action"],
    temperature: float,
) -> Float[Tensor, "*group action"]:
    """(predicted accuracy - price of the time) / temperature: the decision rule's logits."""
    return (torch.sigmoid(accuracy_logits) - charge) / temperature


def outcome_objective(accuracy_logits: Tensor, groups: Groups) -> tuple[Tensor, Metrics]:
    """Warm start: predict the accuracy of all tested configurations."""
    loss = outcome_loss(accuracy_logits, groups.accuracy, groups.tested)
    return loss, {"loss": loss.item()}


def supervised_objective(
    logits: Float[Tensor, "*group action"], groups: Groups, options: TrainOptions
) -> tuple[Tensor, Metrics]:
    """Cross-entropy to the feasible configuration of the highest reward.

    Configurations that differ by no more than the tie-break share the target evenly: a single label would pick
    out the cheapest of many right answers, most often by luck.
    """
    log_prob = masked_log_softmax(logits, groups.feasible)
    target = best_action_targets(groups.rewards, groups.feasible, options.tie_break)
    loss = mean_over(target_loss(log_prob, target), groups.feasible.any(dim=-1))
    return loss, {"loss": loss.item()}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Behaviour:
    """What was drawn before the updates on a batch: the acting policy, its actions and their advantages."""

    actions: Int[Tensor, "*group draw"] | None  # None: all actions, weighted by their probability
    old_log_prob: Float[Tensor, "*group draw"]
    advantages: Float[Tensor, "*group draw"]
    weights: Float[Tensor, "*group draw"]
    active: Bool[Tensor, "*group"]  # groups with something to learn from
    reference_log_prob: Float[Tensor, "*group draw"]
    counts: Metrics


@torch.no_grad()
def act(
    logits: Float[Tensor, "*group action"],
    reference_logits: Float[Tensor, "*group action"],
    groups: Groups,
    options: TrainOptions,
    generator: torch.Generator,
) -> Behaviour:
    """Draw groups from the current policy (or take the exact expectation) and compute their advantages."""
    log_prob = masked_log_softmax(logits, groups.feasible)
    reference = masked_log_softmax(reference_logits, groups.feasible)
    possible = groups.feasible.any(dim=-1)
    actions, rewards = None, groups.rewards
    if options.drawn == 0:
        weights = torch.where(groups.feasible, log_prob.exp(), 0.0)
    else:
        actions = draw_actions(log_prob, options.drawn, generator)
        log_prob, rewards = log_prob.gather(-1, actions), rewards.gather(-1, actions)
        reference = reference.gather(-1, actions)
        weights = torch.full_like(log_prob, 1.0 / options.drawn)
    advantages, informative = group_advantages(rewards, weights, divide_by_std=options.divide_by_std)
    counts = {
        "groups": float(possible.numel()),
        "infeasible_groups": float((~possible).sum()),
        "zero_variance_groups": float((possible & ~informative).sum()),
    }
    return Behaviour(
        actions=actions,
        old_log_prob=log_prob,
        advantages=advantages,
        weights=weights,
        active=possible & informative,
        reference_log_prob=reference,
        counts=counts,
    )


def draw_actions(
    log_prob: Float[Tensor, "*group action"], size: int, generator: torch.Generator
) -> Int[Tensor, "*group draw"]:
    """`size` independent actions per group, with replacement."""
    flat = log_prob.exp().reshape(-1, log_prob.shape[-1]).to(generator.device)
    drawn = torch.multinomial(flat, size, replacement=True, generator=generator)
    return drawn.reshape(*log_prob.shape[:-1], size).to(log_prob.device)


def grpo_objective(
    logits: Float[Tensor, "*group action"],
    groups: Groups,
    behaviour: Behaviour,
    options: TrainOptions,
) -> tuple[Tensor, Metrics]:
    """Clipped, group-relative policy loss + KL to the reference - entropy, over the active groups.

    The KL is exact where all actions are weighted and the k3 estimate where they are drawn; the entropy is exact.
    """
    log_prob = masked_log_softmax(logits, groups.feasible)
    taken = log_prob if behaviour.actions is None else log_prob.gather(-1, behaviour.actions)
    policy, clipped = clipped_policy_loss(
        taken,
        behaviour.old_log_prob,
        behaviour.advantages,
        behaviour.weights,
        clip_low=options.clip_eps_low,
        clip_high=options.clip_eps_high,
    )
    if behaviour.actions is None:
        distance = kl_divergence(log_prob, behaviour.reference_log_prob, groups.feasible)
    else:
        distance = sampled_kl_divergence(
            taken, behaviour.old_log_prob, behaviour.reference_log_prob, behaviour.weights
        )
    divergence = mean_over(distance, behaviour.active)
    spread = mean_over(entropy(log_prob, groups.feasible), behaviour.active)
    loss = mean_over(policy, behaviour.active) + options.kl * divergence - options.entropy_weight * spread
    return loss, {
        "loss": loss.item(),
        "kl": divergence.item(),
        "entropy": spread.item(),
        "clipped": mean_over(clipped, behaviour.active).item(),
    }
