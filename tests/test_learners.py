"""The other learners, the registry, and judging by folds."""

import dataclasses
import json
import time
from concurrent.futures import Future
from multiprocessing import active_children
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import paceline.evaluation.jobs as jobs
from fakes import fake_table
from paceline.errors import OutcomesError, PacelineError, TrainError
from paceline.evaluation import cross_validation
from paceline.evaluation.choices import Choices
from paceline.evaluation.compare import CompareOptions, compare
from paceline.evaluation.contest import ContestOptions
from paceline.evaluation.cross_validation import cross_validate_learners, fold_labels, parse_folds
from paceline.evaluation.metrics import sample_latency
from paceline.evaluation.routing import SHARES, gap_recovered, mean_gap_recovered, router_curve, share_needed
from paceline.evaluation.times import fit_latency
from paceline.learning.learners.registry import DESCRIPTIONS, LEARNERS, fit_learners, parse_learners
from paceline.learning.learners.simple import _cluster_means, _neighbour_means, _pair_wins
from paceline.learning.options import TrainOptions
from paceline.learning.problem import problem_of
from paceline.learning.progress import SilentProgress
from quick_options import HASTY_REFERENCE, QUICK_REFERENCE
from solvers import priced_table, solver_table
from test_student import task_of

QUICK = TrainOptions(
    members=1,
    hidden=32,
    dropout=0.1,
    warm_epochs=60,
    epochs=10,
    batch_size=32,
    learning_rate=5e-3,
    reference=QUICK_REFERENCE,
)
CONTEST = ContestOptions(replicates=200)


def test_neighbours_and_clusters_by_hand() -> None:
    features = np.array([[0.0], [0.1], [5.0], [5.1]], np.float32)
    accuracy = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    asked = np.array([[0.05], [5.05]], np.float32)
    expected = [[1.0, 0.0], [0.0, 0.5]]
    assert _neighbour_means(features, accuracy, asked, 2, 0).tolist() == expected
    assert _cluster_means(features, accuracy, asked, 2, 0).tolist() == expected
    overall = accuracy.mean(axis=0).tolist()
    assert _neighbour_means(features, accuracy, asked, 80, 0).tolist() == [overall] * 2


def test_pairs_are_won_by_more_trees_not_by_more_margin() -> None:
    values = np.array([[[1.0, 0.9, 0.0]], [[1.0, 0.9, 0.0]], [[0.0, 9.0, 0.0]]])  # three trees, one sample
    assert _pair_wins(values).tolist() == [[2.5, 1.5, 0.5]]  # itself is a draw with itself


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_knows_which_solver_is_in_time(name: str) -> None:
    task = task_of(solver_table(), QUICK, (2_000.0,))
    contender = fit_learners(task, (name,)).contenders[name]
    test = task.asked[1]
    right = (test.features[:, 0] >= 0).astype(int)
    for deadline in (None, 2_000.0):
        assert (contender.choose(test, deadline, 0.0) == right).mean() > 0.75, deadline


@pytest.mark.parametrize("name", ["knn", "lightgbm", "voting", "grpo", "supervised"])
def test_a_price_is_paid_only_where_it_buys_something(name: str) -> None:
    task = task_of(priced_table(), QUICK)
    contender = fit_learners(task, (name,)).contenders[name]
    test = task.asked[1]
    needs_dear = test.features[:, 0] >= 0.2
    chosen = contender.choose(test, None, 0.05)
    assert (chosen[needs_dear] == 1).mean() > 0.8
    assert (chosen[test.features[:, 0] < -0.2] == 0).mean() > 0.8


def test_names() -> None:
    assert parse_learners("all") == LEARNERS == tuple(DESCRIPTIONS)
    with pytest.raises(TrainError, match="learners: got 'magic', expected 'all' or some of grpo"):
        parse_learners("magic")


@pytest.fixture(scope="module")
def solved() -> dict:
    options = CompareOptions(
        learners=("grpo", "grpo_teacher", "stacking", "lightgbm"), train=QUICK, contest=CONTEST
    )
    return compare(solver_table(), options)


def test_runtimes_are_judged_by_deadlines_and_par10(solved) -> None:
    assert json.loads(json.dumps(solved, allow_nan=False)) == solved
    assert "average" not in solved
    assert len(solved["hard"]["budgets_ms"]) == 3
    par10 = solved["par10"]
    assert par10["par10_s"]["oracle"] < par10["par10_s"]["paceline"] < par10["par10_s"]["best_static"]
    assert par10["closed_gaps"]["oracle"]["mean"] == pytest.approx(1.0)
    assert par10["closed_gaps"]["paceline"]["mean"] > 0.5
    assert {"over_lightgbm", "over_grpo_teacher", "over_stacking"} <= set(par10["closed_gaps"]["paceline"])
    assert set(solved["learners"]) == {"paceline", "grpo_teacher", "stacking", "lightgbm"}
    for cost in solved["learners"].values():
        assert cost["training_s"] > 0
        assert cost["decision_us"] > 0


