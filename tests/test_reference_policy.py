"""GRPO on a reference policy: cross-fitting, stacking, the residual, and what is made up for the student."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from paceline.errors import TrainError
from paceline.evaluation.times import fit_latency
from paceline.learning.problem import Problem, problem_of
from paceline.learning.reference.contexts import ContextSource
from paceline.learning.reference.crossfit import CrossFit, cross_fit, scene_folds
from paceline.learning.reference.options import (
    ForestOptions,
    LightgbmOptions,
    OutcomeNetworkOptions,
    ReferenceOptions,
    ResidualOptions,
)
from paceline.learning.reference.outcome_models import (
    centred_accuracy,
    fit_forest,
    fit_lightgbm,
    fit_network,
)
from paceline.learning.reference.residual import fit_residual
from paceline.learning.reference.stack import centred, stack
from paceline.learning.reference.synthetic import synthetic_features
from paceline.learning.reference.teacher import targets_of
from solvers import CUTOFF_MS, solver_table


def solver_problem(samples: int = 240) -> Problem:
    table = solver_table(samples)
    return problem_of(table, fit_latency(table))


def test_scenes_stay_together_and_folds_are_even() -> None:
    scene = np.repeat([f"scene {i}" for i in range(40)], 3)
    folds = scene_folds(scene, 5, seed=1)
    assert all(len(set(folds[scene == one])) == 1 for one in set(scene))
    assert np.bincount(folds).tolist() == [24] * 5
    assert np.array_equal(folds, scene_folds(scene, 5, seed=1))
    assert not np.array_equal(folds, scene_folds(scene, 5, seed=2))


def test_no_model_predicts_what_it_was_fitted_on() -> None:
    """A model that remembers its samples and says 1 for those, 0 for others."""
    features = np.arange(12.0)[:, None]
    fold = np.arange(12) % 3
    seen: list[set[float]] = []

    def fit(x: np.ndarray, y: np.ndarray, seed: int):
        seen.append(set(x[:, 0]))
        known = seen[-1]
        return lambda new: np.array([[float(value in known)] * 2 for value in new[:, 0]])

    done = []
    result = cross_fit(
        fit, features, np.zeros((12, 2)), fold, [features[:4], features[:0]], 0, lambda: done.append(1)
    )
    assert result.held_out.tolist() == [[0.0, 0.0]] * 12
    assert result.asked[0] == pytest.approx(np.full((4, 2), 2 / 3))  # two of three models saw each
    assert (result.asked[1].shape, len(done), [len(s) for s in seen]) == ((0, 2), 3, [8, 8, 8])


@pytest.mark.parametrize("name", ["lightgbm", "forest", "network"])
def test_outcome_models_learn_which_solver_and_ignore_untested_cells(name: str) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 3)).astype(np.float32)
    left = features[:, 0] < 0
    accuracy = np.stack([left, ~left, np.zeros(400)], axis=1).astype(float)
    tested = np.ones(accuracy.shape, dtype=bool)
    tested[:100, 2] = False
    accuracy[:100, 2] = 1.0  # a value that nobody observed
    predict = {
        "lightgbm": lambda: fit_lightgbm(features, accuracy, tested, LightgbmOptions(trees=30), 0),
        "forest": lambda: fit_forest(features, accuracy, tested, ForestOptions(trees=20), 0),
        "network": lambda: fit_network(
            features, accuracy, tested, OutcomeNetworkOptions(members=1, epochs=15), 0
        ),
    }[name]()
    new = rng.normal(size=(200, 3)).astype(np.float32)
    values = predict(new)
    assert values.shape == (200, 3)
    assert (values[:, :2].argmax(axis=1) == (new[:, 0] >= 0)).mean() > 0.93
    assert (values[:, 2] < values.max(axis=1)).all()


def test_centring_leaves_untested_cells_at_the_samples_mean() -> None:
    values = centred_accuracy(np.array([[1.0, 0.0, 0.5]]), np.array([[True, True, True]]))
    assert values.tolist() == [[0.5, -0.5, 0.0]]


def fitted(held_out: np.ndarray, asked: np.ndarray | None = None) -> CrossFit:
    return CrossFit(held_out=held_out, asked=[] if asked is None else [asked], sample_us=0.0)


def test_stack_by_hand() -> None:
    reward = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    good = fitted(reward + 7.0, np.array([[9.0, 8.0]]))
    useless = fitted(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), np.array([[0.0, 1.0]]))
    learned = stack([good, useless], reward, learned_share=1.0)
    assert learned.weights == pytest.approx([1.0, 0.0])
    assert learned.held_out == pytest.approx(centred(reward))  # least squares puts it on the reward's scale
    assert learned.asked[0] == pytest.approx(np.array([[0.5, -0.5]]))
    half = stack([good, useless], reward, learned_share=0.5)
    assert half.weights == pytest.approx([0.75, 0.25])
    assert learned.spread == pytest.approx(0.5)


def test_a_stack_does_not_care_for_offsets_and_scales_of_its_models() -> None:
    rng = np.random.default_rng(0)
    reward = rng.random((50, 4))
    one, two = reward + rng.normal(size=(50, 4)), reward + rng.normal(size=(50, 4))
    plain = stack([fitted(one, one[:3]), fitted(two, two[:3])], reward, 0.5)
    shifted = stack([fitted(9 * one + 5, 9 * one[:3] + 5), fitted(two - 2, two[:3] - 2)], reward, 0.5)
    assert shifted.held_out == pytest.approx(plain.held_out)
    assert shifted.asked[0] == pytest.approx(plain.asked[0])


def test_models_that_know_nothing_give_values_of_nothing() -> None:
    nothing = stack([fitted(np.zeros((6, 3)))], np.random.default_rng(0).random((6, 3)), 0.5)
    assert np.abs(nothing.held_out).max() == 0
    assert np.isfinite(nothing.spread)


def residual(epochs: int, **changes: float):
    """A reference that always prefers the third solver, on samples where the side says which is right."""
    problem = solver_problem()
    reward = targets_of(problem, None)[1]
    reference = np.tile([0.0, 0.0, 0.3], (problem.samples, 1)) + 0.01 * problem.features[:, :1]
    fold = scene_folds(problem.scene, 4, 0)
    options = ResidualOptions(epochs=epochs, **changes)
    contexts = ContextSource(problem, 0.5, 0.01)
    return (
        problem,
        reference,
        fit_residual(problem.features, reference, reward, fold, contexts, options, temperature=0.2, seed=0),
    )


def test_the_residual_starts_at_the_reference() -> None:
    problem, reference, (policy, held_out, curve) = residual(0)
    assert len(curve) == 1
    assert held_out == pytest.approx(reference, abs=1e-6)
    assert policy.mean_values(problem.features, reference, None) == pytest.approx(reference, abs=1e-6)


def test_the_residual_learns_what_the_reference_gets_wrong() -> None:
    problem, reference, (policy, held_out, curve) = residual(40)
    assert curve[-1] > curve[0] + 0.5  # in standard deviations of the reward
    right = (problem.features[:, 0] >= 0).astype(int)
    assert (reference.argmax(axis=1) == right).mean() == 0
    assert (held_out.argmax(axis=1) == right).mean() > 0.9  # by networks that did not see the sample
    assert np.isfinite(policy.mean_values(problem.features, reference, None)).all()


def test_epoch_0_is_kept_where_nothing_can_be_gained() -> None:
    """The reference knows every reward; entropy alone, weighted far too high, only makes it earn less."""
    problem = solver_problem()
    reference = targets_of(problem, None)[1]
    _, held_out, curve = fit_residual(
        problem.features,
        reference,
        reference,
        scene_folds(problem.scene, 4, 0),
        ContextSource(problem, 0.5, 0.01),
        ResidualOptions(epochs=3, learning_rate=0.1, entropy_weight=100.0, kl_weight=0.0),
        temperature=0.05,
        seed=0,
    )
    assert max(curve[1:]) <= curve[0]
    assert held_out == pytest.approx(reference, abs=1e-5)


def test_a_heavy_kl_holds_the_policy_at_the_reference() -> None:
    _, reference, (_, free, _) = residual(8, kl_weight=0.0)
    _, _, (_, held, _) = residual(8, kl_weight=1000.0, entropy_weight=0.0)
    assert np.abs(centred(held - reference)).mean() < 0.2 * np.abs(centred(free - reference)).mean()


def test_what_an_outcome_is_worth_by_hand() -> None:
    problem = solver_problem(8)
    worth, runtime = problem.under(3_000.0).accuracy, problem.measured_ms
    assert np.array_equal(worth, np.where(runtime <= 3_000.0, problem.accuracy, 0.0))
    unlimited = problem.under(None).accuracy
    solved = problem.accuracy > 0
    assert problem.cutoff_ms == CUTOFF_MS
    assert unlimited[solved] == pytest.approx(1 - runtime[solved] / (10 * CUTOFF_MS))
    assert (unlimited[~solved] == 0).all()
    assert problem.under(math.inf).accuracy == pytest.approx(unlimited)
    assert problem.feasible(1e-9).all()  # a time that is not known excludes nothing


def test_runtimes_are_regressed_on_a_log_scale_and_earned_on_both() -> None:
    problem = solver_problem()
    smooth, reward = targets_of(problem, None)
    assert 0 <= smooth.min() <= smooth.max() <= 1
    solved = problem.accuracy > 0
    order = np.argsort(problem.measured_ms[solved])
    assert (np.diff(smooth[solved][order]) <= 1e-12).all()
    assert reward.sum(axis=1) == pytest.approx(np.zeros(problem.samples), abs=1e-9)
    target, earned = targets_of(problem, 2_000.0)
    assert target is earned


def test_contexts_of_runtimes_exclude_and_charge_nothing() -> None:
    contexts = ContextSource(solver_problem(), 0.5, 0.01)
    drawn = contexts.draw(torch.arange(20), torch.Generator().manual_seed(0))
    assert torch.isinf(drawn.budget_ms).all()
    assert drawn.feasible.all()
    assert (drawn.charge == 0).all()


def test_contexts_are_a_budget_without_a_price_or_a_price_without_a_limit() -> None:
    """Times 1, 2 and 4 of sample 0, ten times that of sample 1; the unit is the full configuration's mean, 22."""
    times = np.array([[1.0, 2.0, 4.0], [10.0, 20.0, 40.0]])
    problem = dataclasses.replace(
        solver_problem(8).select(np.arange(2)),
        accuracy=np.array([[0.1, 0.5, 0.9]] * 2),
        mean_ms=times,
        upper_ms=1.5 * times,
        cutoff_ms=None,
    )
    contexts = ContextSource(problem, 0.25, 0.01)
    rows = torch.arange(2).repeat(500)
    drawn = contexts.draw(rows, torch.Generator().manual_seed(0))
    free = torch.isinf(drawn.budget_ms)
    assert free.float().mean().item() == pytest.approx(0.25, abs=0.05)
    budgets = drawn.budget_ms[~free]
    assert 1.5 * 5.5 <= budgets.min() < 12 < 30 < budgets.max() <= 1.5 * 22.0  # of means over the samples
    upper = torch.tensor(1.5 * times)[rows]
    assert torch.equal(drawn.feasible, upper <= drawn.budget_ms.unsqueeze(-1))
    price = drawn.charge[:, 2] / (torch.tensor(times)[rows, 2] / 22.0) - 0.01
    assert price[~free].numpy() == pytest.approx(0.0, abs=1e-6)
    assert price[free].min() > 0.02
    shares = torch.tensor(times)[rows] / 22.0
    assert drawn.charge.numpy() == pytest.approx(((price + 0.01).unsqueeze(-1) * shares).numpy())


