"""Few-shot adaptation: a trained policy goes on learning from a few labelled samples of a new data set.

An exported policy is a network of two hidden layers, so that training goes on from the arrays that decide:

    loss = outcome_weight (cross-entropy of predicted accuracies) - reward_weight (expected reward of the policy)

The expectation is exact over all configurations, under budgets and prices drawn anew. Weights are drawn back to where
they started, and inner folds choose how many updates are taken: none where the policy is best as it is.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paceline.errors import TrainError
from paceline.learning.checks import check_number, check_seed, check_whole
from paceline.learning.losses import masked_log_softmax
from paceline.learning.problem import Problem
from paceline.learning.reference.contexts import ContextSource, DrawnContexts
from paceline.learning.reference.crossfit import scene_folds
from paceline.learning.trained import TrainedPolicy
from paceline.policies.context_code import encode_context
from paceline.policies.feature_scaling import FeatureScaling
from paceline.policies.inputs import ATTENTION
from paceline.policies.numpy_policy import NumpyPolicy
from paceline.policies.spec import PolicySpec

LAYERS = ("input", "fusion", "head")
LEAST_SAMPLES = 4
CHECKS = 8
"""Contexts per sample under which inner folds are judged."""

Weights = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptOptions:
    """Options of `adapt_policy`."""

    steps: int = 120  # most updates; how many are taken is chosen by inner folds
    check_every: int = 10  # updates between two that can be chosen
    folds: int = 5  # inner folds, by scene; 0: take all updates
    batch_size: int = 64  # samples per update; of fewer samples all
    learning_rate: float = 3e-4  # of Adam, constant
    pull: float = (
        0.5  # share of their way that weights go back to the start, per update and learning rate of 1
    )
    dropout: float = 0.2  # of hidden units
    outcome_weight: float = 1.0  # of predicting accuracy
    reward_weight: float = 1.0  # of the expected reward
    average_share: float = 0.5  # of contexts without a limit but with a price of time
    tie_break: float = 0.01  # accuracy per full latency
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("check_every", 1), ("folds", 0), ("batch_size", 1)):
            check_whole(name, getattr(self, name), least)
        check_seed(self.seed)
        if self.folds == 1:
            raise TrainError("folds: got 1, expected 0 (take all updates) or at least 2")
        check_number("learning_rate", self.learning_rate, above=0.0)
        for name in ("pull", "outcome_weight", "reward_weight", "tie_break"):
            check_number(name, getattr(self, name))
        check_number("average_share", self.average_share, at_most=1.0)
        check_number("dropout", self.dropout, below=1.0)
        if self.outcome_weight == self.reward_weight == 0.0:
            raise TrainError("outcome_weight and reward_weight: got 0 for both, expected one above 0")

    def to_json(self) -> dict[str, Any]:
        """A JSON value from which `from_json` makes equal options."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "AdaptOptions":
        """Options written by `to_json`; unknown keys are errors, missing ones take the default."""
        unknown = sorted(set(value) - {item.name for item in fields(cls)})
        if unknown:
            raise TrainError(f"adaptation options: got unknown {unknown}, expected names of AdaptOptions")
        return cls(**value)


def adapt_policy(
    policy: NumpyPolicy, problem: Problem, options: AdaptOptions | None = None, *, scale: float = 1.0
) -> TrainedPolicy:
    """A policy that went on learning from the samples of `problem`, all of them labelled.

    `scale`: the time of the machine of `problem` over that of the machine the policy was trained for.

    Raises TrainError for a policy that predicts no accuracies or pools tokens, another knob space, other configurations
    or features, times that are known only afterwards, and fewer than 4 samples.
    """
    options = options or AdaptOptions()
    if 0 < options.steps < options.check_every:  # else none of the updates would be judged
        options = replace(options, check_every=options.steps)
    check_adaptable(policy.spec, problem)
    started = time.perf_counter()
    learner = _Learner(policy, problem, options, scale)
    curve = _held_out_rewards(learner, problem.scene) if options.folds and options.steps else None
    steps = options.steps if curve is None else options.check_every * int(np.argmax(curve))
    generator = torch.Generator().manual_seed(options.seed)
    everybody = torch.arange(problem.samples)
    weights = learner.start()
    losses = learner.train(weights, everybody, steps, generator)
    arrays = {name: np.array(array, copy=True) for name, array in policy.arrays.items()}
    arrays |= {name: tensor.detach().numpy().copy() for name, tensor in weights.items()}
    facts = {
        "algorithm": "adapted",
        "options": asdict(options),
        "samples": {"train": problem.samples},
        "tested_configurations": len(problem.actions),
        "steps": steps,
        "held_out_rewards": curve,
        "warnings": [],
        "seconds": time.perf_counter() - started,
    }
    history = [{"phase": "adaptation", "step": k + 1, "loss": loss} for k, loss in enumerate(losses)]
    return TrainedPolicy(spec=policy.spec, arrays=arrays, history=history, facts=facts)


