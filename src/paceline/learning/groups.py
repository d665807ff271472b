"""Groups to learn from: samples under contexts, with the reward of every tested configuration."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from paceline.knobs import KnobSpace
from paceline.learning.contexts import ContextRanges, sample_contexts
from paceline.learning.dataset import DecisionProblem
from paceline.learning.deadlines import RuntimeWorth
from paceline.learning.group_rewards import GroupRewards
from paceline.learning.inputs import FittedInputs
from paceline.learning.options import TrainOptions
from paceline.learning.preparation import TrainPreparation
from paceline.policies.context_code import encode_context
from paceline.policies.spec import PolicySpec


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Groups:
    """A batch of groups: every tested configuration of one sample under one context."""

    features: Float[Tensor, "*group feature"]  # scaled and reduced
    codes: Float[Tensor, "*group code"]  # encoded contexts
    accuracy: Float[Tensor, "*group action"]
    tested: Bool[Tensor, "*group action"]
    feasible: Bool[Tensor, "*group action"]  # tested, and within the budget unless masking is off
    charge: Float[Tensor, "*group action"]  # price of the time taken: subtracted from predicted accuracy
    rewards: Float[Tensor, "*group action"]


class GroupSource:
    """One split's arrays as tensors, and the groups made from its rows under given contexts."""

    def __init__(
        self,
        problem: DecisionProblem,
        spec: PolicySpec,
        space: KnobSpace,
        options: TrainOptions,
        inputs: FittedInputs,
        preparation: TrainPreparation | None = None,
    ) -> None:
        """`preparation`: how `order` draws samples and `random_groups` changes features; None: not at all."""
        self.spec, self.options, self.preparation = spec, options, preparation
        self._kept: tuple[Tensor, Tensor] | None = None  # a budget and price per sample, without relabelling
        self.features = torch.from_numpy(inputs.prepare(problem.features))
        reduced = inputs.image.reduction is not None or inputs.question.reduction is not None
        varying = (self.features != 0).any(dim=0).float()
        self.spread = self.features.std(dim=0, correction=0) if reduced else varying  # unit of the noise
        self.counting = torch.from_numpy(inputs.counts(self.features.shape[1]))  # columns that count tokens
        self.accuracy = torch.from_numpy(problem.accuracy)
        self.tested = torch.from_numpy(problem.tested)
        self.mean_ms = torch.from_numpy(problem.mean_ms)
        self.upper_ms = torch.from_numpy(problem.upper_ms)
        full = spec.actions.index(space.action(space.full))
        self.full_ms = torch.where(self.tested[:, full], self.mean_ms[:, full], spec.full_latency_ms)
        self.runtimes = None if problem.runtime_ms is None else RuntimeWorth(problem)
        self.rewards = GroupRewards(problem, spec, space, options)

    def __len__(self) -> int:
        return len(self.features)

    def groups(
        self, rows: Int[Tensor, "*group"], budget_ms: Float[Tensor, "*group"], price: Float[Tensor, "*group"]
    ) -> Groups:
        """The groups of samples `rows` under budgets (inf: none) and prices."""
        budget, price = budget_ms.unsqueeze(-1), price.unsqueeze(-1)
        accuracy, tested, mean_ms = self.accuracy[rows], self.tested[rows], self.mean_ms[rows]
        if self.runtimes is not None:
            accuracy = self.runtimes.worth(accuracy, rows, budget)
        feasible = tested & (self.upper_ms[rows] <= budget) if self.options.mask_infeasible else tested
        return Groups(
            features=self.features[rows],
            codes=self.codes(self.told_ms(rows, budget_ms), price.squeeze(-1)),
            accuracy=accuracy,
            tested=tested,
            feasible=feasible,
            charge=price * mean_ms / self.spec.full_latency_ms,
            rewards=self.rewards(accuracy, mean_ms, budget, price),
        )

    def random_groups(
        self, rows: Int[Tensor, "*group"], ranges: ContextRanges, generator: torch.Generator
    ) -> Groups:
        """The groups of `rows` under contexts drawn from `ranges`, with augmented features where that was prepared."""
        groups = self.groups(rows, *self._contexts(rows, ranges, generator))
        if self.preparation is None or not self.preparation.recipe.augments:
            return groups
        counting = self.counting if self.counting.any() else None
        features = self.preparation.augmented(self.features, rows, self.spread, generator, counting)
        return replace(groups, features=features)

    def _contexts(
        self, rows: Int[Tensor, "*group"], ranges: ContextRanges, generator: torch.Generator
    ) -> tuple[Float[Tensor, "*group"], Float[Tensor, "*group"]]:
        """New budgets and prices, or those that each sample keeps."""
        share = self.options.average_share
        mixed = self.options.mixed_share if self.spec.output == "logits" else 0.0
        if self.options.relabel:
            return sample_contexts(tuple(rows.shape), ranges, share, generator, mixed_share=mixed)
        if self._kept is None:
            own = torch.Generator().manual_seed(self.options.seed)
            self._kept = sample_contexts((len(self),), ranges, share, own, mixed_share=mixed)
        budget, price = self._kept
        return budget[rows], price[rows]

    def order(self, members: int, generator: torch.Generator) -> Int[Tensor, "member sample"]:
        """The samples of one epoch for each member."""
        if self.preparation is not None:
            return self.preparation.order((members, len(self)), generator)
        return torch.stack([torch.randperm(len(self), generator=generator) for _ in range(members)])

    def told_ms(
        self, rows: Int[Tensor, "*group"], budget_ms: Float[Tensor, "*group"]
    ) -> Float[Tensor, "*group"]:
        """Budgets of samples `rows` as the network is told them, see `InputSpec.told_ms`."""
        if not self.spec.inputs.relative:
            return budget_ms
        told = self.spec.told_ms(budget_ms.numpy(), self.full_ms[rows].numpy())
        return torch.from_numpy(np.asarray(told))

    def codes(
        self, budget_ms: Float[Tensor, "*group"], price: Float[Tensor, "*group"]
    ) -> Float[Tensor, "*group code"]:
        """Contexts as the network sees them."""
        return torch.from_numpy(encode_context(self.spec, budget_ms.numpy(), price.numpy()))