def test_costs_on_the_mean_are_kept() -> None:
    options = CompareOptions(
        learners=("grpo", "knn"),
        train=QUICK,
        contest=ContestOptions(replicates=200, average_budgets_ms=(0.003, 0.006)),
    )
    table = priced_table(4_000)  # a price found on 1,000 samples meets the budget on 1,000 others
    value = compare(table, options)["average"]
    for name in ("paceline", "knn", "best_static"):
        for share in value["realised_share"][name]:
            assert 0.8 < share < 1.1, name
    assert value["accuracy"]["paceline"][1] > value["accuracy"]["best_static"][1] + 0.1


def test_costs_that_differ_count_as_they_came() -> None:
    """Hard samples, which are sent to the dear model, cost three times as much as others there."""
    table = priced_table(4_000)
    hard = table.features[:, 0] >= 0
    costs = table.latency_ms * np.where(hard, 1.5, 0.5)[:, None].astype(np.float32)
    options = CompareOptions(
        learners=("grpo", "knn"),
        train=QUICK,
        contest=ContestOptions(replicates=200, average_budgets_ms=(0.004,)),
    )
    varying = dataclasses.replace(table, latency_ms=costs)
    value = compare(varying, options)["average"]
    for name in ("paceline", "knn"):
        assert 0.85 < value["realised_share"][name][0] < 1.1, name
    test = problem_of(varying.select(varying.split == "test"), fit_latency(varying))
    shares = np.where(test.features[:, :1] >= 0, [[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]])
    dear, cheap = (test.features[:, 0] >= 0).mean() * 0.015, (test.features[:, 0] < 0).mean() * 0.0005
    assert sample_latency(test, shares).mean() == pytest.approx(dear + cheap, rel=1e-4)


def test_seeds_give_a_spread_and_curves() -> None:
    hasty = dataclasses.replace(QUICK, reference=HASTY_REFERENCE)
    options = CompareOptions(learners=("grpo", "outcome", "knn"), train=hasty, contest=CONTEST, seeds=2)
    value = compare(fake_table(80, 30, 60), options)["stability"]
    for mode in ("hard", "average"):
        assert len(value[mode]["outcome"]["closed_gap"]) == 2
        assert value[mode]["knn"]["std"] == pytest.approx(np.std(value[mode]["knn"]["closed_gap"], ddof=1))
    for name in ("grpo", "outcome"):
        assert [len(curve) > 3 for curve in value["curves"][name]] == [True, True]
    assert max(spread["std"] for mode in ("hard", "average") for spread in value[mode].values()) > 0
    for mode in ("hard", "average"):  # a run picked by chance: means of means, with intervals
        averaged = value["over_seeds"][mode]["outcome"]
        assert averaged["mean"] == pytest.approx(value[mode]["outcome"]["mean"])
        assert averaged["mean_ci"][0] < averaged["mean"] < averaged["mean_ci"][1]


@pytest.mark.slow
def test_processes_change_nothing() -> None:
    made = [
        compare(
            solver_table(),
            CompareOptions(
                learners=("knn", "lightgbm", "supervised"), train=QUICK, contest=CONTEST, processes=count
            ),
        )
        for count in (1, 2)
    ]
    for part in ("hard", "par10", "kinds"):
        assert made[0][part] == made[1][part]


