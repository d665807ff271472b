"""What a student is told: held out where samples are real, shrunk where they are made up; and that it follows."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from fixed_contexts import FixedContexts
from paceline.learning.contexts import ContextRanges
from paceline.learning.reference import student
from paceline.learning.reference.options import StudentOptions
from paceline.learning.reference.student import Lessons, fit_student, student_temperature
from paceline.policies.context_code import encode_context
from taught_tasks import by_fold, of_made, small_network, small_problem, small_teacher, unchanged

RNG = np.random.default_rng(0)
ACCURACY, VALUES = RNG.random((9, 3)), RNG.random((9, 3))
MADE_VALUES = 2.0 * RNG.random((5, 3))  # these spread further
MADE = RNG.normal(size=(5, 4)).astype(np.float32)
RANGES = ContextRanges.over(10.0, 40.0, 0.1, 1.0)


def spread(values: np.ndarray) -> float:
    """Standard deviation of what is above a sample's mean."""
    return float((values - values.mean(axis=1, keepdims=True)).std())


def told(teacher, budget_ms: float) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's values of the real and of the made-up samples, one by one."""
    channel = teacher.channels[0]
    rows = range(len(channel.fold))
    real = [
        0.75 * by_fold(teacher, row, budget_ms)[channel.fold[row]] + 0.25 * channel.stack.held_out[row]
        for row in rows
    ]
    reference = channel.stack.asked[1] * spread(VALUES) / spread(MADE_VALUES)
    made = [
        0.75 * of_made(teacher, features, base, budget_ms).mean(axis=0) + 0.25 * base
        for features, base in zip(MADE, reference, strict=True)
    ]
    return np.array(real), np.array(made)


@pytest.mark.parametrize("ranges", [None, RANGES], ids=["one context", "budgets"])
def test_real_samples_are_taught_by_the_network_without_them_and_made_up_ones_by_all(ranges) -> None:
    problem = small_problem(ACCURACY)
    teacher = small_teacher(problem, VALUES, MADE, MADE_VALUES, optimised=True, ranges=ranges)
    channel = teacher.channels[0]
    made = torch.from_numpy(teacher.inputs.prepare(MADE))
    lessons = Lessons(problem, channel, 1, torch.from_numpy(teacher.prepared), made, 3.0)
    assert spread(VALUES) < 0.8 * spread(MADE_VALUES)
    assert by_fold(teacher, 0).std(axis=0).min() > 0.01
    for budget_ms in (np.inf,) if ranges is None else (np.inf, 15.0):
        real, others = told(teacher, budget_ms)
        for expected, is_made in ((real, False), (others, True)):
            rows = torch.tensor([4, 0, 3, 3])
            said = lessons.taught(rows, torch.full((4,), budget_ms), made=is_made)
            assert said.numpy() == pytest.approx(expected[rows.numpy()], abs=1e-5)


def test_scales_of_a_lesson() -> None:
    problem = small_problem(ACCURACY)
    teacher = small_teacher(problem, VALUES, MADE, MADE_VALUES, optimised=True)
    made = torch.from_numpy(teacher.inputs.prepare(MADE))
    lessons = Lessons(problem, teacher.channels[0], 1, torch.from_numpy(teacher.prepared), made, 3.0)
    assert lessons.temperature == pytest.approx(told(teacher, np.inf)[0].std() / 3.0)
    assert lessons.reward_spread == pytest.approx(spread(ACCURACY))
    assert lessons.reward.numpy() == pytest.approx(ACCURACY - ACCURACY.mean(axis=1, keepdims=True))
    assert lessons.accuracy.numpy() == pytest.approx(ACCURACY)
    assert student_temperature(problem, teacher, 3.0) == pytest.approx(spread(VALUES) / 3.0)
    assert student_temperature(problem, teacher, 1e9) == 0.005
    assert student_temperature(problem, teacher, 1e-9) == 0.2


