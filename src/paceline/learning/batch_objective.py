"""The loss of one batch as a function of the network's outputs: what is drawn once, and each learner's objective."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from paceline.learning.dpo import dpo_objective, draw_pairs
from paceline.learning.groups import Groups
from paceline.learning.objectives import (
    Metrics,
    act,
    action_logits,
    grpo_objective,
    outcome_objective,
    supervised_objective,
)
from paceline.learning.options import TrainOptions
from paceline.learning.ppo import ppo_objective, roll_out
from paceline.policies.spec import PolicySpec

BatchObjective: TypeAlias = Callable[[Tensor], tuple[Tensor, Metrics]]
"""Outputs of the network (member, batch, action) -> loss and what to report."""


def batch_objective(
    stage: str,
    outputs: Float[Tensor, "member batch action"],
    groups: Groups,
    spec: PolicySpec,
    options: TrainOptions,
    generator: torch.Generator,
    *,
    reference: Float[Tensor, "member batch action"] | None = None,
    values: Callable[[], Tensor] | None = None,
) -> BatchObjective:
    """The objective of a stage on one batch.

    Args:
        stage: name of the stage, see `Stage`.
        outputs: the network's before the updates on this batch, without gradient: what acts.
        reference: outputs of the policy to hold on to; "grpo" and "dpo" need it.
        values: asks the value network about this batch, (member, batch); "ppo" needs it.
    """

    def logits(outputs: Tensor) -> Tensor:
        return action_logits(spec, outputs, groups.charge)

    if stage == "warm":
        return lambda outputs: outcome_objective(outputs, groups)
    if stage == "supervised":
        return lambda outputs: supervised_objective(logits(outputs), groups, options)
    if stage == "grpo" and reference is not None:
        behaviour = act(logits(outputs), logits(reference), groups, options, generator)
        return _counted(behaviour.counts, lambda out: grpo_objective(logits(out), groups, behaviour, options))
    if stage == "dpo" and reference is not None:
        pairs = draw_pairs(logits(reference), groups, options, generator)
        return _counted(pairs.counts, lambda out: dpo_objective(logits(out), groups, pairs, options))
    if stage == "ppo" and values is not None:
        rollout = roll_out(logits(outputs), values().detach(), groups, options, generator)
        return _counted(
            rollout.counts, lambda out: ppo_objective(logits(out), values(), groups, rollout, options)
        )
    raise ValueError(f"stage {stage!r} has no objective, or lacks what it needs")


def _counted(counts: Metrics, objective: BatchObjective) -> BatchObjective:
    """An objective that reports the counts of its batch too."""

    def with_counts(outputs: Tensor) -> tuple[Tensor, Metrics]:
        loss, metrics = objective(outputs)
        return loss, metrics | counts

    return with_counts
