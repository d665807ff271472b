"""The student: a network of the decision path's size that imitates the teacher, so that a decision costs microseconds.

    loss = cross-entropy(softmax(sharpness z), student) + reward_weight (- expected reward of the student)
           + outcome_weight (cross-entropy of its predicted accuracies)

where z are the teacher's priced values in their own standard deviations, held out on real samples. The first term
is also taken on made-up samples; the others need outcomes. `student_loss` has it exactly.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from paceline.learning.losses import EXCLUDED, masked_log_softmax
from paceline.learning.preparation import TrainPreparation
from paceline.learning.problem import Problem
from paceline.learning.reference.contexts import ContextSource, DrawnContexts
from paceline.learning.reference.options import StudentOptions
from paceline.learning.reference.stack import centred
from paceline.learning.reference.teacher import TaughtChannel, Teacher, targets_of
from paceline.policies.context_code import encode_context
from paceline.policies.network import PolicyNetwork

Measure: TypeAlias = Callable[[PolicyNetwork], dict[str, float]]
"""Named numbers about a network, such as its reward on samples it was not trained on."""

FREE_TEMPERATURE = 0.05
TEMPERATURES = (0.005, 0.2)
"""Beyond these a sigmoid could not express the teacher's logits, or would be nothing but steps."""
EXPLAINED = 0.3
"""Share of the rewards' variance that the teacher must explain for rewards to count in full."""


def student_loss(
    predicted: Float[Tensor, "member row action"],
    values: Float[Tensor, "row action"],
    reward: Float[Tensor, "real action"],
    accuracy: Float[Tensor, "real action"] | None,
    feasible: Bool[Tensor, "row action"],
    charge: Float[Tensor, "row action"],
    *,
    temperature: float,
    taught_temperature: float,
    reward_spread: float,
    reward_weight: float,
    outcome_weight: float,
) -> tuple[Float[Tensor, " member"], Float[Tensor, " member"], Float[Tensor, "member real"]]:
    """The loss of each member, its imitation, and what it earns on every real sample.

        p = softmax((sigmoid(predicted) - charge) / temperature)       both over the feasible actions
        target = softmax((values - charge) / taught_temperature)
        earned = sum_a p(a) (reward(a) - charge(a)) / reward_spread
        loss = mean(- sum_a target(a) log p(a)) - reward_weight mean(earned)
               + outcome_weight mean(BCE(sigmoid(predicted), accuracy))

    Rows under which nothing is feasible count in neither of the first two means; with no others these are 0.

    Args:
        predicted: logits of accuracies; real samples come first, then made-up ones.
        values: the teacher's, in units of the reward. reward, accuracy: of the real samples; None has no third term.
        charge: accuracy that the time would cost.
        temperature: accuracy per unit of the student's logits, `taught_temperature` of the teacher's.
    """
    log_prob = masked_log_softmax(
        (torch.sigmoid(predicted) - charge) / temperature, feasible.expand_as(predicted)
    )
    target = torch.softmax(torch.where(feasible, (values - charge) / taught_temperature, EXCLUDED), dim=-1)
    possible = feasible.any(dim=-1)
    imitation = -_mean_of(target * log_prob, possible)
    count = len(reward)
    relative = (reward - charge[:count]) / reward_spread
    gained = torch.where(feasible[:count], log_prob[:, :count].exp() * relative, 0.0)
    loss = imitation - reward_weight * _mean_of(gained, possible[:count])
    if accuracy is not None and outcome_weight:
        told = predicted[:, :count]
        loss = loss + outcome_weight * torch.nn.functional.binary_cross_entropy_with_logits(
            told, accuracy.expand_as(told), reduction="none"
        ).mean(dim=(1, 2))
    return loss, imitation, gained.sum(dim=-1)


def _mean_of(
    terms: Float[Tensor, "member row action"], possible: Bool[Tensor, " row"]
) -> Float[Tensor, " member"]:
    """Mean over the possible rows of sums over actions; 0 with a finite gradient where there are none."""
    if not possible.any():
        return 0.0 * terms.sum(dim=(1, 2))
    return terms.sum(dim=-1)[:, possible].mean(dim=-1)