def check_adaptable(spec: PolicySpec, problem: Problem) -> None:
    """Raise TrainError unless a policy can go on learning from these samples; see `adapt_policy`."""
    if spec.output != "accuracy":
        raise TrainError(
            f"adaptation: the policy's outputs are {spec.output}, expected predicted accuracies; train one with "
            "algorithm grpo, grpo_warm or outcome"
        )
    if ATTENTION in (spec.inputs.image_features, spec.inputs.question_features):
        raise TrainError(
            "adaptation: the policy pools tokens by attention, expected one vector per image and question; train one "
            "with other features"
        )
    if problem.cutoff_ms is not None:
        raise TrainError(
            "adaptation: the table's times are known only afterwards, expected latencies or costs; train on it instead"
        )
    if tuple(problem.actions.tolist()) != spec.actions:
        missing = sorted(set(spec.actions) - set(problem.actions.tolist()))
        raise TrainError(
            f"adaptation: the new samples were tested under {len(problem.actions)} configurations, expected the "
            f"policy's {len(spec.actions)} (missing {missing[:5]}); profile them under these"
        )
    widths = (problem.image_features.shape[1], problem.question_features.shape[1])
    if widths != spec.columns:
        raise TrainError(
            f"adaptation: got {widths} image and question features, expected {spec.columns}; extract the features that "
            "the policy was trained on"
        )
    if problem.samples < LEAST_SAMPLES:
        raise TrainError(
            f"adaptation: got {problem.samples} labelled samples, expected at least {LEAST_SAMPLES}"
        )


