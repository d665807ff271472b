"""The measure that stops training: the mean reward of the deployed decision over a fixed grid of contexts."""

from dataclasses import dataclass

import torch

from paceline.learning.groups import GroupSource
from paceline.learning.losses import masked_log_softmax
from paceline.policies.network import PolicyNetwork


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationScore:
    """Means over contexts of means over the samples where something is feasible."""

    reward: float  # of the configuration that the decision rule picks
    expected_reward: float  # of the policy's own distribution
    hard_reward: float  # `reward`, hard budgets only
    average_reward: float  # `reward`, priced contexts only


@torch.no_grad()
def validate(
    network: PolicyNetwork, source: GroupSource, contexts: list[tuple[float, float]]
) -> ValidationScore:
    """Score the policy on a split under (budget, price) contexts."""
    rows = torch.arange(len(source))
    read = network.read_features(source.features.expand(network.spec.members, -1, -1))
    scores: dict[tuple[float, float], torch.Tensor] = {}
    reads_price = network.spec.output == "logits"
    picked, expected, hard = [], [], []
    for budget, price in contexts:
        seen = (budget, price if reads_price else 0.0)
        if seen not in scores:
            codes = source.codes(*torch.tensor(seen).unsqueeze(-1)).expand(network.spec.members, -1, -1)
            scores[seen] = network.mean_scores(network.decide(read + network.read_budget(codes)))
        groups = source.groups(rows, torch.full((len(rows),), budget), torch.full((len(rows),), price))
        logits = scores[seen] if reads_price else scores[seen] - groups.charge / network.spec.temperature
        possible = groups.feasible.any(dim=-1)
        if not possible.any():
            continue
        chosen = torch.where(groups.feasible, logits, -torch.inf).argmax(dim=-1, keepdim=True)
        probability = masked_log_softmax(logits, groups.feasible).exp()
        picked.append(groups.rewards.gather(-1, chosen)[possible].double().mean().item())
        expected.append((probability * groups.rewards).sum(dim=-1)[possible].double().mean().item())
        hard.append(budget < float("inf"))
    return ValidationScore(
        reward=_mean(picked),
        expected_reward=_mean(expected),
        hard_reward=_mean([value for value, is_hard in zip(picked, hard, strict=True) if is_hard]),
        average_reward=_mean([value for value, is_hard in zip(picked, hard, strict=True) if not is_hard]),
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
