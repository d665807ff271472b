"""Contenders and metrics by hand on tables of three lines."""

import numpy as np
import pytest

from paceline.errors import BudgetError, OutcomesError
from paceline.evaluation import baselines, metrics
from paceline.evaluation.budget_grid import budget_grid, fixed_grid
from paceline.evaluation.choices import Frontier
from paceline.evaluation.contest import ContestOptions
from paceline.evaluation.pricing import by_value, fit_price, one_hot
from paceline.evaluation.results import equal_latency_gain, full_accuracy_share
from paceline.knobs import Knob, KnobSpace
from paceline.learning.learners.contender import ValueContender, pick
from paceline.learning.problem import Problem
from paceline.outcomes.bootstrap import SceneBootstrap

SPACE = KnobSpace((Knob(name="effort", options=(1, 2, 4)),))


def problem(
    accuracy: list[list[float]],
    mean_ms: list[float] | list[list[float]] | None = None,
    kind: str = "aab",
    upper: float = 1.1,
    measured_ms: list[list[float]] | None = None,
) -> Problem:
    """Configurations of effort 1, 2 and 4 that take 10, 20 and 40 ms, upper 10 % more."""
    values = np.array(accuracy, dtype=float)
    n, m = values.shape
    mean = np.broadcast_to(np.array([10.0, 20.0, 40.0] if mean_ms is None else mean_ms), (n, m)).copy()
    return Problem(
        space=SPACE,
        actions=np.arange(m),
        accuracy=values,
        mean_ms=mean,
        upper_ms=mean * upper,
        measured_ms=np.full((n, m), np.nan) if measured_ms is None else np.array(measured_ms),
        kind=np.array(list(kind)),
        scene=np.array([str(i) for i in range(n)]),
        dataset=np.full(n, "one"),
        image_features=np.zeros((n, 1), np.float32),
        question_features=np.zeros((n, 1), np.float32),
    )


THREE = problem([[0, 1, 1], [0, 0, 1], [1, 1, 0]])  # means 1/3, 2/3, 2/3


def columns(shares: np.ndarray) -> list[int]:
    assert np.all(shares.max(axis=1) == 1)
    return shares.argmax(axis=1).tolist()


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(10.0, None), (11.0, 0), (21.9, 0), (22.0, 1), (44.0, 1), (100.0, 1)],  # 2/3 twice: the cheaper
)
def test_best_static(budget: float, expected: int | None) -> None:
    assert baselines.best_static(THREE, budget, 0.05) == expected


def test_best_static_bears_few_infeasible_samples_only() -> None:
    fit = problem([[0, 1, 1]] * 3, [[10, 20, 40], [10, 20, 40], [10, 30, 40]])
    assert baselines.best_static(fit, 25.0, 0.05) == 0
    assert baselines.best_static(fit, 25.0, 0.34) == 1


def test_hard_contenders_by_hand() -> None:
    test = problem([[0, 1, 1], [1, 0, 1], [0, 0, 1]])
    assert columns(baselines.hard_static(THREE, test, 30.0, 0.05)) == [1, 1, 1]
    assert columns(baselines.hard_static(THREE, test, 5.0, 0.05)) == [0, 0, 0]
    assert columns(baselines.static_shares(test, test.full)) == [2, 2, 2]
    assert columns(baselines.static_shares(test, test.cheapest)) == [0, 0, 0]
    assert columns(baselines.hard_lookup(THREE, test, 50.0, 0.05)) == [2, 2, 0]  # a: 0, .5, 1; b: 1, 1, 0
    assert columns(baselines.hard_oracle(test, 30.0)) == [1, 0, 0]
    assert columns(baselines.hard_oracle(test, 50.0)) == [1, 0, 2]
    assert baselines.hard_random(test, 30.0).tolist() == [[0.5, 0.5, 0]] * 3
    assert baselines.hard_random(test, 5.0).tolist() == [[1, 0, 0]] * 3


def test_lookup_of_an_unseen_kind_is_the_best_static() -> None:
    test = problem([[0, 1, 1], [1, 0, 1], [0, 0, 1]], kind="zab")
    assert columns(baselines.hard_lookup(THREE, test, 50.0, 0.05)) == [1, 2, 0]


