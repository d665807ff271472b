"""The teacher is put together as it says: what models regress, what is stacked, and what the residual is given."""

import numpy as np
import pytest

from paceline.evaluation.times import fit_latency
from paceline.learning.inputs import fit_inputs
from paceline.learning.problem import Problem, problem_of
from paceline.learning.reference import teacher as teacher_module
from paceline.learning.reference.crossfit import CrossFit, mean_of, scene_folds
from paceline.learning.reference.options import ReferenceOptions, ResidualOptions
from paceline.learning.reference.residual import fit_residual
from paceline.learning.reference.stack import stack
from paceline.learning.reference.teacher import Teacher, fit_teacher, targets_of
from paceline.policies.inputs import FeatureChoice
from solvers import priced_table, solver_table

OPTIONS = ReferenceOptions(
    folds=3,
    repeats=2,
    sharpness=1.7,
    learned_share=0.8,
    residual=ResidualOptions(hidden=8, epochs=20, learning_rate=0.02, share=0.3),
)


class Recorded:
    """Stands in for cross-fitting with noisy targets, and keeps what it and the residual were given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.targets: list[np.ndarray] = []
        self.folds: list[np.ndarray] = []
        self.fits: list[CrossFit] = []
        self.residuals: list[dict] = []
        monkeypatch.setattr(teacher_module, "cross_fit", self._cross_fit)
        monkeypatch.setattr(teacher_module, "fit_residual", self._fit_residual)

    def _cross_fit(self, fit, features, targets, fold, asked, seed, done) -> CrossFit:
        rng = np.random.default_rng(len(self.fits))
        noisy = targets + rng.normal(size=targets.shape)
        self.targets.append(targets)
        self.folds.append(fold)
        self.fits.append(
            CrossFit(
                held_out=noisy,
                asked=[rng.random((len(part), 3)) for part in asked],
                sample_us=float(len(self.fits)),
            )
        )
        return self.fits[-1]

    def _fit_residual(self, features, reference, reward, fold, contexts, options, *, temperature, seed):
        self.residuals.append(
            {
                "features": features,
                "reference": reference,
                "reward": reward,
                "fold": fold,
                "options": options,
                "temperature": temperature,
            }
        )
        return fit_residual(
            features, reference, reward, fold, contexts, options, temperature=temperature, seed=seed
        )


def taught(table, recorded: Recorded, budgets_ms: list[float | None]) -> tuple[Problem, Teacher]:
    problem = problem_of(table, fit_latency(table))
    inputs = fit_inputs(problem.features, 0, FeatureChoice())
    asked = [problem.features[:0], problem.features[:7]]
    teacher = fit_teacher(problem, asked, budgets_ms, OPTIONS, inputs=inputs, temperature=0.07, seed=5)
    assert len(recorded.residuals) == len(teacher.channels)
    return problem, teacher


def test_a_channel_per_deadline_is_stacked_and_optimised_for_what_it_earns(monkeypatch) -> None:
    recorded = Recorded(monkeypatch)
    problem, teacher = taught(solver_table(60), recorded, [None, 2_000.0])
    folds = [scene_folds(problem.scene, 3, 5 + repeat) for repeat in range(2)]
    assert [channel.budget_ms for channel in teacher.channels] == [None, 2_000.0]
    for index, channel in enumerate(teacher.channels):
        target, reward = targets_of(problem, channel.budget_ms)
        calls = slice(5 * index, 5 * index + 5)  # trees and forest twice, networks once
        assert all(np.array_equal(given, target) for given in recorded.targets[calls])
        for given, repeat in zip(recorded.folds[calls], (0, 1, 0, 1, 0), strict=True):
            assert np.array_equal(given, folds[repeat])
        trees, forest, network = (recorded.fits[calls][part] for part in (slice(2), slice(2, 4), slice(4, 5)))
        expected = stack([mean_of(trees), mean_of(forest), mean_of(network)], reward, 0.8)
        assert channel.stack.held_out == pytest.approx(expected.held_out)
        assert channel.stack.asked[1] == pytest.approx(expected.asked[1])
        given = recorded.residuals[index]
        assert np.array_equal(given["reference"], channel.stack.held_out)
        assert np.array_equal(given["reward"], reward)
        assert np.array_equal(given["features"], teacher.prepared)
        assert np.array_equal(given["fold"], channel.fold)
        assert np.array_equal(channel.fold, folds[0])
        assert given["temperature"] == pytest.approx(channel.stack.held_out.std() / 1.7)
        assert given["options"] is OPTIONS.residual
    assert teacher.decision_us == sum(range(5, 10))


def test_values_are_a_share_of_the_optimised_policy_and_the_rest_of_the_stack(monkeypatch) -> None:
    problem, teacher = taught(solver_table(60), Recorded(monkeypatch), [None])
    channel, prepared = teacher.channels[0], teacher.inputs.prepare(problem.features[:7])
    stacked = channel.stacked_values(1)
    optimised = channel.policy.mean_values(prepared, stacked, None)
    assert np.abs(optimised - stacked).max() > 0.01
    assert channel.values(1, prepared, None) == pytest.approx(0.3 * optimised + 0.7 * stacked)
    assert channel.values(0, prepared[:0], None).shape == (0, 3)


def test_under_prices_logits_are_accuracy_per_temperature(monkeypatch) -> None:
    recorded = Recorded(monkeypatch)
    problem, teacher = taught(priced_table(60), recorded, [None])
    assert problem.cutoff_ms is None
    assert (recorded.residuals[0]["temperature"], teacher.channels[0].policy.temperature) == (0.07, 0.07)
    assert teacher.channels[0].policy.ranges is not None
