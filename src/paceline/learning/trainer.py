"""The training loop: stages of epochs with validation, early stopping and checkpoints."""

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paceline.learning.batch_objective import BatchObjective, batch_objective
from paceline.learning.checkpoint import (
    Checkpoint,
    read_checkpoint,
    with_prefix,
    without_prefix,
    write_checkpoint,
)
from paceline.learning.compute import Compute
from paceline.learning.contexts import ContextRanges, validation_contexts
from paceline.learning.groups import Groups, GroupSource
from paceline.learning.objectives import Metrics
from paceline.learning.options import TrainOptions
from paceline.learning.ppo import ValueNetwork
from paceline.learning.progress import Progress, ScalarWriter
from paceline.learning.stages import Stage, stages_of
from paceline.learning.validation import ValidationScore, validate
from paceline.policies.network import PolicyNetwork

Weights = dict[str, Tensor]

SMOOTHED_EPOCHS = 3
"""Validation rewards are averaged over this many epochs before they are compared: single ones are noisy."""


class Trainer:
    """State of a run. All randomness comes from one generator, so a resumed run equals an uninterrupted one."""

    def __init__(
        self,
        network: PolicyNetwork,
        train: GroupSource,
        validation: GroupSource,
        ranges: ContextRanges,
        options: TrainOptions,
        generator: torch.Generator,
    ) -> None:
        self.network, self.train_source, self.validation_source = network, train, validation
        self.ranges, self.options, self.generator = ranges, options, generator
        self.compute = Compute(
            device=options.device,
            precision=options.precision,
            gradient_checkpointing=options.gradient_checkpointing,
        )
        network.to(options.device)
        self.contexts = validation_contexts(ranges)
        self.stages = stages_of(options)
        self.stage_index = 0
        self.epoch = 0  # finished in this stage
        self.best_epoch = 0
        self.best_epochs: dict[str, int] = {}  # by finished stage; 0 is what the stage started from
        self.reference: Weights = {}  # what the last stage starts from: the warm start, or random weights
        if len(self.stages) == 1 and self.stages[0].name == "grpo":
            self.reference = _copy(network)
        self.value: ValueNetwork | None = None
        if options.algorithm == "ppo":
            inputs = train.features.shape[1] + network.spec.code_width
            value = ValueNetwork(network.spec.members, inputs, network.spec.hidden, generator)
            self.value = value.to(options.device)
        self.history: list[dict[str, Any]] = []
        self._begin_stage()

    @property
    def steps_per_epoch(self) -> int:
        """Batches that cover the training samples once."""
        return math.ceil(len(self.train_source) / self.options.batch_size)

    def run(
        self, checkpoint_dir: Path | None, fingerprint: str, progress: Progress, writer: ScalarWriter
    ) -> None:
        """Train to the end, from the checkpoint if there is one."""
        if checkpoint_dir is not None:
            saved = read_checkpoint(checkpoint_dir, fingerprint)
            if saved is not None:
                self.restore(saved)
                progress.message(f"resumed at epoch {len(self.history)}")
        progress.start(sum(stage.epochs for stage in self.stages), "training")
        progress.advance(len(self.history))
        while self.stage_index < len(self.stages):
            stage = self.stages[self.stage_index]
            if self.epoch == stage.epochs or self.epoch - self.best_epoch >= self.options.patience:
                progress.message(self._end_stage(stage))
                progress.advance(stage.epochs - self.epoch)
                self.stage_index, self.epoch = self.stage_index + 1, 0
                self._begin_stage()
            else:
                self._run_epoch(stage)
                writer.write(len(self.history), self.history[-1])
                progress.advance(1)
            done = self.stage_index == len(self.stages)
            if checkpoint_dir is not None and (done or self.epoch % self.options.checkpoint_every == 0):
                write_checkpoint(checkpoint_dir, self.checkpoint(fingerprint))

    def score(self) -> ValidationScore:
        """The network as it is, on the validation grid."""
        return validate(self.network, self.validation_source, self.contexts)

    def _begin_stage(self) -> None:
        """Fresh optimiser; the weights as they are count as epoch 0 of the stage."""
        trained = [self.network] if self.value is None else [self.network, self.value]
        named = [pair for network in trained for pair in network.named_parameters()]
        decayed = [p for name, p in named if name.endswith("weight")]
        plain = [p for name, p in named if not name.endswith("weight")]
        groups = [
            {"params": decayed, "weight_decay": self.options.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=self.options.learning_rate)
        self.best_weights = _copy(self.network)
        self.best_epoch, self.best_reward = 0, self.score().reward
        self.recent = [self.best_reward]

    def _end_stage(self, stage: Stage) -> str:
        """Keep the best epoch's weights; those of a warm start become the reference."""
        self.network.load_state_dict(self.best_weights)
        self.best_epochs[stage.name] = self.best_epoch
        if stage.name == "warm" or stage is not self.stages[-1]:
            self.reference = _copy(self.network)
        return (
            f"{stage.name}: validation reward {self.best_reward:.4f} at epoch {self.best_epoch} "
            f"of {self.epoch} run"
        )

    def _run_epoch(self, stage: Stage) -> None:
        order = self.train_source.order(self.options.members, self.generator)
        totals: Metrics = {}
        reference = self._reference_network(stage) if stage.name in ("grpo", "dpo") else None
        for step, rows in enumerate(order.split(self.options.batch_size, dim=1)):
            groups = self.train_source.random_groups(rows, self.ranges, self.generator)
            fraction = (self.epoch * self.steps_per_epoch + step) / (stage.epochs * self.steps_per_epoch)
            rate = 0.5 * stage.learning_rate * (1.0 + math.cos(math.pi * fraction))
            for name, value in self._update(stage, groups, rate, reference).items():
                totals[name] = totals.get(name, 0.0) + value
        self.epoch += 1
        self._record(stage, totals)

    def _update(self, stage: Stage, groups: Groups, rate: float, reference: PolicyNetwork | None) -> Metrics:
        """All updates on one batch; dropout is drawn once for it."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        masks = self.network.draw_masks(groups.features.shape[1], self.generator)
        groups = self.compute.placed(groups)
        objective, metrics = None, {}
        for _ in range(stage.updates):
            outputs = self.compute.outputs(self.network, groups.features, groups.codes, masks)
            if objective is None:  # what is drawn or held is that of the first update
                objective = self._objective(stage, outputs.detach(), groups, reference)
            loss, metrics = objective(outputs)
            self.optimiser.zero_grad(set_to_none=True)
            (loss * self.options.members).backward()
            for network in (self.network, self.value):
                if network is not None:
                    clip_members(list(network.parameters()), self.options.gradient_clip)
            self.optimiser.step()
        return metrics

    def _objective(
        self, stage: Stage, outputs: Tensor, groups: Groups, reference: PolicyNetwork | None
    ) -> BatchObjective:
        """The loss of a batch, with what the stage draws or holds for all updates on it."""
        known, values = None, None
        if reference is not None:
            with torch.no_grad():
                known = self.compute.outputs(reference, groups.features, groups.codes)
        if self.value is not None:
            values = partial(self.compute.outputs, self.value, groups.features, groups.codes)
        return batch_objective(
            stage.name,
            outputs,
            groups,
            self.network.spec,
            self.options,
            self.generator,
            reference=known,
            values=values,
        )

    def _reference_network(self, stage: Stage) -> PolicyNetwork:
        """The policy that a stage holds on to: the one it started from, or as it is before this epoch."""
        network = copy.deepcopy(self.network)
        if stage.name == "dpo" or self.options.kl_reference == "start":
            network.load_state_dict(self.reference)
        return network.requires_grad_(False)

    def _record(self, stage: Stage, totals: Metrics) -> None:
        """Validate, keep the best by the mean of its last epochs' rewards, append to the history."""
        score = self.score()
        self.recent = [*self.recent, score.reward][-SMOOTHED_EPOCHS:]
        smoothed = sum(self.recent) / len(self.recent)
        if smoothed > self.best_reward:
            self.best_weights, self.best_epoch, self.best_reward = _copy(self.network), self.epoch, smoothed
        counted = {name for name in totals if name.endswith("groups")}
        means = {
            name: value if name in counted else value / self.steps_per_epoch for name, value in totals.items()
        }
        scores = {f"validation_{name}": value for name, value in asdict(score).items()}
        self.history.append({"phase": stage.name, "epoch": self.epoch, **means, **scores})

    def checkpoint(self, fingerprint: str) -> Checkpoint:
        """All state that the rest of the run depends on."""
        optimiser = {
            f"{index}/{name}": tensor
            for index, values in self.optimiser.state_dict()["state"].items()
            for name, tensor in values.items()
        }
        tensors = (
            with_prefix("network", self.network.state_dict())
            | with_prefix("best", self.best_weights)
            | with_prefix("reference", self.reference)
            | with_prefix("optimiser", optimiser)
            | with_prefix("value", {} if self.value is None else self.value.state_dict())
            | {"generator": self.generator.get_state()}
        )
        names = ("stage_index", "epoch", "best_epoch", "best_reward", "best_epochs", "recent", "history")
        state = {name: getattr(self, name) for name in names}
        return Checkpoint(
            tensors={name: tensor.clone() for name, tensor in tensors.items()},
            state=state,
            fingerprint=fingerprint,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint of the same run."""
        tensors = checkpoint.tensors
        self.network.load_state_dict(without_prefix("network", tensors))
        if self.value is not None:
            self.value.load_state_dict(without_prefix("value", tensors))
        self.best_weights = without_prefix("best", tensors)
        self.reference = without_prefix("reference", tensors)
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in without_prefix("optimiser", tensors).items():
            index, key = name.split("/")
            state.setdefault(int(index), {})[key] = tensor
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": state})
        self.generator.set_state(tensors["generator"])
        for name, value in checkpoint.state.items():
            setattr(self, name, value)


def clip_members(parameters: list[torch.nn.Parameter], limit: float) -> None:
    """Scale every member's gradient to a norm of at most `limit`; members are the first axis everywhere."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
    factor = (limit / norms.clamp(min=1e-12)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor.reshape(-1, *[1] * (gradient.dim() - 1)))


def fingerprint_of(options: TrainOptions, digests: Mapping[str, str]) -> str:
    """What a checkpoint belongs to, as JSON."""
    return json.dumps(options.to_json() | dict(digests), sort_keys=True)


def _copy(network: PolicyNetwork) -> Weights:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}
