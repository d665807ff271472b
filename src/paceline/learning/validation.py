"""The measure that stops training: the mean reward of the deployed decision over a fixed grid of contexts."""

from dataclasses import dataclass

import torch

from paceline.learning.groups import GroupSource
from paceline.learning.losses import masked_log_softmax
from paceline.outcomes.chunks import row_chunks
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
    reads_price, relative = network.spec.output == "logits", source.spec.inputs.relative
    device = next(network.parameters()).device
    totals = [_Total() for _ in contexts]
    for part in row_chunks(len(source), len(network.spec.actions)):
        rows = torch.arange(part.start, part.stop)
        read = network.read_features(source.features[part].to(device).expand(network.spec.members, -1, -1))
        scores: dict[tuple[float, float], torch.Tensor] = {}
        for total, (budget, price) in zip(totals, contexts, strict=True):
            seen = (budget, price if reads_price else 0.0)
            if seen not in scores:
                told, priced = torch.tensor(seen).unsqueeze(-1)
                if relative:
                    told, priced = source.told_ms(rows, told.expand(len(rows))), priced.expand(len(rows))
                codes = source.codes(told, priced).expand(network.spec.members, -1, -1)
                outputs = network.decide(read + network.read_budget(codes.to(device)))
                scores[seen] = network.mean_scores(outputs).cpu()
            groups = source.groups(rows, torch.full((len(rows),), budget), torch.full((len(rows),), price))
            logits = scores[seen] if reads_price else scores[seen] - groups.charge / network.spec.temperature
            possible = groups.feasible.any(dim=-1)
            chosen = torch.where(groups.feasible, logits, -torch.inf).argmax(dim=-1, keepdim=True)
            probability = masked_log_softmax(logits, groups.feasible).exp()
            total.count += int(possible.sum())
            total.picked += groups.rewards.gather(-1, chosen)[possible].double().sum().item()
            total.expected += (probability * groups.rewards).sum(dim=-1)[possible].double().sum().item()
    judged = [
        (total, budget < float("inf"))
        for total, (budget, _) in zip(totals, contexts, strict=True)
        if total.count
    ]
    return ValidationScore(
        reward=_mean([total.picked / total.count for total, _ in judged]),
        expected_reward=_mean([total.expected / total.count for total, _ in judged]),
        hard_reward=_mean([total.picked / total.count for total, is_hard in judged if is_hard]),
        average_reward=_mean([total.picked / total.count for total, is_hard in judged if not is_hard]),
    )


@dataclass(slots=True)
class _Total:
    """Sums over the samples where something is feasible, of one context."""

    count: int = 0
    picked: float = 0.0
    expected: float = 0.0


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
