"""Training and judging together, and judging a controller that exists."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from fakes import FAKE_SPACE, fake_table
from paceline.errors import ControllerError, TrainError
from paceline.evaluation.compare import CompareOptions, compare
from paceline.evaluation.contest import ContestOptions
from paceline.evaluation.evaluate import evaluate_controller
from paceline.evaluation.times import fit_latency
from paceline.knobs import Knob, KnobSpace
from paceline.latency.estimate import LatencyEstimator
from paceline.learning.learners.policy_contender import policy_scorer
from paceline.learning.options import TrainOptions
from paceline.learning.problem import problem_of
from paceline.learning.train import train_controller_policy
from paceline.policies.numpy_policy import NumpyPolicy
from quick_options import QUICK_REFERENCE

SHORT = TrainOptions(
    algorithm="grpo_warm", members=1, hidden=32, warm_epochs=10, epochs=3, reference=QUICK_REFERENCE
)
CONTEST = ContestOptions(replicates=200)


@dataclass(frozen=True)
class StubController:
    space: KnobSpace
    policy: NumpyPolicy
    latency: LatencyEstimator


@pytest.fixture(scope="module")
def table():
    return fake_table(240, 80, 160)


@pytest.fixture(scope="module")
def trained(table):
    return train_controller_policy(table, fit_latency(table), SHORT)


def test_compare_trains_and_judges_on_equal_terms(table) -> None:
    value = compare(table, CompareOptions(train=SHORT, contest=CONTEST))
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    assert {"paceline", "supervised", "oracle"} <= set(value["hard"]["accuracy"])
    assert value["samples"]["train"] == 240
    assert value["samples"]["overlap"] == {"train-validation": 0, "train-test": 0, "validation-test": 0}
    assert value["training"]["supervised"]["facts"]["options"]["seed"] == SHORT.seed
    assert value["average"]["gain"][1] > 0.02
    assert max(value["hard"]["violation_rate"]["paceline"]) < 0.07


def test_a_policy_that_is_trained_already_is_not_trained_again(table, trained) -> None:
    options = CompareOptions(learners=("grpo",), train=SHORT, contest=CONTEST)
    value = compare(table, options, trained={"grpo": trained})
    assert value["training"]["grpo"]["facts"] == trained.facts
    assert "supervised" not in value["hard"]["accuracy"]


def test_evaluate_equals_compare_for_the_same_policy(table, trained) -> None:
    latency = fit_latency(table)
    options = CompareOptions(learners=("grpo",), train=SHORT, contest=CONTEST)
    compared = compare(table, options, latency=latency, trained={"grpo": trained})
    judged = evaluate_controller(StubController(table.space, trained.numpy_policy(), latency), table, CONTEST)
    for part in ("hard", "average", "static", "kinds", "samples"):
        assert judged[part] == compared[part]
    assert judged["overhead"]["decision_ms_p50"] > 0


def test_a_slower_machine_changes_times_and_no_choice(table, trained) -> None:
    """On a machine that takes twice the time, at twice the budgets, everything is the same."""
    latency = fit_latency(table)
    slow = latency.rescaled(np.array([2.0]), np.array([1.0]))
    here, there = (
        evaluate_controller(StubController(table.space, trained.numpy_policy(), estimate), table, CONTEST)
        for estimate in (latency, slow)
    )
    for mode in ("hard", "average"):
        for name, series in here[mode]["accuracy"].items():
            assert there[mode]["accuracy"][name] == pytest.approx(series, abs=1e-6)
    assert there["hard"]["budgets_ms"] == pytest.approx([2 * budget for budget in here["hard"]["budgets_ms"]])


def test_configurations_unknown_to_the_policy_are_never_chosen(table, trained) -> None:
    known = trained.numpy_policy()
    problem = problem_of(table, fit_latency(table))
    with pytest.raises(ControllerError, match="1 of its 27 configurations were not tested"):
        policy_scorer(known, np.arange(1, 27))
    values = policy_scorer(known, table.actions)(problem, 8.0)
    assert values.shape == (480, 27)
    assert values.min() >= 0
    assert values.max() <= 1


def test_a_controller_of_other_knobs_is_refused(table, trained) -> None:
    other = KnobSpace((*FAKE_SPACE.knobs[:2], Knob(name="depth", options=(8, 12, 16))))
    with pytest.raises(ControllerError, match="its knobs are"):
        evaluate_controller(StubController(other, trained.numpy_policy(), fit_latency(table)), table, CONTEST)


def test_bad_options() -> None:
    with pytest.raises(TrainError, match="one or more of grpo, .*, each once"):
        CompareOptions(learners=("grpo", "grpo"))