@pytest.mark.slow
class Last:
    """A pool that does its jobs at once; `as_completed` below hands them out from the last to the first."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def submit(self, function, job):
        future = Future()
        future.set_result(function(job))
        return future


def test_who_is_done_first_does_not_matter(monkeypatch):
    def run_job(job):
        times = dict.fromkeys(job.names, 1.0)
        return jobs.JobResult(choices=Choices(hard={}), seconds=times, decision_us={}, policies={})

    monkeypatch.setattr(jobs, "run_job", run_job)
    monkeypatch.setattr(jobs, "ProcessPoolExecutor", Last)
    monkeypatch.setattr(jobs, "as_completed", lambda waiting: reversed(list(waiting)))
    monkeypatch.setattr(jobs, "replace", lambda job, **_: job)
    names = ("lightgbm", "knn", "supervised", "kmeans")
    task: Any = SimpleNamespace(progress=None)
    nothing: Any = None
    asked = ([task, task], [nothing, nothing], names, nothing)
    alone, together = (
        [list(result.seconds) for result in jobs.run_jobs(*asked, processes, SilentProgress())]
        for processes in (1, 2)
    )
    assert together == alone


def test_an_error_in_a_process_is_told_and_leaves_none_running() -> None:
    options = CompareOptions(
        learners=("knn", "grpo_scratch"),
        train=TrainOptions(algorithm="grpo_warm", share_projector="tiny"),  # of another model's features
        contest=CONTEST,
        processes=2,
    )
    with pytest.raises(PacelineError):
        compare(solver_table(), options)
    deadline = time.monotonic() + 10  # one that was just starting takes a moment to end
    while active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not active_children()


def test_every_sample_is_judged_once_by_learners_that_did_not_see_its_fold() -> None:
    table = solver_table()
    options = CompareOptions(learners=("knn", "lightgbm"), train=QUICK, contest=CONTEST)
    value = cross_validate_learners(table, options, "fold")
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    assert value["samples"] == {"test": 240, "folds": 4}
    assert [fold["fold"] for fold in value["folds"]] == ["1", "2", "3", "4"]
    assert sum(fold["samples"] for fold in value["folds"]) == 240
    assert value["par10"]["closed_gaps"]["lightgbm"]["mean"] > 0.5
    sbs = np.where(table.accuracy > 0, table.latency_ms, 1e6).mean(axis=0).min() / 1000
    assert value["par10"]["par10_s"]["best_static"] == pytest.approx(sbs, rel=1e-5)


def test_folds_of_several_seeds_are_averaged_over_them() -> None:
    options = CompareOptions(learners=("lightgbm", "knn"), train=QUICK, contest=CONTEST, seeds=2)
    value = cross_validate_learners(solver_table(), options, "fold")
    single = cross_validate_learners(solver_table(), dataclasses.replace(options, seeds=1), "fold")
    for mode in ("hard", "par10"):
        spread, gaps = value["stability"][mode]["lightgbm"], value[mode]["closed_gaps"]
        assert spread["closed_gap"][0] == single[mode]["closed_gaps"]["lightgbm"]["mean"]
        assert gaps["lightgbm"]["mean"] == pytest.approx(spread["mean"])
    assert value["stability"]["hard"]["lightgbm"]["std"] > 0
    assert value["provenance"]["seeds"] == 2
    assert "stability" not in single


def test_leaving_a_data_set_out() -> None:
    options = CompareOptions(learners=("knn",), train=QUICK, contest=CONTEST)
    value = cross_validate_learners(solver_table(), options, "dataset")
    assert {fold["fold"]: fold["samples"] for fold in value["folds"]} == {"first": 80, "second": 160}


def test_folds_are_by_scene_and_what_cannot_be_is_said() -> None:
    table = fake_table(40, 10, 10)
    labels = fold_labels(table, 5, seed=0)
    assert sorted(set(labels)) == ["1", "2", "3", "4", "5"]
    assert parse_folds("5") == 5
    with pytest.raises(TrainError, match="cross-validate: got 'one', expected a number of folds"):
        parse_folds("one")
    with pytest.raises(OutcomesError, match="the outcomes hold no folds"):
        fold_labels(table, "fold", 0)
    with pytest.raises(OutcomesError, match="61 folds for 30 different images"):
        fold_labels(table, 61, 0)
    one = solver_table(20)
    one.dataset[:] = "only"
    with pytest.raises(OutcomesError, match="all samples are of the data set"):
        fold_labels(one, "dataset", 0)


def test_what_shares_an_image_with_a_fold_is_not_trained_on(monkeypatch) -> None:
    table = priced_table(200)
    image = np.array([f"i{place // 2 if place < 60 else place}" for place in range(200)])  # some are in both
    table = dataclasses.replace(table, image_hash=image)
    seen = []
    made = cross_validation.make_task

    def keeping(fit_table, test, *rest):
        seen.append((set(fit_table.image_hash.tolist()), set(test.scene.tolist()), test.samples))
        return made(fit_table, test, *rest)

    monkeypatch.setattr(cross_validation, "make_task", keeping)
    cross_validate_learners(table, CompareOptions(learners=("knn",), train=QUICK, contest=CONTEST), "dataset")
    assert len(seen) == 2
    for trained, judged, _ in seen:
        assert trained
        assert not trained & judged
    assert sum(samples for *_, samples in seen) == 200


def test_a_fold_outside_which_nothing_can_be_learned_is_named() -> None:
    table = priced_table()
    accuracy = np.where((table.dataset == "first")[:, None], 1.0, table.accuracy)
    one = dataclasses.replace(table, accuracy=accuracy.astype(np.float32))
    options = CompareOptions(learners=("knn",), train=QUICK, contest=CONTEST)
    with pytest.raises(TrainError, match="outside fold 'second' accuracy is 1 for every train sample"):
        cross_validate_learners(one, options, "dataset")


def test_router_metrics_by_hand() -> None:
    cheap, dear = np.array(0.6), np.array(0.8)
    at_random = 0.6 + 0.2 * np.array(SHARES)
    share = np.array(SHARES)
    chance = router_curve(share, gap_recovered(at_random, cheap, dear))
    assert mean_gap_recovered(*chance) == pytest.approx(0.5)
    best = router_curve(share, gap_recovered(np.full(19, 0.8), cheap, dear))
    assert mean_gap_recovered(*best) == pytest.approx(0.975)  # all is gained by the first 5 % of calls
    assert share_needed(*best, 0.5) == pytest.approx(0.025)
    assert share_needed(*chance, 0.8) == pytest.approx(0.8)
    late = router_curve(share / 2 + 0.5, gap_recovered(at_random, cheap, dear))  # more than was asked for
    parts = 0.525 * 0.05 / 2, 0.45 * 0.5, 0.025 * 0.975  # up to the first, among all, after the last
    assert mean_gap_recovered(*late) == pytest.approx(sum(parts))
