"""Few-shot adaptation: the numpy policy goes on learning, is drawn back to its start, and learns where that pays."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from fakes import fake_table
from paceline.errors import TrainError
from paceline.evaluation.times import fit_latency
from paceline.learning.adaptation import AdaptOptions, _Learner, adapt_policy
from paceline.learning.options import TrainOptions
from paceline.learning.problem import Problem, problem_of
from paceline.learning.train import train_controller_policy
from paceline.policies.numpy_policy import NumpyPolicy

OUTCOME = TrainOptions(algorithm="outcome", hidden=16, members=2, warm_epochs=3, epochs=1, batch_size=64)


@cache
def start() -> NumpyPolicy:
    """A policy that was trained a little on the fake table."""
    table = fake_table(150, 60, 100, seed=0)
    return train_controller_policy(table, fit_latency(table), OUTCOME).numpy_policy()


@cache
def samples(split: str = "validation") -> Problem:
    table = fake_table(150, 60, 100, seed=0)
    return problem_of(table.split_rows(split), fit_latency(table))


def turned() -> Problem:
    """Samples of a data set where everything is the other way round: cheap configurations are right."""
    problem = samples()
    return replace(problem, accuracy=1.0 - problem.accuracy)


def mean_picked(policy: NumpyPolicy, problem: Problem) -> float:
    chosen = policy.scores(problem.image_features, problem.question_features).argmax(axis=1)
    return float(problem.accuracy[np.arange(problem.samples), chosen].mean())


def test_no_update_and_a_full_pull_leave_the_policy_as_it_is():
    still = adapt_policy(start(), samples(), AdaptOptions(steps=0))
    bound = adapt_policy(start(), samples(), AdaptOptions(steps=3, folds=0, learning_rate=0.5, pull=2.0))
    for adapted in (still, bound):
        for name, array in start().arrays.items():
            np.testing.assert_array_equal(adapted.arrays[name], array, err_msg=name)
    assert (still.facts["steps"], bound.facts["steps"]) == (0, 3)


def test_the_network_that_learns_is_the_policy_that_decides():
    problem, policy = samples(), start()
    learner = _Learner(policy, problem, AdaptOptions(), scale=1.0)
    rows, budget = torch.arange(problem.samples), torch.full((problem.samples,), 9.0)
    outputs = learner.outputs(learner.start(), rows, budget)
    accuracy = torch.sigmoid(outputs).mean(dim=0) / policy.spec.temperature
    expected = policy.scores(problem.image_features, problem.question_features, 9.0)
    np.testing.assert_allclose(accuracy.detach().numpy(), expected, rtol=1e-4, atol=1e-3)


def test_a_weaker_pull_moves_the_weights_further():
    def moved(pull: float) -> float:
        options = AdaptOptions(steps=20, folds=0, learning_rate=1e-3, pull=pull, dropout=0.0)
        arrays = adapt_policy(start(), samples(), options).arrays
        return float(np.abs(arrays["head.weight"] - start().arrays["head.weight"]).mean())

    assert moved(0.0) > 1.2 * moved(300.0) > 0


def test_adaptation_learns_a_data_set_that_is_the_other_way_round():
    problem = turned()
    adapted = adapt_policy(start(), problem, AdaptOptions(learning_rate=3e-3, steps=100, folds=2, pull=0.0))
    assert adapted.facts["steps"] > 0
    assert max(adapted.facts["held_out_rewards"]) > adapted.facts["held_out_rewards"][0] + 0.05
    assert mean_picked(adapted.numpy_policy(), problem) > mean_picked(start(), problem) + 0.1
    again = adapt_policy(start(), problem, AdaptOptions(learning_rate=3e-3, steps=100, folds=2, pull=0.0))
    np.testing.assert_array_equal(adapted.arrays["head.weight"], again.arrays["head.weight"])


def test_the_scaling_of_features_and_the_start_itself_never_change():
    before = {name: array.copy() for name, array in start().arrays.items()}
    adapted = adapt_policy(start(), samples(), AdaptOptions(steps=5, folds=0))
    for name, array in before.items():
        np.testing.assert_array_equal(start().arrays[name], array)
        same = np.array_equal(adapted.arrays[name], array)
        assert same == name.startswith("feature_"), name


def test_the_reward_is_that_of_the_feasible_configurations():
    problem = samples()
    learner = _Learner(start(), problem, AdaptOptions(average_share=0.0, tie_break=0.0), scale=1.0)
    rows = torch.tensor([0])
    drawn = learner.contexts.draw(rows, torch.Generator().manual_seed(0))
    alone = torch.zeros_like(drawn.feasible)
    alone[0, 4] = True
    outputs = torch.zeros(2, 1, len(problem.actions))
    earned = learner.earned(outputs, rows, replace(drawn, feasible=alone))
    assert earned.tolist() == [[pytest.approx(problem.accuracy[0, 4])]] * 2
    assert learner.earned(outputs, rows, replace(drawn, feasible=torch.zeros_like(alone))).tolist() == [
        [0],
        [0],
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": np.arange(27)[::-1].copy()}, "configurations, expected the policy's 27"),
        (
            {"image_features": np.zeros((60, 9), dtype=np.float32)},
            r"got \(9, 5\) image and question features",
        ),
        ({"cutoff_ms": 10.0}, "times are known only afterwards"),
    ],
)
def test_samples_that_do_not_belong_to_the_policy(change, message):
    with pytest.raises(TrainError, match=message):
        adapt_policy(start(), replace(samples(), **change))


def test_too_few_samples_and_too_few_images():
    with pytest.raises(TrainError, match="got 3 labelled samples, expected at least 4"):
        adapt_policy(start(), samples().select(np.arange(3)))
    one = replace(samples(), scene=np.full(samples().samples, "one"))
    with pytest.raises(TrainError, match="60 labelled samples are of one image"):
        adapt_policy(start(), one)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": -1}, "steps"),
        ({"folds": 1}, "folds: got 1, expected 0"),
        ({"pull": -0.1}, "pull"),
        ({"dropout": 1.0}, "dropout"),
        ({"outcome_weight": 0.0, "reward_weight": 0.0}, "got 0 for both"),
    ],
)
def test_options_out_of_range(values, message):
    with pytest.raises(TrainError, match=message):
        AdaptOptions(**values)


def test_a_policy_of_logits_is_refused():
    policy = start()
    logits = replace(policy.spec, output="logits", temperature=1.0, price_low=0.1, price_high=1.0)
    width = policy.arrays["input.weight"].shape[1] + logits.code_width - policy.spec.code_width
    arrays = dict(policy.arrays) | {"input.weight": np.zeros((2, width, 2 * logits.hidden), dtype=np.float32)}
    with pytest.raises(TrainError, match="outputs are logits, expected predicted accuracies"):
        adapt_policy(NumpyPolicy(logits, arrays), samples())
