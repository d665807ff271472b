"""All contenders together on the fake table, with choosers whose worth is known."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fakes import FAKE_SPACE, KINDS, fake_table, right_probability
from paceline.errors import OutcomesError
from paceline.evaluation.contest import ContestOptions, contest
from paceline.evaluation.splits import fit_and_test, resplit, scene_overlap, split_by_scene
from paceline.evaluation.times import fit_latency
from paceline.learning.learners.contender import ValueContender
from paceline.learning.problem import Problem, problem_of

CONTENDERS = {"paceline", "best_static", "full", "cheapest", "random", "lookup", "oracle"}


def knowing(problem: Problem, budget_ms: float | None) -> np.ndarray:
    """Chances of a right answer from kind and difficulty: the best that any policy can know."""
    levels = FAKE_SPACE.option_indices(problem.actions) / 2
    kind = problem.question_features[:, :4].argmax(axis=1)
    difficulty = problem.image_features[:, 0]
    chances = [
        [right_probability(KINDS[k], d, row.tolist()) for row in levels]
        for k, d in zip(kind, difficulty, strict=True)
    ]
    return np.array(chances)


def ignorant(problem: Problem, budget_ms: float | None) -> np.ndarray:
    """The same scores for every sample."""
    return np.tile(np.linspace(0, 1, len(problem.actions)), (len(problem.accuracy), 1))


@pytest.fixture(scope="module")
def problems() -> tuple[Problem, Problem]:
    table = fake_table(300, 100, 300)
    latency = fit_latency(table)
    fit, test, _ = fit_and_test(table)
    return problem_of(fit, latency), problem_of(test, latency)


@pytest.fixture(scope="module")
def results(problems: tuple[Problem, Problem]) -> dict:
    contenders = {"paceline": ValueContender(knowing), "supervised": ValueContender(ignorant)}
    return contest(*problems, contenders, ContestOptions(replicates=400))


def test_schema(results: dict) -> None:
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    for mode in ("hard", "average"):
        section = results[mode]
        assert len(section["budgets_ms"]) == len(section["quantiles"]) == 6
        for metric in ("accuracy", "mean_latency_ms", "p50_latency_ms", "p95_latency_ms"):
            assert set(section[metric]) == CONTENDERS | {"supervised"}
            assert all(len(series) == 6 for series in section[metric].values())
        for name in ("gain", "gain_over_lookup", "gain_over_supervised", "closed_gap"):
            assert len(section[name]) == len(section[f"{name}_ci"]) == 6
        assert set(section["configurations"]) == {str(i) for i in range(6)}
        for use in section["configurations"].values():
            assert sum(use.values()) == pytest.approx(1)
        assert set(section["knob_use"]) == set(FAKE_SPACE.names)
        assert set(section["knob_use_by_kind"]) == set(KINDS) == set(results["kinds"])
        low, high = section["closed_gap_mean_ci"]
        assert low <= section["closed_gap_mean"] <= high
    assert len(results["static"]) == FAKE_SPACE.size
    assert sum(kind["count"] for kind in results["kinds"].values()) == 300


def test_a_chooser_that_knows_wins_and_one_that_does_not_gains_nothing(results: dict) -> None:
    for mode in ("hard", "average"):
        section = results[mode]
        middle = slice(1, 4)  # at the ends there is little to choose
        assert min(section["gain"][middle]) > 0.03
        assert all(low > 0 for low, _ in section["gain_ci"][middle])
        assert all(low > 0 for low, _ in section["gain_over_supervised_ci"][middle])
        accuracy = section["accuracy"]
        assert max(np.subtract(accuracy["supervised"], accuracy["oracle"])) <= 0
        for point, (low, high) in zip(section["gain"], section["gain_ci"], strict=True):
            assert low <= point <= high
    assert results["hard"]["closed_gap_mean"] == pytest.approx(
        1.0, abs=0.02
    )  # it knows all but luck, drawn once
    assert min(results["average"]["gain_at_equal_latency"][1:4]) > 0.05


def test_average_budgets_are_met_and_hard_ones_kept(results: dict) -> None:
    average = results["average"]
    for name in ("best_static", "lookup", "random", "paceline", "oracle"):
        assert max(average["realised_share"][name]) < 1.04
    assert max(average["realised_share"]["oracle"]) <= 1.0001
    late = results["hard"]["violation_rate"]
    assert max(late["paceline"]) <= 0.06
    assert all(rate == 1.0 for rate in late["full"][:3])
    assert "violation_rate" not in average


def test_accuracy_grows_with_the_budget_for_oracle_and_statics(results: dict) -> None:
    for mode in ("hard", "average"):
        assert np.all(np.diff(results[mode]["accuracy"]["oracle"]) >= -1e-9)
    full = results["hard"]["accuracy"]["full"]
    assert full == pytest.approx([full[0]] * 6)


def test_share_of_full_latency(results: dict) -> None:
    share = results["latency_share_at_full_accuracy"]
    low, high = results["latency_share_at_full_accuracy_ci"]
    assert low <= share <= high < 0.8
    assert results["average"]["latency_share_at_full_accuracy"]["paceline"] == share


def test_given_budgets_are_used(problems: tuple[Problem, Problem]) -> None:
    options = ContestOptions(budgets_ms=(9.0, 6.0), average_budgets_ms=(8.0,), replicates=100)
    value = contest(*problems, {"paceline": ValueContender(knowing)}, options)
    assert value["hard"]["budgets_ms"] == [6.0, 9.0]
    assert value["average"]["budgets_ms"] == [8.0]
    assert "supervised" not in value["hard"]["accuracy"]
    assert "gain_over_supervised" not in value["hard"]


def test_a_chooser_worth_a_lookup_equals_the_lookup(problems: tuple[Problem, Problem]) -> None:
    """Scores that are means per kind on the fit samples: the lookup table by another way."""
    fit, test = problems

    def by_kind(problem: Problem, budget_ms: float | None) -> np.ndarray:
        return np.stack([fit.accuracy[fit.kind == kind].mean(axis=0) for kind in problem.kind])

    value = contest(fit, test, {"paceline": ValueContender(by_kind)}, ContestOptions(replicates=200))
    assert np.abs(value["average"]["gain_over_lookup"]).max() < 0.03


def test_nothing_timed_on_test_is_said_and_not_invented(problems: tuple[Problem, Problem]) -> None:
    fit, test = problems
    untimed = replace(test, measured_ms=np.full(test.accuracy.shape, np.nan))
    value = contest(fit, untimed, {"paceline": ValueContender(knowing)}, ContestOptions(replicates=100))
    assert value["hard"]["violation_rate"]["paceline"] == [None] * 6


def test_splits_keep_scenes_together() -> None:
    scene = np.repeat([f"scene {i}" for i in range(50)], 3)
    split = split_by_scene(scene, (0.5, 0.2, 0.3), seed=1)
    assert all(len(set(split[scene == one])) == 1 for one in set(scene))
    counts = {name: int(np.sum(split == name)) for name in ("train", "validation", "test")}
    assert counts == {"train": 75, "validation": 30, "test": 45}
    assert np.array_equal(split, split_by_scene(scene, (0.5, 0.2, 0.3), seed=1))
    assert not np.array_equal(split, split_by_scene(scene, (0.5, 0.2, 0.3), seed=2))
    assert set(split_by_scene(np.array(["a", "b", "c"]), (0.9, 0.05, 0.05))) == {
        "train",
        "validation",
        "test",
    }


def test_scenes_seen_before_are_not_judged() -> None:
    table = fake_table(20, 10, 20)
    assert scene_overlap(table) == {"train-validation": 0, "train-test": 0, "validation-test": 0}
    table.image_hash[-2:] = table.image_hash[0]
    _, test, facts = fit_and_test(table)
    assert facts["overlap"] == {"train-validation": 0, "train-test": 1, "validation-test": 0}
    assert (facts["test"], test.samples) == (18, 18)
    assert set(scene_overlap(resplit(table)).values()) == {0}


def test_incomplete_samples_are_left_out_and_counted() -> None:
    table = fake_table(20, 10, 20)
    table.accuracy[3, 5] = np.nan
    fit, test, facts = fit_and_test(table)
    assert (fit.samples, test.samples, facts["incomplete"]) == (29, 20, 1)
    table.accuracy[30:, 0] = np.nan
    with pytest.raises(OutcomesError, match="no test sample has an outcome under all 27 configurations"):
        fit_and_test(table)


def test_bad_splits() -> None:
    with pytest.raises(OutcomesError, match="three positive shares"):
        split_by_scene(np.arange(9).astype(str), (0.5, 0.5, 0.0))
    with pytest.raises(OutcomesError, match="got 2 different images"):
        split_by_scene(np.array(["a", "b"]))