def test_policy_takes_the_best_feasible_score_and_the_cheapest_when_nothing_fits() -> None:
    scores = np.array([[0.1, 0.5, 0.9], [0.6, 0.5, 0.9], [0.4, 0.4, 0.9]])
    assert ValueContender(lambda *_: scores).choose(THREE, 30.0, 0.0).tolist() == [1, 0, 0]
    assert ValueContender(lambda *_: scores).choose(THREE, 50.0, 0.0).tolist() == [2, 2, 2]
    assert ValueContender(lambda *_: scores).choose(THREE, 5.0, 0.0).tolist() == [0, 0, 0]


def test_pick_never_takes_what_a_policy_does_not_know() -> None:
    values = np.array([[-np.inf, 0.2, 0.9]])
    mean = np.array([[10.0, 20.0, 40.0]])
    assert pick(values, mean, mean <= 15) == [1]  # the cheapest that it knows
    assert pick(values, mean, mean <= 25) == [1]


def test_concave_hull_by_hand() -> None:
    hull = baselines.concave_hull(np.array([10, 20, 30, 40, 50.0]), np.array([0.2, 0.3, 0.6, 0.6, 0.5]))
    assert hull.columns.tolist() == [0, 2]  # 20 ms lies under the line from 10 to 30; 40 and 50 gain nothing
    assert hull.shares(20.0, 2, 5).tolist() == [[0.5, 0, 0.5, 0, 0]] * 2
    assert hull.shares(15.0, 1, 5)[0].tolist() == pytest.approx([0.75, 0, 0.25, 0, 0])
    assert hull.shares(10.0, 1, 5)[0].tolist() == [1, 0, 0, 0, 0]
    assert hull.shares(5.0, 1, 5)[0].tolist() == [1, 0, 0, 0, 0]
    assert hull.shares(60.0, 1, 5)[0].tolist() == [0, 0, 1, 0, 0]


def test_concave_hull_keeps_corners_that_bend_down() -> None:
    hull = baselines.concave_hull(np.array([10, 20, 30.0]), np.array([0.2, 0.5, 0.6]))
    assert hull.columns.tolist() == [0, 1, 2]
    same_time = baselines.concave_hull(np.array([10, 10, 30.0]), np.array([0.2, 0.3, 0.6]))
    assert same_time.columns.tolist() == [1, 2]


def test_no_mix_of_two_beats_the_hull() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        latency, accuracy = rng.uniform(10, 60, 12), rng.uniform(0, 1, 12)
        hull = baselines.concave_hull(latency, accuracy)
        for budget in np.linspace(latency.min(), 60, 9):
            reached = hull.shares(budget, 1, 12)[0]
            assert reached @ latency <= budget + 1e-9
            for a in range(12):
                for b in range(12):
                    if latency[a] <= budget < latency[b]:
                        part = (budget - latency[a]) / (latency[b] - latency[a])
                        assert reached @ accuracy >= (1 - part) * accuracy[a] + part * accuracy[b] - 1e-9


def test_price_by_hand() -> None:
    values = np.array([[0.0, 0.6, 1.0], [0.5, 0.5, 0.6]])
    mean = np.array([[10.0, 20.0, 40.0]] * 2)
    at_price = by_value(values, mean, 40.0)
    assert at_price(0.0).tolist() == [2, 2]
    assert at_price(0.5).tolist() == [2, 0]  # second: .1 for 30 ms is not worth .375
    assert at_price(1.0).tolist() == [1, 0]  # first: .4 for 20 ms is not worth .5
    assert at_price(3.0).tolist() == [0, 0]
    free = fit_price(at_price, mean, 40.0)
    assert (free.price, free.shares(at_price, mean).argmax(axis=1).tolist()) == (0.0, [2, 2])
    between = fit_price(at_price, mean, 20.0)  # 25 ms below price .8, 15 ms above it
    assert between.price == pytest.approx(0.8)
    assert between.shares(at_price, mean) == pytest.approx(np.array([[0, 0.5, 0.5], [1, 0, 0]]), abs=1e-6)
    lost = fit_price(at_price, mean, 5.0)
    assert lost.shares(at_price, mean).argmax(axis=1).tolist() == [0, 0]


