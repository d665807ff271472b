"""The benchmark of plans on a table whose truth is known: what a plan gets to see, and how it is judged."""

import numpy as np
import pytest

from benchmarks.sampling_plans import columns_of, contenders, judge_plan, over_lhs, replay, summary
from benchmarks.sampling_plans_judge import Judge
from benchmarks.sampling_plans_plot import save_plot
from fakes import fake_table
from paceline.errors import OutcomesError
from paceline.learning.options import TrainOptions
from paceline.outcomes.table import OutcomeTable
from paceline.profiling.options import PLANS, ProfileOptions


@pytest.fixture(scope="module")
def table() -> OutcomeTable:
    return fake_table(120, 40, 80, timed_share=0.5)


def test_a_plan_sees_the_columns_it_tested_and_no_others(table: OutcomeTable):
    part = columns_of(table, np.array([0, 5, 26]))
    assert part.actions.tolist() == [0, 5, 26]
    np.testing.assert_array_equal(part.accuracy, table.accuracy[:, [0, 5, 26]])
    np.testing.assert_array_equal(part.tiles, table.tiles[:, [0, 5, 26]])


@pytest.mark.parametrize("plan", [plan for plan in PLANS if plan != "full"])
def test_a_replay_tests_what_the_plan_asks_for(table: OutcomeTable, plan: str):
    tested, reasons = replay(table, ProfileOptions(plan=plan, configurations=12))
    assert len(np.unique(tested)) == len(tested) <= 12
    assert len(tested) == 12 or plan == "successive"
    assert bool(reasons) == (plan in ("stratified", "boundary", "successive"))


def test_outcomes_of_the_test_split_change_no_choice(table: OutcomeTable):
    options = ProfileOptions(plan="successive", configurations=20, bound=0.1)
    other = columns_of(table, table.actions)
    other.accuracy[table.split == "test"] = 1 - other.accuracy[table.split == "test"]
    assert replay(other, options)[0].tolist() == replay(table, options)[0].tolist()


def test_the_oracle_closes_the_gap_and_the_cheapest_does_not(table: OutcomeTable):
    judge = Judge(table)
    oracle = judge.accuracy(lambda problem, budget_ms: problem.accuracy)
    cheapest = judge.accuracy(lambda problem, budget_ms: -problem.mean_ms)
    assert judge.closed_gap(oracle)["hard"] == pytest.approx(1)
    assert judge.closed_gap(oracle)["average"] > 0.9
    assert judge.closed_gap(cheapest)["hard"] < 0
    assert judge.time_share(table.actions) == pytest.approx(1)
    assert judge.time_share(table.actions[:1]) < 1 / 27


def test_a_table_without_anything_to_gain_is_refused(table: OutcomeTable):
    flat = columns_of(table, table.actions)
    flat.accuracy[:] = 1
    with pytest.raises(
        OutcomesError, match="under hard budgets the oracle is no better than the best static"
    ):
        Judge(flat)


def test_a_controller_uses_only_what_its_plan_tested(table: OutcomeTable):
    judge, train = Judge(table), TrainOptions(algorithm="outcome", warm_epochs=10, members=1)
    row = judge_plan(judge, ProfileOptions(plan="lhs", configurations=2), train)
    assert (row["configurations"], row["rounds"]) == (2, 1)
    assert row["closed_gap"]["hard"] < 0.5
    full = judge_plan(judge, ProfileOptions(plan="full"), train)
    assert full["closed_gap"]["hard"] > row["closed_gap"]["hard"]
    assert full["share_of_time"] == pytest.approx(1)


def test_lhs_at_the_same_cost_is_interpolated(tmp_path):
    def rows(count: int, gap: float) -> list[dict]:
        same = {"share_of_outcomes": count / 64, "share_of_time": count / 64, "rounds": 1}
        return [{"configurations": count, "closed_gap": {"hard": gap, "average": gap}, **same}] * 2

    results = {"lhs 10": rows(10, 0.2), "lhs 20": rows(20, 0.4), "full": rows(64, 0.5)}
    results |= {"successive 0.1": rows(15, 0.35)}
    assert over_lhs(results, "successive 0.1", "hard") == pytest.approx([0.05, 0.05])
    assert over_lhs(results, "lhs 20", "average") == [0.0, 0.0]
    plans = {name: summary(results, name) for name in results}
    assert plans["successive 0.1"]["over_lhs_hard"] == {"mean": pytest.approx(0.05), "standard_error": 0}
    assert save_plot(plans, tmp_path / "plans.svg", "dark").read_text().startswith("<?xml")


def test_every_plan_takes_part():
    names = contenders([10, 16], [0.2, 0.1], 0)
    assert {name.split()[0] for name in names} == set(PLANS)
    assert {options.seed for options in contenders([10], [0.1], 3).values()} == {3}
