"""The student: it decides as its teacher does, resumes where it was stopped and is refused what it cannot be."""

import dataclasses

import numpy as np
import pytest

from fakes import fake_table
from paceline.errors import TrainError
from paceline.evaluation.times import fit_latency
from paceline.learning import table_checks
from paceline.learning.learners.reference import fit_family
from paceline.learning.learners.task import make_task
from paceline.learning.options import TrainOptions
from paceline.learning.problem import problem_of
from paceline.learning.progress import SilentProgress
from paceline.learning.reference import student as student_module
from paceline.learning.reference import teacher as teacher_module
from paceline.learning.reference.contexts import ContextSource
from paceline.learning.reference.options import StudentOptions
from paceline.learning.reference.training import HeldOut
from paceline.learning.train import train_controller_policy
from quick_options import HASTY_REFERENCE, QUICK_REFERENCE
from solvers import SPACE, solver_table

QUICK = TrainOptions(reference=QUICK_REFERENCE)
HASTY = TrainOptions(reference=HASTY_REFERENCE)


def task_of(table, options: TrainOptions = QUICK, deadlines: tuple[float, ...] = ()):
    latency = fit_latency(table)
    fit_table, test_table = (table.select(rows) for rows in (table.split != "test", table.split == "test"))
    return make_task(
        fit_table, problem_of(test_table, latency), latency, options, deadlines, SilentProgress()
    )


def test_the_student_decides_as_the_teacher_does() -> None:
    options = dataclasses.replace(
        QUICK,
        reference=dataclasses.replace(
            QUICK_REFERENCE, student=StudentOptions(members=1, steps=600, epochs=1)
        ),
    )
    task = task_of(solver_table(), options, (2_000.0,))
    family = fit_family(task)
    test = task.asked[1]
    policy = family.run.student.numpy_policy()
    right = (test.features[:, 0] >= 0).astype(int)
    for deadline in (None, 2_000.0):
        taught = family.teacher.choose(test, deadline, 0.0)
        chosen = policy.scores(test.image_features, test.question_features, deadline).argmax(axis=1)
        assert (chosen == taught).mean() > 0.9
        assert (chosen == right).mean() > 0.9
    assert family.run.seconds["student"] > 0
    assert family.run.teacher.decision_us > 0
    with pytest.raises(TrainError, match="deadline of 5.0 ms, expected one it was fitted for"):
        family.teacher.choose(test, 5.0, 0.0)


def test_the_student_is_followed_on_samples_it_was_not_trained_on() -> None:
    task = task_of(fake_table(80, 30, 60))
    run = fit_family(task).run
    curve = [entry["validation_reward"] for entry in run.student.history]
    assert len(curve) == 20
    assert curve[-1] > curve[0]
    held_out = HeldOut(task.table, task.latency, task.options, task.inputs)
    assert held_out.samples == task.validation.samples
    assert held_out(run.network)["validation_reward"] == pytest.approx(curve[-1])
    solvers = fit_family(task_of(solver_table(), QUICK, (2_000.0,))).run.student.history
    assert all("validation_reward" not in entry for entry in solvers)  # trained on them, too


@pytest.mark.parametrize("form", ["absolute", "share", "class"])
def test_the_student_is_told_budgets_in_their_form(form, monkeypatch) -> None:
    """Every budget is half of what the full configuration takes on the sample it is drawn for."""
    told: list[np.ndarray] = []
    draw, encode = ContextSource.draw, student_module.encode_context

    def halves(self, rows, generator):
        half = 0.5 * self.unit_ms * self.share[rows][..., -1]  # the full configuration
        return dataclasses.replace(draw(self, rows, generator), budget_ms=half)

    def heard(spec, budget_ms, price):
        told.append(np.array(budget_ms))
        return encode(spec, budget_ms, price)

    monkeypatch.setattr(ContextSource, "draw", halves)
    monkeypatch.setattr(student_module, "encode_context", heard)
    table = fake_table(60, 20, 0)
    options = dataclasses.replace(HASTY, budget_form=form)
    spec = train_controller_policy(table, fit_latency(table), options).spec
    shares = np.concatenate(told) / spec.full_latency_ms
    if form == "absolute":
        assert shares.std() > 0.01  # images differ in size
    else:
        nearest = (
            0.5 if form == "share" else min(spec.inputs.class_shares, key=lambda s: abs(np.log(s / 0.5)))
        )
        np.testing.assert_allclose(shares, nearest, rtol=1e-5)


def test_two_samples_are_enough_to_train_on() -> None:
    table = fake_table(8, 10, 0)
    _, first = np.unique(table.image_hash, return_index=True)
    table = table.select(np.concatenate([first[table.split[first] == "train"][:2], np.arange(8, 18)]))
    assert train_controller_policy(table, fit_latency(table), HASTY).facts["samples"]["train"] == 2


