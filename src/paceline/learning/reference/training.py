"""From a problem to a teacher and its student, and the student as a trained policy."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paceline.errors import TrainError
from paceline.latency.estimate import LatencyEstimator
from paceline.learning.contexts import context_ranges, validation_contexts
from paceline.learning.dataset import training_problems
from paceline.learning.deadlines import deadlines_of
from paceline.learning.groups import GroupSource
from paceline.learning.input_options import parse_balance, parse_reduction
from paceline.learning.inputs import FittedInputs, fit_inputs, input_spec
from paceline.learning.options import TrainOptions
from paceline.learning.preparation import TrainPreparation, train_preparation
from paceline.learning.problem import Problem, problem_of
from paceline.learning.progress import Progress, ScalarWriter
from paceline.learning.reference.contexts import ContextSource
from paceline.learning.reference.prediction_store import PredictionStore
from paceline.learning.reference.student import Measure, fit_student, student_temperature
from paceline.learning.reference.synthetic import synthetic_features
from paceline.learning.reference.teacher import Teacher, fit_teacher
from paceline.learning.table_checks import check_reference_size
from paceline.learning.trained import TrainedPolicy
from paceline.learning.unread_options import refuse_unread
from paceline.learning.validation import validate
from paceline.outcomes.table import OutcomeTable
from paceline.policies.inputs import InputSpec
from paceline.policies.network import PolicyNetwork, export_arrays
from paceline.policies.spec import PolicySpec

SMALLEST_SHARE = 0.5
"""Of the train samples that must have an outcome under every configuration."""


def train_student(
    table: OutcomeTable,
    latency: LatencyEstimator,
    options: TrainOptions,
    checkpoint_dir: Path | None,
    tensorboard_dir: Path | None,
    progress: Progress,
) -> TrainedPolicy:
    """The student of a teacher that is fitted on the table's train split; see `train_controller_policy`.

    Where times are known only afterwards no prices have to be found, and validation samples are trained on too.
    Cross-fitted predictions are kept in `checkpoint_dir`, so that an interrupted run goes on where it was.
    """
    refuse_unread(options)
    complete = table.tested.all(axis=1)
    wanted = table.split != "test" if latency.facts.get("cutoff_ms") else table.split == "train"
    kept = complete & wanted
    if kept.sum() < SMALLEST_SHARE * wanted.sum():
        raise TrainError(
            f"outcomes: {int(kept.sum())} of {int(wanted.sum())} train samples have an outcome under every "
            "configuration, and the teacher needs them; profile the rest, or train with algorithm 'grpo_warm'"
        )
    if kept.sum() < wanted.sum():
        progress.message(
            f"{int((wanted & ~kept).sum())} train samples without an outcome under every configuration are left out"
        )
    part = table.select(kept)
    train = problem_of(part, latency)
    spec = input_spec(part, train.configuration_mean_ms, options)
    reduction, reduced = parse_reduction(options.reduce)
    inputs = fit_inputs(
        train.features,
        part.image_width,
        part.feature_choice,
        method=spec.feature_scaling,
        components=reduced if reduction == "pca" else None,
    )
    deadlines = deadlines_of(train) if train.cutoff_ms is not None else ()
    prepared = train_preparation(part, options)
    store = None if checkpoint_dir is None else PredictionStore(checkpoint_dir, options, train, prepared)
    held_out = HeldOut(table, latency, options, inputs)
    measure = held_out if train.cutoff_ms is None else None
    run = train_reference(train, [], deadlines, inputs, spec, prepared, options, progress, store, measure)
    writer = ScalarWriter(tensorboard_dir)
    try:
        for step, entry in enumerate(run.student.history):
            writer.write(step + 1, entry)
    finally:
        writer.close()
    policy = run.student
    if measure is None:  # validation samples were trained on
        return policy
    samples = {"train": train.samples, "validation": held_out.samples}
    return replace(policy, facts=policy.facts | {"samples": samples} | held_out(run.network))


class HeldOut:
    """The mean rewards of a policy network on a table's validation split, see `validate`."""

    def __init__(
        self, table: OutcomeTable, latency: LatencyEstimator, options: TrainOptions, inputs: FittedInputs
    ) -> None:
        train, self._validation = training_problems(table, latency)
        self._contexts = validation_contexts(context_ranges(train))
        self._space, self._options, self._inputs = table.space, options, inputs

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(self._validation.features)

    def __call__(self, network: PolicyNetwork) -> dict[str, float]:
        """Rewards by the names they have in a policy's history and facts."""
        source = GroupSource(self._validation, network.spec, self._space, self._options, self._inputs)
        score = validate(network, source, self._contexts)
        return {
            "validation_reward": score.reward,
            "validation_hard_reward": score.hard_reward,
            "validation_average_reward": score.average_reward,
        }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReferenceRun:
    """A teacher, what it was asked, and its student."""

    teacher: Teacher
    student: TrainedPolicy
    network: PolicyNetwork  # the student's
    seconds: dict[str, float]  # of "stacking", of the "residual" on it, and of the "student" after both