@pytest.mark.parametrize(("reward_weight", "outcome_weight"), [(0.0, 0.0), (3.0, 0.0), (0.5, 2.0)])
def test_one_step_against_the_formula(reward_weight: float, outcome_weight: float, monkeypatch) -> None:
    """What the first step tells of imitation and reward, and that it goes down the gradient of their sum."""
    monkeypatch.setattr(student, "trust", lambda reward, told: 0.7)
    problem = small_problem(ACCURACY)
    teacher = small_teacher(problem, VALUES, MADE, MADE_VALUES, optimised=True)
    network = small_network(members=2, temperature=0.1)
    before = copy.deepcopy(network)
    rng = np.random.default_rng(1)
    feasible, charge = rng.random((9, 3)) < 0.8, 0.3 * rng.random((9, 3))
    feasible[:, 0] = True
    origin = np.array([8, 1, 5, 0, 2])
    options = StudentOptions(
        members=2,
        dropout=0.0,
        steps=1,
        epochs=1,
        batch_size=9,
        synthetic_batch_size=4,
        sharpness=2.0,
        reward_weight=reward_weight,
        outcome_weight=outcome_weight,
    )
    [entry] = fit_student(
        network,
        problem,
        teacher,
        1,
        MADE,
        origin,
        FixedContexts(feasible, charge),
        unchanged(problem),
        options,
        torch.Generator().manual_seed(7),
    )

    draws = torch.Generator().manual_seed(7)
    real, fake = (torch.randint(high, (size,), generator=draws).numpy() for high, size in ((9, 9), (5, 4)))
    features = np.concatenate([teacher.prepared[real], teacher.inputs.prepare(MADE)[fake]])
    codes = torch.from_numpy(encode_context(network.spec, np.full(13, np.inf)))
    outputs = before(torch.from_numpy(features).expand(2, -1, -1), codes.expand(2, -1, -1))
    values, others = told(teacher, np.inf)
    sharp = values.std() / 2.0
    rows, taught = np.concatenate([real, origin[fake]]), np.concatenate([values[real], others[fake]])
    on, cost = torch.tensor(feasible[rows]), torch.tensor(charge[rows])
    p = torch.softmax(torch.where(on, (torch.sigmoid(outputs) - cost) / 0.1, -torch.inf), dim=-1)
    target = torch.softmax(torch.where(on, (torch.tensor(taught) - cost) / sharp, -torch.inf), dim=-1)
    imitation = -torch.where(on, target * p.clamp(min=1e-30).log(), 0.0).sum(dim=-1).mean()
    reward = (ACCURACY - ACCURACY.mean(axis=1, keepdims=True))[real] - charge[real]
    earned = (p[:, :9] * torch.tensor(reward) / spread(ACCURACY)).sum(dim=-1).mean()
    assert entry["imitation"] == pytest.approx(imitation.item(), rel=1e-4)
    assert entry["reward"] == pytest.approx(earned.item(), rel=1e-4)

    chance, right = torch.sigmoid(outputs[:, :9]), torch.tensor(ACCURACY[real])
    outcome = -(right * chance.log() + (1 - right) * (1 - chance).log()).mean()
    loss = imitation - 0.7 * reward_weight * earned + outcome_weight * outcome
    moved = 0
    after = dict(network.named_parameters())
    for name, parameter in before.named_parameters():
        if name.endswith(
            "bias"
        ):  # these do not decay: Adam's first step is the gradient's sign times its rate
            (gradient,) = torch.autograd.grad(loss, parameter, retain_graph=True)
            clear = gradient.abs() > 1e-5
            step = (after[name] - parameter).detach() / options.learning_rate
            assert step[clear].numpy() == pytest.approx(-gradient.sign()[clear].numpy(), abs=0.01)
            moved += int(clear.sum())
    assert moved > 20


def student_of(reward_weight: float, outcome_weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Predicted accuracies and observed ones of 9 samples; what the teacher prefers is never what was right."""
    best = np.arange(9) % 3
    accuracy = np.where(np.eye(3)[(best + 1) % 3] > 0, 0.9, 0.2)
    problem = small_problem(accuracy)
    teacher = small_teacher(problem, np.eye(3)[best], MADE[:0], np.zeros((0, 3)), optimised=False)
    network = small_network(members=1, temperature=0.2)
    options = StudentOptions(
        members=1,
        dropout=0.0,
        steps=150,
        epochs=1,
        batch_size=16,
        learning_rate=0.01,
        weight_decay=0.0,
        reward_weight=reward_weight,
        outcome_weight=outcome_weight,
    )
    fit_student(
        network,
        problem,
        teacher,
        1,
        MADE[:0],
        np.zeros(0, np.int64),
        FixedContexts(np.ones((9, 3), dtype=bool), np.zeros((9, 3))),
        unchanged(problem),
        options,
        torch.Generator().manual_seed(0),
    )
    codes = torch.from_numpy(encode_context(network.spec, np.full(9, np.inf)))
    with torch.no_grad():
        predicted = torch.sigmoid(network(torch.from_numpy(teacher.prepared)[None], codes[None]))[0]
    return predicted.numpy(), accuracy


def test_imitation_alone_gives_the_teachers_order_and_a_heavy_reward_that_of_outcomes(monkeypatch) -> None:
    imitating, accuracy = student_of(0.0, 0.0)
    taught = (np.arange(9) % 3).tolist()
    assert imitating.argmax(axis=1).tolist() == taught
    doubting, _ = student_of(10.0, 0.0)  # the teacher explains nothing, so rewards are taken for luck
    assert doubting.argmax(axis=1).tolist() == taught
    monkeypatch.setattr(student, "trust", lambda reward, told: 1.0)
    earning, _ = student_of(10.0, 0.0)
    assert earning.argmax(axis=1).tolist() == accuracy.argmax(axis=1).tolist()


@pytest.mark.parametrize(
    ("shrunk", "expected"),
    [
        (0.0, 0.0),
        (-0.5, 0.0),
        (1.0, 1.0),
        (1.0 - np.sqrt(0.7), 1.0),  # 30 % are explained
        (1.0 - np.sqrt(0.85), 0.25),  # half of that
        (1.0 - np.sqrt(0.94), 0.04),
    ],
)
def test_rewards_count_by_what_the_teacher_explains_of_them(shrunk: float, expected: float) -> None:
    """Values that are a share c of the rewards leave (1 - c)^2 of their variance unexplained."""
    reward = ACCURACY - ACCURACY.mean(axis=1, keepdims=True)
    assert student.trust(reward, shrunk * reward) == pytest.approx(expected)


def test_runtimes_are_no_draws() -> None:
    problem = small_problem(ACCURACY)
    teacher = small_teacher(problem, 0.0 * VALUES, MADE, MADE_VALUES, optimised=False)
    made = torch.from_numpy(teacher.inputs.prepare(MADE))
    scaled = torch.from_numpy(teacher.prepared)
    solvers = dataclasses.replace(problem, cutoff_ms=100.0)
    assert [
        Lessons(each, teacher.channels[0], 1, scaled, made, 3.0).trust for each in (problem, solvers)
    ] == [0.0, 1.0]


def test_a_heavy_outcome_term_makes_predictions_outcomes() -> None:
    without, accuracy = student_of(1.0, 0.0)
    assert np.abs(without - accuracy).mean() > 0.2
    predicted, _ = student_of(1.0, 1000.0)
    assert predicted == pytest.approx(accuracy, abs=0.1)
