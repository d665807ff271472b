"""What is judged under average budgets is what a controller delivers, whichever learner made it."""

import dataclasses

import numpy as np
import pytest

from fakes import fake_table
from paceline.evaluation.contest import ContestOptions
from paceline.evaluation.evaluate import evaluate_controller
from paceline.learning.options import TrainOptions
from paceline.outcomes.table import OutcomeTable
from paceline.runtime.average import AverageBudget, PriceTable
from paceline.runtime.controller import Controller
from paceline.runtime.decision import Context
from paceline.runtime.many import ContextBatch
from paceline.workflows.training import train_controller
from policy_forms import form_context, form_controller

ROUNDS = 6
"""Times that the test samples are asked, in another order each: the mean settles."""


@pytest.fixture(scope="module")
def table() -> OutcomeTable:
    return fake_table(160, 60, 120)


def contexts(controller: Controller, table: OutcomeTable) -> list[Context]:
    assert len(controller.actions) == len(table.actions)
    return [
        Context(
            image_features=table.image_features[row].copy(),
            question_features=table.question_features[row].copy(),
            tiles=table.tiles[row].copy(),
            vision_tokens=table.vision_tokens[row].copy(),
            prompt_tokens=table.prompt_tokens[row].copy(),
        )
        for row in range(table.samples)
    ]


def delivered(controller: Controller, test: OutcomeTable, budget_ms: float) -> tuple[float, float]:
    """(accuracy, mean predicted latency) of a steered stream over the test samples; the first round is left out."""
    stream, asked, rng = AverageBudget(budget_ms), contexts(controller, test), np.random.default_rng(0)
    accuracy, latency = [], []
    for number in range(ROUNDS):
        for row in rng.permutation(test.samples):
            made = controller.decide(asked[row], average=stream)
            assert made.reason == "policy"
            stream.reserve(made.predicted_ms)
            stream.record(predicted_ms=made.predicted_ms, measured_ms=made.predicted_ms)
            if number:
                accuracy.append(test.accuracy[row, made.candidates.chosen])
                latency.append(made.predicted_ms)
    return float(np.mean(accuracy)), float(np.mean(latency))


@pytest.mark.parametrize("algorithm", ["ppo", "supervised", "grpo_scratch", "outcome"])
def test_accuracy_and_mean_are_those_that_evaluate_gives(algorithm, table):
    options = TrainOptions(algorithm=algorithm, members=1, hidden=16, warm_epochs=4, epochs=3)
    controller = train_controller(table, options).controller
    value = evaluate_controller(controller, table, ContestOptions(replicates=100))["average"]
    test = table.split_rows("test")
    budgets, accuracies = value["budgets_ms"], value["accuracy"]["paceline"]
    for budget_ms, accuracy in list(zip(budgets, accuracies, strict=True))[::2]:
        found, mean_ms = delivered(controller, test, budget_ms)
        assert mean_ms <= 1.01 * budget_ms
        assert found == pytest.approx(accuracy, abs=0.06)


def test_free_time_is_told_as_free():
    prices = PriceTable(np.array([10.0, 20.0, 35.0]), np.array([0.5, 0.07, 0.0]))
    assert [prices.price(budget) for budget in (35.0, 36.0, 1e9)] == [0.0, 0.0, 0.0]
    assert prices.price(20.0) == pytest.approx(0.07, rel=1e-12)
    owner = form_controller("joint logits")
    asked = form_context("joint logits")
    free = owner.decide(asked, average=1e9)
    assert free.price == 0.0
    np.testing.assert_array_equal(free.candidates.scores, owner.decide(asked).candidates.scores)


@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_beyond_what_a_policy_reads_the_cheapest_that_fits_is_taken(backend):
    from paceline.policies.native_policy import compiled
    from paceline.runtime.backends import with_backend

    if backend == "native" and compiled() is None:
        pytest.skip("installed without a C compiler")
    owner = form_controller("joint logits")
    highest = owner.policy.spec.highest_price
    steep = PriceTable(np.array([15.0, 20.0, 40.0]), np.array([2.0 * highest, 0.9 * highest, 0.0]))
    owner = with_backend(dataclasses.replace(owner, prices=steep), backend)
    asked = [form_context("joint logits", index) for index in range(12)]
    for context in asked:
        made = owner.decide(context, average=15.0 * owner.scale)
        assert made.only_time_counts
        assert made.candidates.chosen == made.candidates.mean_ms.argmin()
        assert made.candidates.values.argmax() == made.candidates.chosen
        told = made.explain()
        assert "more than the policy reads, so only time counts" in told
        assert "none of image and question, as only time counts" in told
        assert made.explanation().shares is None
        assert "ms more" in told
        assert "asked again in float32" not in told
        below = owner.decide(context, average=20.0 * owner.scale)
        assert not below.only_time_counts
        np.testing.assert_array_equal(below.candidates.values, below.candidates.scores)
    prices = np.resize([0.0, 0.9 * highest, 2.0 * highest], len(asked))
    together = owner.decide_batch(ContextBatch.of(asked), price=prices)
    for row, context in enumerate(asked):
        if prices[row] > highest:
            mean_ms = owner.decide(context).candidates.mean_ms
            assert together.action[row] == owner.actions[mean_ms.argmin()]


def test_an_accuracy_policy_reads_no_price():
    assert form_controller("joint").policy.spec.highest_price == np.inf
