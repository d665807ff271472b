"""Learn a policy from an outcome table: the entry point of this package."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paceline.latency.estimate import LatencyEstimator
from paceline.learning.budget_parts import parse_parts
from paceline.learning.contexts import ContextRanges, balanced_over_budgets, context_ranges
from paceline.learning.dataset import DecisionProblem, split_samples, training_problems
from paceline.learning.groups import GroupSource
from paceline.learning.input_options import ENCODINGS, parse_balance, parse_reduction
from paceline.learning.inputs import fit_inputs, input_spec
from paceline.learning.options import TrainOptions
from paceline.learning.preparation import train_preparation
from paceline.learning.price import FLATTEST_PRICE, STEEPEST_PRICE
from paceline.learning.progress import Progress, ScalarWriter, SilentProgress
from paceline.learning.reference.training import train_student
from paceline.learning.scored_actions import actions_to_score
from paceline.learning.sharing import projector_digest, shared_projector
from paceline.learning.table_checks import check_learnable, check_reward
from paceline.learning.trained import TrainedPolicy
from paceline.learning.trainer import Trainer, fingerprint_of
from paceline.outcomes.chunks import row_chunks
from paceline.outcomes.preparation import KEY
from paceline.outcomes.table import OutcomeTable
from paceline.policies.network import PolicyNetwork, export_arrays
from paceline.policies.spec import KNOBWISE_HEADS, PolicySpec


def train_controller_policy(
    table: OutcomeTable,
    latency: LatencyEstimator,
    options: TrainOptions,
    *,
    scored_actions: np.ndarray | None = None,
    checkpoint_dir: Path | None = None,
    tensorboard_dir: Path | None = None,
    progress: Progress | None = None,
) -> TrainedPolicy:
    """Train on the table's train split, stop on its validation split.

    `scored_actions`: actions that the policy is to score besides the tested ones, for a head that can; None: all of
    the space if `options.score_untested`, else no others. Training sees tested configurations only.

    With a `checkpoint_dir` an interrupted run resumes exactly where it was. Uses as many threads as torch is set
    to; one is fastest at these sizes and the only setting that repeats bit for bit.

    Raises TrainError for a table from which no policy can be learned (no validation samples, one configuration, the
    same accuracy everywhere, features that are not finite, no latency estimate) and for a checkpoint of another run.
    """
    progress = SilentProgress() if progress is None else progress
    check_learnable(table)
    check_reward(table, options)
    if options.algorithm == "grpo":
        return train_student(table, latency, options, checkpoint_dir, tensorboard_dir, progress)
    started = time.perf_counter()
    train, validation = training_problems(table, latency)
    ranges = context_ranges(train)
    if parse_balance(options.balance)[1]:
        ranges = balanced_over_budgets(ranges, train)
    ranges = replace(ranges, budget_parts=parse_parts(options.budget_range))
    warnings = _warnings(train)
    for warning in warnings:
        progress.message(warning)
    spec = spec_of(table, train, ranges, options)
    generator = torch.Generator().manual_seed(options.seed)
    scored = None
    if options.score_untested or scored_actions is not None:
        scored = actions_to_score(table.space, table.actions, options.head, scored_actions)
    reduction, reduced = parse_reduction(options.reduce)
    inputs = fit_inputs(
        train.features,
        table.image_width,
        table.feature_choice,
        method=spec.inputs.feature_scaling,
        components=reduced if reduction == "pca" else None,
    )
    projector = None
    if options.share_projector is not None:
        projector = shared_projector(options.share_projector, table, inputs.image.scaling.second)
    network = PolicyNetwork(
        inputs.network_spec(spec),
        table.space,
        dropout=options.dropout,
        generator=generator,
        reduced=reduced if reduction == "learned" else None,
        image_columns=inputs.image_columns,
        projector=projector,
    )
    preparation = train_preparation(split_samples(table, "train"), options)
    train_source = GroupSource(train, spec, table.space, options, inputs, preparation)
    validation_source = GroupSource(validation, spec, table.space, options, inputs)
    trainer = Trainer(network, train_source, validation_source, ranges, options, generator)
    digests = {"train": train.digest(), "validation": validation.digest()}
    if KEY in table.manifest.options:
        digests[KEY] = json.dumps(preparation.recipe.to_json(), sort_keys=True)
    if train_source.rewards.model is not None:
        digests["reward_model_weights"] = train_source.rewards.model.digest()
    if projector is not None:
        digests["projector"] = projector_digest(projector)
    fingerprint = fingerprint_of(options, digests)
    writer = ScalarWriter(tensorboard_dir)
    try:
        trainer.run(checkpoint_dir, fingerprint, progress, writer)
    finally:
        writer.close()
    return TrainedPolicy(
        spec=spec if scored is None else replace(spec, actions=tuple(scored.tolist())),
        arrays=inputs.folded(export_arrays(network.cpu(), scored_actions=scored)),
        history=trainer.history,
        facts={
            "algorithm": options.algorithm,
            "options": options.to_json(),
            "samples": {"train": len(train.features), "validation": len(validation.features)},
            "tested_configurations": len(table.actions),
            "preparation": preparation.recipe.to_json(),
            "ranges": _ranges_json(ranges),
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "warnings": warnings,
            "seconds": time.perf_counter() - started,
            **_outcome_facts(trainer),
        },
    )


def spec_of(
    table: OutcomeTable, train: DecisionProblem, ranges: ContextRanges, options: TrainOptions
) -> PolicySpec:
    means = train.configuration_means(train.mean_ms)
    low, high = float(means.min()), float(means.max())
    if train.runtime_ms is not None:  # budgets are deadlines, which need not be near any mean
        low, high = ranges.budget_low_ms, ranges.budget_high_ms
    if not low < high:  # one time for all: any range tells it from no limit
        low, high = 0.5 * low, high
    columns = (table.image_width, table.features.shape[1] - table.image_width)
    image_width, question_width = table.feature_choice.widths(*columns)
    reads_price = options.output == "logits"
    # Where time has no price, as of runtimes, every context has the flag of price 0 and any range will do.
    prices = (
        (ranges.price_low, ranges.price_high) if ranges.price_high > 0 else (FLATTEST_PRICE, STEEPEST_PRICE)
    )
    return PolicySpec(
        head=options.head,
        members=options.members,
        image_width=image_width,
        question_width=question_width,
        hidden=options.hidden,
        budget_low_ms=low,
        budget_high_ms=high,
        full_latency_ms=train.full_latency_ms,
        actions=tuple(int(action) for action in table.actions),
        budget_dimensions=ENCODINGS[options.budget_encoding],
        temperature=1.0 if reads_price else options.temperature,
        output=options.output,
        knob_options=table.space.shape if options.head in KNOBWISE_HEADS else None,
        price_low=prices[0] if reads_price else None,
        price_high=prices[1] if reads_price else None,
        inputs=input_spec(table, means, options),
    )


def _warnings(train: DecisionProblem) -> list[str]:
    """What makes learning hard though possible."""
    differing = 0
    for rows in row_chunks(*train.tested.shape):
        high = np.where(train.tested[rows], train.accuracy[rows], -np.inf).max(axis=1)
        low = np.where(train.tested[rows], train.accuracy[rows], np.inf).min(axis=1)
        differing += int((high > low).sum())
    share = differing / len(train.tested)
    if share < 0.05:
        return [f"accuracy differs between configurations for only {share:.1%} of the train samples"]
    return []


def _ranges_json(ranges: ContextRanges) -> dict[str, float]:
    return {
        "budget_low_ms": ranges.budget_low_ms,
        "budget_high_ms": ranges.budget_high_ms,
        "price_low": ranges.price_low,
        "price_high": ranges.price_high,
    }


def _outcome_facts(trainer: Trainer) -> dict[str, Any]:
    """The result beside the warm start, and how many groups taught nothing."""
    score = trainer.score()
    facts: dict[str, Any] = {
        "validation_reward": score.reward,
        "validation_hard_reward": score.hard_reward,
        "validation_average_reward": score.average_reward,
        "best_epochs": trainer.best_epochs,
    }
    if trainer.stages[0].name == "warm" or len(trainer.stages) > 1:
        kept = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
        trainer.network.load_state_dict(trainer.reference)
        facts["warm_start_validation_reward"] = trainer.score().reward
        trainer.network.load_state_dict(kept)
    for name in ("groups", "infeasible_groups", "zero_variance_groups"):
        facts[name] = int(sum(entry.get(name, 0.0) for entry in trainer.history))
    return facts