def trust(reward: np.ndarray, told: np.ndarray) -> float:
    """How much rewards count, from 0 to 1: (R2 / EXPLAINED)^2 at most, R2 the share that held-out values explain.

    A single answer is a draw. Where the teacher explains little of what configurations differ by, what is left is
    mostly the luck of these draws, and a network that follows it learns them by heart.

    Args:
        reward, told: (n, m), centred over configurations.

    >>> draws = np.array([[1.0, -1.0], [-1.0, 1.0]])
    >>> trust(draws, 0.0 * draws), trust(draws, 0.08 * draws) < 0.5, trust(draws, draws)
    (0.0, True, 1.0)
    """
    explained = 1.0 - float(((reward - told) ** 2).sum()) / max(float((reward**2).sum()), 1e-12)
    return min(1.0, (max(0.0, explained) / EXPLAINED) ** 2)


class Lessons:
    """One channel's tensors: what the teacher says about real and made-up samples, and what they earned."""

    def __init__(
        self,
        problem: Problem,
        channel: TaughtChannel,
        part: int,
        scaled: Tensor,
        made: Tensor,
        sharpness: float,
    ) -> None:
        self.channel = channel
        reward = targets_of(problem, channel.budget_ms)[1]
        self.real = _tensor(channel.stack.held_out)
        self.fold = torch.from_numpy(channel.fold)
        self.made = _tensor(channel.stack.asked[part])
        self.scaled, self.scaled_made = scaled, made
        self.accuracy = _tensor(problem.under(channel.budget_ms).accuracy)
        self.reward = _tensor(centred(reward))
        self.reward_spread = max(float(centred(reward).std()), 1e-12)
        # Runtimes are no draws: a solver takes as long again.
        self.trust = trust(centred(reward), channel.stack.held_out) if problem.cutoff_ms is None else 1.0
        mixed = channel.share * channel.held_out + (1 - channel.share) * channel.stack.held_out
        self.temperature = max(float(mixed.std()), 1e-12) / sharpness
        # Made-up samples were seen by the outcome models in part, so their values spread further than held-out ones.
        told = channel.stack.asked[part]
        self.shrink = (
            float(channel.stack.held_out.std()) / max(float(told.std()), 1e-12) if len(told) else 1.0
        )
        self._known: list[Tensor] = []
        if channel.policy.ranges is None:  # one context: everything can be said before
            self._known = [
                self._values(torch.arange(len(values)), torch.full((len(values),), math.inf), made=is_made)
                for values, is_made in ((self.real, False), (self.made, True))
            ]

    def taught(self, rows: Tensor, budget_ms: Tensor, *, made: bool) -> Tensor:
        """The teacher's values for samples under budgets, (row, action)."""
        if self._known:
            return self._known[int(made)][rows]
        return self._values(rows, budget_ms, made=made)

    @torch.no_grad()
    def _values(self, rows: Tensor, budget_ms: Tensor, *, made: bool) -> Tensor:
        policy, share = self.channel.policy, self.channel.share
        features = (self.scaled_made if made else self.scaled)[rows]
        reference = self.shrink * self.made[rows] if made else self.real[rows]
        shape = (policy.folds, -1, -1)
        values = policy.values(
            features.expand(shape), reference.expand(shape), budget_ms.expand(policy.folds, -1)
        )
        own = values.mean(dim=0) if made else values[self.fold[rows], torch.arange(len(rows))]
        return share * own + (1.0 - share) * reference


