"""Problems and teachers made by hand, so that what a student is told can be computed again."""

from dataclasses import replace

import numpy as np
import torch

from paceline.knobs import Knob, KnobSpace
from paceline.learning.contexts import ContextRanges
from paceline.learning.inputs import fit_inputs
from paceline.learning.preparation import TrainPreparation
from paceline.learning.problem import Problem
from paceline.learning.reference.options import ResidualOptions
from paceline.learning.reference.residual import ResidualPolicy
from paceline.learning.reference.stack import Stack, centred
from paceline.learning.reference.teacher import TaughtChannel, Teacher
from paceline.outcomes.preparation import Preparation
from paceline.policies.inputs import FeatureChoice
from paceline.policies.network import PolicyNetwork
from paceline.policies.spec import PolicySpec

SPACE = KnobSpace((Knob(name="effort", options=(1, 2, 3)),))
FOLDS = 3


def small_problem(accuracy: np.ndarray, seed: int = 0) -> Problem:
    """Samples with four features, and the given accuracies (n, 3) for a time that is known in advance."""
    samples, actions = accuracy.shape
    times = np.tile([10.0, 20.0, 40.0], (samples, 1))
    names = np.array([f"s{i}" for i in range(samples)])
    return Problem(
        space=SPACE,
        actions=np.arange(actions),
        accuracy=accuracy.astype(np.float64),
        mean_ms=times,
        upper_ms=times,
        measured_ms=times,
        kind=names,
        scene=names,
        dataset=names,
        image_features=np.zeros((samples, 0), np.float32),
        question_features=np.random.default_rng(seed).normal(size=(samples, 4)).astype(np.float32),
    )


def small_teacher(
    problem: Problem,
    values: np.ndarray,
    made: np.ndarray,
    made_values: np.ndarray,
    *,
    optimised: bool,
    ranges: ContextRanges | None = None,
) -> Teacher:
    """A teacher whose stack says `values` (n, 3) of the problem's samples and `made_values` of others' features.

    `optimised`: the networks of its three folds say something else each; they add nothing otherwise.
    """
    generator = torch.Generator().manual_seed(0)
    policy = ResidualPolicy(
        made.shape[1],
        3,
        FOLDS,
        ResidualOptions(hidden=8),
        temperature=0.3,
        ranges=ranges,
        generator=generator,
    )
    if optimised:
        torch.nn.init.normal_(policy.network.last.weight, std=3.0, generator=generator)
        with torch.no_grad():
            policy.log_scale.copy_(torch.tensor([0.3, -0.2, 0.1]).reshape(FOLDS, 1, 1))
    inputs = fit_inputs(problem.features, 0, FeatureChoice())
    channel = TaughtChannel(
        budget_ms=None,
        fold=np.arange(problem.samples) * 2 % FOLDS,
        stack=Stack(
            held_out=centred(values),
            asked=[np.zeros((1, 3)), centred(made_values)],  # the made-up samples are part 1
            spread=float(centred(values).std()),
            weights=[1.0],
        ),
        policy=policy,
        held_out=centred(values),
        share=0.75,
        curve=[0.0],
    )
    teacher = Teacher(
        channels=[channel],
        inputs=inputs,
        prepared=inputs.prepare(problem.features),
        decision_us=0.0,
        seconds={},
    )
    own = np.stack([by_fold(teacher, row)[channel.fold[row]] for row in range(problem.samples)])
    return replace(teacher, channels=[replace(channel, held_out=own)])


def by_fold(teacher: Teacher, row: int, budget_ms: float = np.inf) -> np.ndarray:
    """What the network of each fold says of a fitted sample, (fold, 3)."""
    channel = teacher.channels[0]
    return _asked(channel.policy, teacher.prepared[row], channel.stack.held_out[row], budget_ms)


def of_made(
    teacher: Teacher, features: np.ndarray, reference: np.ndarray, budget_ms: float = np.inf
) -> np.ndarray:
    """What the network of each fold says of another sample's raw features, (fold, 3)."""
    return _asked(teacher.channels[0].policy, teacher.inputs.prepare(features[None])[0], reference, budget_ms)


@torch.no_grad()
def _asked(
    policy: ResidualPolicy, prepared: np.ndarray, reference: np.ndarray, budget_ms: float
) -> np.ndarray:
    shape = (FOLDS, 1, -1)
    values = policy.values(
        torch.tensor(prepared, dtype=torch.float32).expand(shape),
        torch.tensor(reference, dtype=torch.float32).expand(shape),
        torch.full((FOLDS, 1), budget_ms),
    )
    return values[:, 0].numpy().astype(np.float64)


def small_network(members: int, temperature: float) -> PolicyNetwork:
    """A student for `small_problem` without dropout."""
    spec = PolicySpec(
        head="joint",
        members=members,
        image_width=0,
        question_width=4,
        hidden=16,
        budget_low_ms=10.0,
        budget_high_ms=40.0,
        full_latency_ms=40.0,
        actions=(0, 1, 2),
        temperature=temperature,
    )
    return PolicyNetwork(spec, SPACE, dropout=0.0, generator=torch.Generator().manual_seed(1))


def unchanged(problem: Problem) -> TrainPreparation:
    """Features as they are, each sample as often as others."""
    return TrainPreparation(
        recipe=Preparation(), weights=None, alike=torch.zeros(problem.samples, dtype=torch.int64)
    )