def test_who_ignores_the_price_is_mixed_with_the_cheapest_and_spends_no_more_than_others() -> None:
    mean = np.array([[10.0, 20.0, 40.0]] * 3)
    mix = fit_price(lambda price: np.full(3, 2), mean, 25.0)
    assert (mix.low_share, np.isinf(mix.high)) == (pytest.approx(0.5), True)
    shares = mix.shares(lambda price: np.full(3, 2), mean)
    assert shares.tolist() == [[0.5, 0.0, 0.5]] * 3
    assert (shares * mean).sum(axis=1).mean() == pytest.approx(25.0)


def test_priced_choices_meet_their_budget_and_nothing_better_does() -> None:
    rng = np.random.default_rng(1)
    accuracy = (rng.random((300, 3)) < [0.4, 0.6, 0.8]).astype(float)
    mean = np.array([10.0, 20.0, 40.0]) * rng.uniform(0.8, 1.2, (300, 1))
    test = problem(accuracy.tolist(), mean.tolist(), kind="a" * 300)
    hull = baselines.best_mix(test)
    for budget in (12.0, 18.0, 25.0, 32.0):
        shares = baselines.average_oracle(test, budget, 40.0)
        assert shares.sum(axis=1) == pytest.approx(1)
        reached = metrics.sample_latency(test, shares).mean()
        assert reached <= budget * 1.0001
        if metrics.sample_accuracy(test, shares).mean() < test.accuracy.max(axis=1).mean() - 1e-9:
            assert reached == pytest.approx(budget, rel=1e-4)
        best = metrics.sample_accuracy(test, shares).mean()
        assert best >= metrics.sample_accuracy(test, hull.shares(budget, *accuracy.shape)).mean()
        for _ in range(20):  # any other way to spend no more than the budget
            other = rng.dirichlet(np.ones(3), 300)
            spent = metrics.sample_latency(test, other).mean()
            part = min(1.0, (budget - mean[:, 0].mean()) / (spent - mean[:, 0].mean()))
            other = part * other + (1 - part) * one_hot(0, 300, 3)
            assert metrics.sample_latency(test, other).mean() <= budget + 1e-9
            assert metrics.sample_accuracy(test, other).mean() <= best + 1e-9


def test_average_lookup_by_hand() -> None:
    fit = problem([[0, 0.9, 1.0], [0, 0.9, 1.0], [0.5, 0.5, 0.6]])
    # a: 0, .9, 1; b: .5, .5, .6. Spending 20 ms on a and 10 ms on b takes 50 / 3 ms.
    assert columns(baselines.average_lookup(fit, fit, 50 / 3, 40.0)) == [1, 1, 0]
    shares = baselines.average_lookup(fit, fit, 10.0, 40.0)
    assert columns(shares) == [0, 0, 0]
    assert metrics.sample_latency(
        fit, baselines.average_lookup(fit, fit, 25.0, 40.0)
    ).mean() == pytest.approx(25.0)


@pytest.mark.parametrize("budget", [12.0, 70 / 3, 36.0])
def test_average_random_meets_the_budget(budget: float) -> None:
    shares = baselines.average_random(THREE, THREE, budget)
    assert metrics.sample_latency(THREE, shares).mean() == pytest.approx(budget)
    if budget == 70 / 3:  # the mean of all: uniform
        assert shares[0] == pytest.approx([1 / 3] * 3, abs=1e-6)


def test_oracle_is_at_least_everything_that_keeps_to_the_feasible_set() -> None:
    rng = np.random.default_rng(2)
    test = problem(rng.random((40, 3)).tolist(), kind="a" * 40)
    for budget in (5.0, 11.0, 23.0, 50.0):
        oracle = metrics.sample_accuracy(test, baselines.hard_oracle(test, budget))
        others = [
            baselines.hard_random(test, budget),
            baselines.hard_static(test, test, budget, 0.05),
            baselines.hard_lookup(test, test, budget, 0.05),
            one_hot(
                ValueContender(lambda p, b: rng.random(p.accuracy.shape)).choose(test, budget, 0.0),
                *test.accuracy.shape,
            ),
        ]
        for other in others:
            assert np.all(oracle >= metrics.sample_accuracy(test, other) - 1e-12)