def test_what_was_trained_on_is_no_validation() -> None:
    table = solver_table()
    facts = train_controller_policy(table, fit_latency(table), HASTY).facts
    assert facts["samples"] == {"train": int((table.split != "test").sum())}
    assert not any(name.startswith("validation") for name in facts)


def test_a_student_without_made_up_samples_learns_from_the_real_ones() -> None:
    alone = dataclasses.replace(QUICK_REFERENCE.student, synthetic_per_sample=0)
    options = dataclasses.replace(QUICK, reference=dataclasses.replace(QUICK_REFERENCE, student=alone))
    test = (task := task_of(solver_table(), options, (2_000.0,))).asked[1]
    policy = fit_family(task).run.student.numpy_policy()
    chosen = policy.scores(test.image_features, test.question_features, None).argmax(axis=1)
    assert (chosen == (test.features[:, 0] >= 0)).mean() > 0.9


def test_a_reference_that_would_not_fit_into_memory_is_refused(monkeypatch) -> None:
    table = solver_table()
    count = int((table.split != "test").sum())
    monkeypatch.setattr(table_checks, "MOST_REFERENCE_OUTCOMES", 3 * count - 1)
    with pytest.raises(
        TrainError, match=f"got {count} train samples x 3 .* train with --algorithm grpo_warm"
    ):
        fit_family(task_of(table, QUICK, (2_000.0,)))


def test_scores_of_the_student_are_on_the_accuracy_scale() -> None:
    table = fake_table(120, 40, 0)
    trained = train_controller_policy(table, fit_latency(table), QUICK)
    assert (trained.spec.output, trained.spec.head) == ("accuracy", "joint")
    policy = trained.numpy_policy()
    values = trained.spec.temperature * policy.scores(table.image_features, table.question_features, None)
    assert 0 <= values.min() <= values.max() <= 1
    assert {"validation_reward", "reference", "seconds"} <= set(trained.facts)
    rewards = trained.facts["reference"][0]["held_out_reward"]
    assert rewards["optimised"] >= rewards["reference"]
    again = train_controller_policy(table, fit_latency(table), QUICK)
    for name, array in trained.arrays.items():
        assert np.array_equal(array, again.arrays[name]), name


def test_an_interrupted_run_fits_no_model_twice(tmp_path, monkeypatch) -> None:
    table = fake_table(60, 20, 0)
    latency, calls = fit_latency(table), []
    real = teacher_module.cross_fit

    def counted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(teacher_module, "cross_fit", counted)
    with pytest.raises(KeyboardInterrupt):
        train_controller_policy(table, latency, HASTY, checkpoint_dir=tmp_path / "run")
    resumed = train_controller_policy(table, latency, HASTY, checkpoint_dir=tmp_path / "run")
    assert len(calls) == 4  # two were kept, the third was interrupted
    straight = train_controller_policy(table, latency, HASTY)
    for name, array in straight.arrays.items():
        assert np.array_equal(array, resumed.arrays[name]), name
    other = dataclasses.replace(HASTY, seed=1)
    with pytest.raises(TrainError, match="belongs to another run, seed .0 -> 1. changed"):
        train_controller_policy(table, latency, other, checkpoint_dir=tmp_path / "run")


def test_samples_without_every_outcome_are_left_out_and_many_of_them_are_refused() -> None:
    table = fake_table(60, 20, 0)
    table.accuracy[:5, 3] = np.nan
    said: list[str] = []

    class Listening(SilentProgress):
        def message(self, text: str) -> None:
            said.append(text)

    trained = train_controller_policy(table, fit_latency(table), HASTY, progress=Listening())
    assert trained.facts["samples"]["train"] == 55
    assert "5 train samples without an outcome under every configuration are left out" in said
    table.accuracy[:40, 3] = np.nan
    with pytest.raises(TrainError, match="20 of 60 train samples .* algorithm 'grpo_warm'"):
        train_controller_policy(table, fit_latency(table), HASTY)


def test_balance_draws_rare_groups_more_often() -> None:
    table = solver_table(120)
    rare = dataclasses.replace(table, dataset=np.where(np.arange(table.samples) < 20, "rare", "common"))
    plain, balanced = (
        train_controller_policy(rare, fit_latency(rare), dataclasses.replace(HASTY, balance=balance))
        for balance in (None, "dataset")
    )
    assert any((plain.arrays[name] != array).any() for name, array in balanced.arrays.items())
    assert balanced.spec.actions == tuple(range(SPACE.size))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": "v1"}, "reward: got 'v1' with algorithm 'grpo'"),
        ({"group_size": 8}, "group_size: got 8 with algorithm 'grpo'"),
        ({"image_features": "attention"}, "image_features: got 'attention' with algorithm 'grpo'"),
        ({"precision": "bfloat16"}, "precision: got 'bfloat16' with algorithm 'grpo'"),
    ],
)
def test_what_only_one_network_can_is_refused(changes, message) -> None:
    with pytest.raises(TrainError, match=message):
        TrainOptions(**changes)
