"""Losses of the learners as pure functions. `mask` marks the actions that are tested and feasible."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

EXCLUDED = -1e9
"""Logit of an action that must not be chosen: its probability is exactly 0 in float32 and gradients stay finite."""


def masked_log_softmax(
    logits: Float[Tensor, "*group action"], mask: Bool[Tensor, "*group action"]
) -> Float[Tensor, "*group action"]:
    """Log-probabilities over the masked-in actions; EXCLUDED or lower elsewhere (uniform where none is in)."""
    return torch.log_softmax(torch.where(mask, logits, EXCLUDED), dim=-1)


def clipped_policy_loss(
    log_prob: Float[Tensor, "*group action"],
    old_log_prob: Float[Tensor, "*group action"],
    advantages: Float[Tensor, "*group action"],
    weights: Float[Tensor, "*group action"],
    *,
    clip_low: float,
    clip_high: float,
) -> tuple[Float[Tensor, "*group"], Float[Tensor, "*group"]]:
    """- sum_i w_i min(ratio_i A_i, clip(ratio_i, 1 - low, 1 + high) A_i), and the clipped share, per group.

    ratio = exp(log_prob - old_log_prob). w_i is 1/G for sampled actions, the old probability for all of them. A
    `clip_high` above `clip_low` lets rare actions gain faster than common ones lose (DAPO, arXiv:2503.14476).
    """
    ratio = torch.exp(torch.where(weights > 0, log_prob - old_log_prob, 0.0))
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    gain = torch.minimum(ratio * advantages, clipped * advantages)
    outside = (weights * (clipped * advantages < ratio * advantages)).sum(dim=-1)
    return -(weights * gain).sum(dim=-1), outside.detach()


def kl_divergence(
    log_prob: Float[Tensor, "*group action"],
    reference_log_prob: Float[Tensor, "*group action"],
    mask: Bool[Tensor, "*group action"],
) -> Float[Tensor, "*group"]:
    """KL(policy || reference) = sum_a p(a) (log p(a) - log q(a)), exact over the masked-in actions, in nats."""
    difference = torch.where(mask, log_prob - reference_log_prob, 0.0)
    return (log_prob.exp() * difference).sum(dim=-1)


def sampled_kl_divergence(
    log_prob: Float[Tensor, "*group draw"],
    old_log_prob: Float[Tensor, "*group draw"],
    reference_log_prob: Float[Tensor, "*group draw"],
    weights: Float[Tensor, "*group draw"],
) -> Float[Tensor, "*group"]:
    """KL(policy || reference) from actions that the old policy drew: sum_i w_i (p/old)_i (q/p - 1 - log q/p)_i.

    The k3 estimator (Schulman 2020, joschu.net/blog/kl-approx.html): never negative and of less variance than
    the plain mean of log p/q. Without the ratio p/old its gradient would be that of KL(reference || policy), and its
    value biased from the second update on; with it both are unbiased.
    """
    taken = weights > 0
    ratio = torch.exp(torch.where(taken, log_prob - old_log_prob, 0.0))
    other = torch.where(taken, reference_log_prob - log_prob, 0.0)
    return (weights * ratio * (torch.exp(other) - 1.0 - other)).sum(dim=-1)


def entropy(
    log_prob: Float[Tensor, "*group action"], mask: Bool[Tensor, "*group action"]
) -> Float[Tensor, "*group"]:
    """- sum_a p(a) log p(a) over the masked-in actions, in nats."""
    return -(log_prob.exp() * torch.where(mask, log_prob, 0.0)).sum(dim=-1)


def outcome_loss(
    logits: Float[Tensor, "*batch action"],
    accuracy: Float[Tensor, "*batch action"],
    tested: Bool[Tensor, "*batch action"],
) -> Float[Tensor, ""]:
    """Mean binary cross-entropy of predicted against observed accuracy over the tested cells."""
    losses = F.binary_cross_entropy_with_logits(logits, accuracy, reduction="none")
    return (losses * tested).sum() / tested.sum().clamp(min=1)


def best_action_targets(
    rewards: Float[Tensor, "*group action"], mask: Bool[Tensor, "*group action"], tolerance: float
) -> Float[Tensor, "*group action"]:
    """A distribution per group, even over the masked-in actions within `tolerance` of the best reward."""
    allowed = torch.where(mask, rewards, -torch.inf)
    best = mask & (allowed >= allowed.amax(dim=-1, keepdim=True) - tolerance)
    return best / best.sum(dim=-1, keepdim=True).clamp(min=1)


def target_loss(
    log_prob: Float[Tensor, "*group action"], target: Float[Tensor, "*group action"]
) -> Float[Tensor, "*group"]:
    """Cross-entropy to a distribution per group: - sum_a target(a) log p(a)."""
    return -torch.where(target > 0, target * log_prob, 0.0).sum(dim=-1)


def mean_over(values: Float[Tensor, "*group"], active: Bool[Tensor, "*group"]) -> Float[Tensor, ""]:
    """Mean over the active groups; 0 with a finite gradient when there are none."""
    return torch.where(active, values, 0.0).sum() / active.sum().clamp(min=1)