def test_metrics_by_hand() -> None:
    measured = [[9, 22, np.nan], [9, 18, 50], [np.nan] * 3]
    test = problem([[0, 1, 1], [0, 0.5, 1], [1, 1, 0]], measured_ms=measured)
    shares = np.array([[0, 1, 0], [0, 0.5, 0.5], [1, 0, 0]])
    assert metrics.sample_accuracy(test, shares).tolist() == [1, 0.75, 1]
    assert metrics.sample_latency(test, shares).tolist() == [20, 30, 10]
    assert metrics.latency_quantiles(test, shares, (0.1, 0.5, 0.95)) == [10, 20, 40]
    # timed: 1.0 of sample 0 at 22 ms, .5 at 18 ms and .5 at 50 ms of sample 1; over 20 ms: 1.5 of 2
    assert metrics.violation_rate(test, shares, 20.0) == 0.75
    assert metrics.violation_rate(test, shares, 60.0) == 0.0
    assert metrics.violation_rate(problem([[1, 1, 1]], kind="a"), one_hot(0, 1, 3), 20.0) is None
    assert metrics.configuration_shares(test, shares) == pytest.approx({"0": 1 / 3, "1": 0.5, "2": 1 / 6})
    assert metrics.knob_use(test, shares) == pytest.approx([1 / 3 + 1 + 4 / 6])


def test_knobs_without_numbers_are_counted_by_position() -> None:
    space = KnobSpace((Knob(name="model", options=("small", "large")), Knob(name="beams", options=(1, 5))))
    assert metrics.option_values(space, np.arange(4)).tolist() == [[0, 1], [0, 5], [1, 1], [1, 5]]


def test_equal_latency_gain_by_hand() -> None:
    """The mix of 10 and 40 ms goes through (10, 1/3) and (40, 2/3); at 20 ms it has 4/9."""
    test = problem([[0, 1, 1], [0, 0, 1], [1, 1, 0]])
    hull = baselines.Hull(
        columns=np.array([0, 2]), mean_ms=np.array([11, 39.0]), accuracy=np.array([0.1, 0.9])
    )
    value = equal_latency_gain(test, [one_hot(1, 3, 3)], hull, SceneBootstrap(test.scene, replicates=200))
    assert value["gain_at_equal_latency"] == pytest.approx([2 / 3 - 4 / 9])
    low, high = value["gain_at_equal_latency_ci"][0]
    assert low <= 2 / 3 - 4 / 9 <= high


def test_full_accuracy_share_by_hand() -> None:
    bootstrap = SceneBootstrap(THREE.scene, replicates=200)
    rows, columns = np.arange(3), np.array([[0, 1, 1, 2], [0, 2, 1, 2], [0, 0, 1, 2]])
    reached = Frontier(
        accuracy=np.stack([THREE.accuracy[rows, column] for column in columns.T], axis=1),
        latency_ms=np.stack([THREE.mean_ms[rows, column] for column in columns.T], axis=1),
    )
    share, interval = full_accuracy_share(THREE, reached, bootstrap)
    assert share == pytest.approx(0.5)  # 20 of 40 ms; 70 / 3 ms has a higher accuracy than needed
    assert interval is not None
    cheapest = Frontier(accuracy=reached.accuracy[:, :1], latency_ms=reached.latency_ms[:, :1])
    assert full_accuracy_share(THREE, cheapest, bootstrap)[0] is None


def test_budget_grid_by_hand() -> None:
    budgets, quantiles = budget_grid(np.array([10, 20, 30, 40, 50.0]), 50.0)
    assert budgets == pytest.approx([14, 20, 30, 40, 46, 50])
    assert quantiles == [0.1, 0.25, 0.5, 0.75, 0.9, 1.0]
    assert fixed_grid("budgets_ms", [30, 20, 30]) == ([20.0, 30.0], [None, None])


def test_bad_input() -> None:
    with pytest.raises(BudgetError, match="got none"):
        fixed_grid("budgets_ms", [])
    with pytest.raises(BudgetError, match="expected a positive, finite time"):
        fixed_grid("budgets_ms", [float("nan")])
    with pytest.raises(OutcomesError, match="an outcome in every cell"):
        problem([[0, 1, np.nan]], kind="a")
    with pytest.raises(OutcomesError, match="replicates: got 5"):
        ContestOptions(replicates=5)