class _Learner:
    """The samples as tensors, and the updates that they give."""

    def __init__(self, policy: NumpyPolicy, problem: Problem, options: AdaptOptions, scale: float) -> None:
        self.spec, self.options, self.scale = policy.spec, options, scale
        self.arrays: Mapping[str, np.ndarray] = policy.arrays
        scaled = FeatureScaling.from_arrays(policy.arrays).apply(problem.features)
        self.features = torch.from_numpy(np.ascontiguousarray(scaled, dtype=np.float32))
        self.accuracy = torch.from_numpy(problem.accuracy.astype(np.float32))
        self.full_ms = problem.mean_ms[:, problem.full] / scale
        self.contexts = ContextSource(problem, options.average_share, options.tie_break)

    def start(self) -> Weights:
        """A copy of the layers as they are."""
        return {
            f"{layer}.{part}": torch.from_numpy(self.arrays[f"{layer}.{part}"].copy()).requires_grad_(True)
            for layer in LAYERS
            for part in ("weight", "bias")
        }

    def train(
        self,
        weights: Weights,
        among: Tensor,
        steps: int,
        generator: torch.Generator,
        after: "_Check | None" = None,
    ) -> list[float]:
        """Update `weights` in place; returns the losses. `after`: called with the weights after every update."""
        options, begun = self.options, self.start()
        optimiser = torch.optim.Adam(list(weights.values()), lr=options.learning_rate)
        losses = []
        for _ in range(steps):
            rows = among[torch.randperm(len(among), generator=generator)[: options.batch_size]]
            drawn = self.contexts.draw(rows, generator)
            loss = self.loss(weights, rows, drawn, generator)
            optimiser.zero_grad(set_to_none=True)
            loss.sum().backward()
            optimiser.step()
            with torch.no_grad():
                for name, tensor in weights.items():
                    tensor.lerp_(begun[name], min(1.0, options.learning_rate * options.pull))
            losses.append(float(loss.detach().mean()))
            if after is not None:
                after.see(weights)
        return losses

    def loss(
        self, weights: Weights, rows: Tensor, drawn: DrawnContexts, generator: torch.Generator
    ) -> Float[Tensor, " member"]:
        """Of every member; groups in which nothing fits earn nothing."""
        outputs = self.outputs(weights, rows, drawn.budget_ms, generator)
        target = self.accuracy[rows].expand_as(outputs)
        outcome = torch.nn.functional.binary_cross_entropy_with_logits(outputs, target, reduction="none")
        earned = self.earned(outputs, rows, drawn).mean(dim=-1)
        return self.options.outcome_weight * outcome.mean(dim=(1, 2)) - self.options.reward_weight * earned

    def earned(self, outputs: Tensor, rows: Tensor, drawn: DrawnContexts) -> Float[Tensor, "member row"]:
        """The expected reward of each member's policy."""
        logits = (torch.sigmoid(outputs) - drawn.charge) / self.spec.temperature
        log_prob = masked_log_softmax(logits, drawn.feasible.expand_as(outputs))
        reward = self.accuracy[rows] - drawn.charge
        return torch.where(drawn.feasible, log_prob.exp() * reward, 0.0).sum(dim=-1)

    def outputs(
        self, weights: Weights, rows: Tensor, budget_ms: Tensor, generator: torch.Generator | None = None
    ) -> Float[Tensor, "member row action"]:
        """Logits of accuracies; with a `generator`, hidden units are dropped."""
        told = self.spec.told_ms(budget_ms.numpy() / self.scale, self.full_ms[rows.numpy()])
        codes = torch.from_numpy(encode_context(self.spec, told))
        hidden = torch.cat([self.features[rows], codes], dim=-1).expand(self.spec.members, -1, -1)
        for layer in LAYERS[:-1]:
            hidden = torch.relu(_linear(weights, layer, hidden))
            if generator is not None and self.options.dropout:
                keep = 1.0 - self.options.dropout
                hidden = hidden * (torch.rand(hidden.shape, generator=generator) < keep) / keep
        return _linear(weights, "head", hidden)


def _linear(weights: Weights, layer: str, inputs: Tensor) -> Tensor:
    return torch.baddbmm(weights[f"{layer}.bias"], inputs, weights[f"{layer}.weight"])


class _Check:
    """What held-out samples earn after every so many updates, under contexts that stay the same."""

    def __init__(self, learner: _Learner, held: Tensor, generator: torch.Generator) -> None:
        self.learner, self.rows = learner, held.repeat(CHECKS)
        self.drawn = learner.contexts.draw(self.rows, generator)
        self.curve = [self.reward(learner.start())]
        self.updates = 0

    def see(self, weights: Weights) -> None:
        """Count an update, judge after every `check_every`-th."""
        self.updates += 1
        if self.updates % self.learner.options.check_every == 0:
            self.curve.append(self.reward(weights))

    @torch.no_grad()
    def reward(self, weights: Weights) -> float:
        """Summed over samples and contexts, mean over members."""
        outputs = self.learner.outputs(weights, self.rows, self.drawn.budget_ms)
        return float(self.learner.earned(outputs, self.rows, self.drawn).sum(dim=-1).mean())


def _held_out_rewards(learner: _Learner, scene: np.ndarray) -> list[float]:
    """Mean expected reward of samples by policies that did not learn from their fold, after 0, `check_every`, ..."""
    options = learner.options
    folds = min(options.folds, len(np.unique(scene)))
    if folds < 2:
        raise TrainError(
            f"adaptation: {len(scene)} labelled samples are of one image, expected more, or folds 0"
        )
    fold = torch.from_numpy(scene_folds(scene, folds, options.seed))
    total = np.zeros(math.floor(options.steps / options.check_every) + 1)
    for index in range(folds):
        generator = torch.Generator().manual_seed(options.seed + 1 + index)
        check = _Check(learner, torch.nonzero(fold == index).flatten(), generator)
        learner.train(
            learner.start(), torch.nonzero(fold != index).flatten(), options.steps, generator, after=check
        )
        total += check.curve
    return (total / (CHECKS * len(scene))).tolist()