def fit_student(
    network: PolicyNetwork,
    problem: Problem,
    teacher: Teacher,
    part: int,
    made: np.ndarray,
    origin: np.ndarray,
    contexts: ContextSource,
    preparation: TrainPreparation,
    options: StudentOptions,
    generator: torch.Generator,
    measure: Measure | None = None,
) -> list[dict[str, Any]]:
    """Train `network` in place; returns the mean losses of every twentieth of the steps.

    Args:
        part: which of the teacher's asked samples are the made-up ones; `made` their raw features (k, f), `origin` (k,)
            the real samples whose times they take.
        preparation: how the features of real samples are augmented.
        measure: what else is told of the network after every twentieth; nothing is decided by it.
    """
    spec = network.spec
    scaled = torch.from_numpy(teacher.prepared)
    scaled_made = torch.from_numpy(teacher.inputs.prepare(made))
    source = torch.from_numpy(origin)
    spread = scaled.std(dim=0, correction=0)
    lessons = [
        Lessons(problem, channel, part, scaled, scaled_made, options.sharpness)
        for channel in teacher.channels
    ]
    steps = _steps(options, problem.samples) * math.ceil(len(lessons) / 2)
    decayed = [p for name, p in network.named_parameters() if name.endswith("weight")]
    plain = [p for name, p in network.named_parameters() if not name.endswith("weight")]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=options.learning_rate,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    absolute = problem.cutoff_ms is None
    history: list[dict[str, Any]] = []
    recent: list[tuple[float, float]] = []
    count_made = options.synthetic_batch_size if len(made) else 0
    for step in range(steps):
        lesson = lessons[step % len(lessons)]
        real = torch.randint(problem.samples, (options.batch_size,), generator=generator)
        fake = torch.randint(max(len(made), 1), (count_made,), generator=generator)
        rows = torch.cat([real, source[fake]])
        drawn = _at(contexts.draw(rows, generator), lesson.channel.budget_ms)
        values = torch.cat(
            [
                lesson.taught(real, drawn.budget_ms[: len(real)], made=False),
                lesson.taught(fake, drawn.budget_ms[len(real) :], made=True),
            ]
        )
        heard = scaled[real]
        if preparation.recipe.augments:
            heard = preparation.augmented(scaled, real, spread, generator)
        features = torch.cat([heard, scaled_made[fake]])
        told_ms = np.asarray(spec.told_ms(drawn.budget_ms.numpy(), problem.sample_full_ms[rows.numpy()]))
        codes = torch.from_numpy(encode_context(spec, told_ms, 0.0))
        shape = (spec.members, -1, -1)
        masks = network.draw_masks(len(rows), generator)
        predicted = network(features.expand(shape), codes.expand(shape), masks)
        loss, imitation, earned = student_loss(
            predicted,
            values,
            lesson.reward[real],
            lesson.accuracy[real] if absolute else None,
            drawn.feasible,
            drawn.charge,
            temperature=spec.temperature,
            taught_temperature=lesson.temperature,
            reward_spread=lesson.reward_spread,
            reward_weight=lesson.trust * options.reward_weight,
            outcome_weight=options.outcome_weight,
        )
        optimiser.zero_grad(set_to_none=True)
        loss.sum().backward()
        optimiser.step()
        schedule.step()
        recent.append((float(imitation.detach().mean()), float(earned.detach().mean())))
        if (step + 1) % max(1, steps // 20) == 0:
            means = np.mean(recent, axis=0)
            history.append(
                {
                    "phase": "student",
                    "step": step + 1,
                    "imitation": float(means[0]),
                    "reward": float(means[1]),
                }
                | ({} if measure is None else measure(network))
            )
            recent = []
    return history


def student_temperature(problem: Problem, teacher: Teacher, sharpness: float) -> float:
    """Accuracy per unit of the student's logits: the teacher's spread over `sharpness`, so that both mean the same.

    Where times are runtimes nothing is charged to accuracies, and the scale is free.
    """
    if problem.cutoff_ms is not None:
        return FREE_TEMPERATURE
    return float(np.clip(teacher.channels[0].stack.spread / sharpness, *TEMPERATURES))


def _steps(options: StudentOptions, samples: int) -> int:
    return max(options.steps, math.ceil(options.epochs * samples / options.batch_size))


def _at(drawn: DrawnContexts, deadline_ms: float | None) -> DrawnContexts:
    """The contexts, told the deadline of their channel where it has one."""
    if deadline_ms is None:
        return drawn
    return DrawnContexts(
        budget_ms=torch.full_like(drawn.budget_ms, deadline_ms), feasible=drawn.feasible, charge=drawn.charge
    )


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