def train_reference(
    train: Problem,
    asked: Sequence[Problem],
    deadlines_ms: Sequence[float],
    inputs: FittedInputs,
    input_spec: InputSpec,
    preparation: TrainPreparation,
    options: TrainOptions,
    progress: Progress,
    store: PredictionStore | None = None,
    measure: Measure | None = None,
) -> ReferenceRun:
    """Fit the teacher on `train` and distil it; the teacher's values are kept for the samples of `asked`.

    `deadlines_ms`: what to be good at, besides PAR10, where times are known only afterwards. `preparation`: how samples
    of `train` are balanced, by drawing them again, and how the student's features are augmented. `measure`: what the
    student's history tells of it besides its losses.
    """
    started = time.perf_counter()
    check_reference_size(train.samples, len(train.actions))
    train, preparation = _balanced(train, preparation, options.seed)
    reference, balanced = options.reference, parse_balance(options.balance)[1]
    made_count = min(reference.student.synthetic_per_sample * train.samples, reference.student.most_synthetic)
    made, origin = synthetic_features(
        train.features, inputs.prepare(train.features), made_count, options.seed
    )
    teacher = fit_teacher(
        train,
        [*(problem.features for problem in asked), made],
        [None, *deadlines_ms],
        reference,
        inputs=inputs,
        average_share=options.average_share,
        tie_break=options.tie_break,
        temperature=options.temperature,
        balanced_budgets=balanced,
        seed=options.seed,
        progress=progress,
        store=store,
    )
    taught = time.perf_counter()
    generator = torch.Generator().manual_seed(options.seed)
    reduction, reduced = parse_reduction(options.reduce)
    spec = _spec(train, deadlines_ms, inputs, input_spec, options, teacher)
    network = PolicyNetwork(
        inputs.network_spec(spec),
        train.space,
        dropout=reference.student.dropout,
        generator=generator,
        reduced=reduced if reduction == "learned" else None,
        image_columns=inputs.image_columns,
    )
    contexts = ContextSource(train, options.average_share, options.tie_break, balanced=balanced)
    history = fit_student(
        network,
        train,
        teacher,
        len(asked),
        made,
        origin,
        contexts,
        preparation,
        reference.student,
        generator,
        measure,
    )
    finished = time.perf_counter()
    facts: dict[str, Any] = {
        "algorithm": "grpo",
        "options": options.to_json(),
        "samples": {"train": train.samples},
        "tested_configurations": len(train.actions),
        "reference": [_channel_facts(teacher, k) for k in range(len(teacher.channels))],
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "warnings": [],
        "seconds": finished - started,
    }
    student = TrainedPolicy(
        spec=spec, arrays=inputs.folded(export_arrays(network)), history=history, facts=facts
    )
    return ReferenceRun(
        teacher=teacher,
        student=student,
        network=network,
        seconds=teacher.seconds
        | {"student": finished - taught + (taught - started - sum(teacher.seconds.values()))},
    )


def _balanced(train: Problem, preparation: TrainPreparation, seed: int) -> tuple[Problem, TrainPreparation]:
    """As many samples, drawn with the weights of a balance; the same ones without."""
    if preparation.weights is None:
        return train, preparation
    generator = torch.Generator().manual_seed(seed)
    rows = torch.multinomial(preparation.weights, train.samples, replacement=True, generator=generator)
    return train.select(rows.numpy()), replace(preparation, weights=None, alike=preparation.alike[rows])


def _spec(
    train: Problem,
    deadlines_ms: Sequence[float],
    inputs: FittedInputs,
    input_spec: InputSpec,
    options: TrainOptions,
    teacher: Teacher,
) -> PolicySpec:
    student = options.reference.student
    if train.cutoff_ms is None:
        low, high = float(train.configuration_mean_ms.min()), float(train.configuration_mean_ms.max())
    else:
        low, high = min(deadlines_ms, default=1.0), max(deadlines_ms, default=2.0)
    if not low < high:  # one price for all, or one deadline: any range tells it from no limit
        low, high = 0.5 * low, high
    return PolicySpec(
        head=options.head,
        members=student.members,
        image_width=inputs.image.scaling.width,
        question_width=inputs.question.scaling.width,
        hidden=student.hidden,
        budget_low_ms=low,
        budget_high_ms=high,
        full_latency_ms=train.unit_ms,
        actions=tuple(int(action) for action in train.actions),
        temperature=student_temperature(train, teacher, student.sharpness),
        inputs=input_spec,
    )


def _channel_facts(teacher: Teacher, index: int) -> dict[str, Any]:
    """How the teacher came about: what stacking earned on held-out samples, and what optimisation added."""
    channel = teacher.channels[index]
    curve = np.array(channel.curve)
    return {
        "budget_ms": channel.budget_ms,
        "held_out_reward": {"reference": float(curve[0]), "optimised": float(curve.max())},
        "best_epoch": int(curve.argmax()),
        "spread": channel.stack.spread if math.isfinite(channel.stack.spread) else None,
    }