def test_made_up_features_stay_between_observed_ones() -> None:
    rng = np.random.default_rng(0)
    features = np.stack([rng.normal(size=60), rng.integers(0, 2, 60), np.full(60, 3.0)], axis=1)
    features = features.astype(np.float32)
    made, origin = synthetic_features(features, features, 400, seed=1)
    assert (made.shape, origin.shape, made.dtype) == ((400, 3), (400,), np.float32)
    assert (made >= features.min(axis=0) - 1e-6).all()
    assert (made <= features.max(axis=0) + 1e-6).all()
    assert (made[:, 2] == 3.0).all()
    assert np.bincount(origin, minlength=60).min() >= 6
    assert np.abs(made - features[origin]).max() > 0.1
    again, _ = synthetic_features(features, features, 400, seed=1)
    assert np.array_equal(made, again)


def test_options_survive_json_and_name_what_is_unknown() -> None:
    options = ReferenceOptions(folds=3, forest=ForestOptions(trees=7))
    assert ReferenceOptions.from_json(options.to_json()) == options
    with pytest.raises(TrainError, match=r"unknown \['magic'\]"):
        ReferenceOptions.from_json({"forest": {"magic": 1}})
    with pytest.raises(TrainError, match="folds: got 1"):
        ReferenceOptions(folds=1)
