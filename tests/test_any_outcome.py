"""Solvers whose runtimes are known only afterwards, and routers with prices: the same commands as for latencies."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from command_line import message, run, run_json
from paceline.budgets import parse_budget
from paceline.errors import BudgetError, ControllerError
from paceline.evaluation import routing
from paceline.evaluation.compare import CompareOptions, compare
from paceline.evaluation.contest import ContestOptions
from paceline.evaluation.cross_validation import cross_validate_learners
from paceline.evaluation.evaluate import evaluate_controller
from paceline.evaluation.times import fit_latency
from paceline.latency.quantity import Quantity
from paceline.learning.options import TrainOptions
from paceline.outcomes.bootstrap import SceneBootstrap
from paceline.outcomes.store import read_table
from paceline.policies.decision import choose, priced_logits
from paceline.runtime.adaptive import AdaptiveModel
from paceline.runtime.average import AverageBudget
from paceline.runtime.building import fit_prices
from paceline.runtime.controller import Controller
from paceline.workflows.deciding import recorded_context
from paceline.workflows.training import train_controller
from quick_options import QUICK_REFERENCE

QUICK = TrainOptions(reference=QUICK_REFERENCE)
CONTEST = ContestOptions(replicates=100)
SAMPLES = 80


def imported(path, rows, *words):
    names = ("id", "config", "good", "took", "f0", "f1", "fold")
    table = pa.table(dict(zip(names, (list(column) for column in zip(*rows, strict=True)), strict=True)))
    pq.write_table(table, path / "table.parquet")
    columns = ["--sample", "id", "--knobs", "config", "--quality", "good", "--features", "f0..f1"]
    splits = ["--split", "fold:test=0+1,validation=2+3"]
    run_json("import", path / "table.parquet", *columns, *splits, *words, "--out", path / "outcomes")
    return path / "outcomes"


@pytest.fixture(scope="module")
def solvers(tmp_path_factory):
    """`left` takes 2 s where f0 < 0 and else times out at 60 s, `right` the other way round; `slow` takes 20 s."""
    rng, rows = np.random.default_rng(0), []
    for i in range(SAMPLES):
        f0, f1 = rng.normal(size=2)
        for config in ("left", "right", "slow"):
            took = 20.0 if config == "slow" else 2.0 if (f0 < 0) == (config == "left") else 60.0
            rows.append((f"s{i}", config, int(took < 60), took + i / 1e4, f0, f1, i % 8))
    words = ("--latency", "seconds:took", "--latency-unknown")
    return imported(tmp_path_factory.mktemp("solvers"), rows, *words)


@pytest.fixture(scope="module")
def router(tmp_path_factory):
    """The large model is always right, the small one where f0 < 0; they cost $0.002 and $0.0001."""
    rng, rows = np.random.default_rng(1), []
    for i in range(SAMPLES):
        f0, f1 = rng.normal(size=2)
        for config in ("small", "large"):
            rows.append((f"s{i}", config, int(config == "large" or f0 < 0), 0.0, f0, f1, i % 8))
    return imported(tmp_path_factory.mktemp("router"), rows, "--cost", "usd:small=0.0001,large=0.002")


@pytest.fixture(scope="module")
def solver(solvers):
    return train_controller(read_table(solvers), QUICK).controller


@pytest.fixture(scope="module")
def routing_controller(router):
    return train_controller(read_table(router), QUICK).controller


def context(controller, outcomes, left):
    """A sample on which `left` and `small` are right, or one on which they are not."""
    table = read_table(outcomes)
    row = np.flatnonzero((table.features[:, 0] < -0.7) if left else (table.features[:, 0] > 0.7))[0]
    return recorded_context(table, controller, str(table.sample_id[row]))


def test_a_solver_is_chosen_by_the_deadline_and_nothing_is_excluded(solver, solvers):
    for left, name in ((True, "left"), (False, "right")):
        decision = solver.decide(context(solver, solvers, left), budget_ms=5000)
        assert (decision.configuration["config"], decision.reason, decision.feasible) == (name, "policy", 3)
    told = solver.decide(context(solver, solvers, True), budget="5s")
    assert (told.budget_ms, math.isnan(told.predicted_ms), math.isnan(told.full_ms)) == (5000, True, True)


def test_no_time_is_invented_for_a_solver(solver, solvers):
    decision = solver.decide(context(solver, solvers, True), budget_ms=5000, elapsed_ms=1000)
    text = decision.explain()
    assert "known only afterwards" in text
    assert "deadline 5000.0 ms, 1000.0 ms of it spent: an answer after it counts nothing" in text
    assert "predicted  " not in text  # the column of times
    assert "upper" not in text
    assert "deadline below 1000.0 ms: it has passed" in text
    value = decision.to_json()
    assert [value[name] for name in ("predicted_ms", "upper_ms", "full_ms")] == [None] * 3
    assert json.dumps(value, allow_nan=False)
    late = solver.decide(context(solver, solvers, True), budget_ms=5000, elapsed_ms=6000)
    assert late.reason == "cheapest"
    assert "it has passed" in late.explain()


def test_deadlines_between_and_beyond_the_trained_ones(solver, solvers):
    seen, spec = context(solver, solvers, True), solver.policy.spec
    deadlines = [1e-3, spec.budget_low_ms, 3000.0, 10_000.0, 30_000.0, spec.budget_high_ms, 1e9]
    scores = np.stack([solver.decide(seen, budget_ms=ms).candidates.scores for ms in deadlines])
    assert np.isfinite(scores).all()
    chosen = {solver.decide(seen, budget_ms=ms).configuration["config"] for ms in deadlines[1:]}
    assert chosen == {"left"}
    spent = solver.decide(seen, budget_ms=13_000, elapsed_ms=3000)
    np.testing.assert_array_equal(spent.candidates.scores, scores[3])


@pytest.mark.parametrize("algorithm", ["grpo_warm", "supervised", "ppo"])
def test_every_network_reads_deadlines_in_the_range_of_the_runtimes(algorithm, solvers):
    table = read_table(solvers)
    policy = train_controller(table, replace(QUICK, algorithm=algorithm)).controller.policy
    train = table.latency_ms[table.split == "train"]
    np.testing.assert_allclose(
        [policy.spec.budget_low_ms, policy.spec.budget_high_ms], np.quantile(train, [0.05, 0.9]), rtol=1e-5
    )


@pytest.mark.parametrize("command", ["train", "compare"])
def test_rewards_that_compare_times_with_budgets_are_refused_for_solvers(command, solvers, tmp_path):
    words = ["--algorithm", "grpo_warm", "--out", tmp_path / "c"]
    words = words if command == "train" else ["--learners", "grpo_warm"]
    said = run(command, solvers, *words, "--set", "reward=v2")
    assert said.exit_code == 2
    assert (
        "reward: got 'v2' with outcomes whose times are known only afterwards, expected 'masked'"
        in message(said)
    )


@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_reward_per_second_is_refused_for_prices(command, router, tmp_path):
    words = ["--algorithm", "grpo_warm", "--out", tmp_path / "c"]
    words = words if command == "train" else ["--learners", "grpo_warm"]
    said = run(command, router, *words, "--set", "reward=v1")
    assert said.exit_code == 2
    assert "reward: got 'v1', whose weights are per second, with outcomes that cost usd" in message(said)
    assert not (tmp_path / "c").exists()


def test_a_solver_controller_is_judged_by_deadlines_and_par10(solver, solvers):
    value = evaluate_controller(solver, read_table(solvers), CONTEST)
    assert "average" not in value
    assert value["provenance"]["unit"] == "ms"
    assert value["provenance"]["latencies"] == "known only afterwards"
    assert value["overhead"]["share"] is None
    par10 = value["par10"]["par10_s"]
    assert par10["oracle"] == pytest.approx(2, abs=0.1)
    assert par10["paceline"] < par10["best_static"]
    assert value["par10"]["closed_gaps"]["paceline"]["mean"] > 0.5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"average": 1000}, "average budget: got 1000.*known only afterwards.*give a deadline"),
        ({"budget": "80%"}, "expected milliseconds .* or seconds"),
        ({"first_token_budget_ms": 5}, "runtimes, which have no first token; limit the whole runtime"),
        ({"budget": "0.1usd"}, "budget: got '0.1usd', expected milliseconds"),
    ],
)
def test_budgets_that_make_no_sense_for_solvers(words, said, solver, solvers):
    with pytest.raises(BudgetError, match=said):
        solver.decide(context(solver, solvers, True), **words)
    with pytest.raises(BudgetError, match=said):
        solver.check_budgets(**words)


def test_cost_budgets_are_in_the_unit_of_the_table(routing_controller, router):
    easy, hard = (context(routing_controller, router, left) for left in (True, False))
    for budget in ("0.001usd", "0.001 USD", 0.001, "1e-3", AverageBudget(0.001)):
        chosen = [routing_controller.decide(seen, average=budget) for seen in (easy, hard)]
        assert [decision.configuration["config"] for decision in chosen] == ["small", "large"]
        assert [decision.average_budget_ms for decision in chosen] == [0.001, 0.001]
    assert chosen[1].predicted_ms == 0.002
    text = chosen[1].explain()
    assert "average budget 0.001 usd" in text
    assert "0.002 usd" in text
    assert " ms" not in text
    assert chosen[1].summary().startswith("config large: 0.002 usd expected")
    assert chosen[1].to_json()["unit"] == "usd"


def test_a_price_fits_a_budget_that_equals_it(routing_controller, router):
    hard = context(routing_controller, router, False)
    assert routing_controller.decide(hard, budget="0.002usd").configuration == {"config": "large"}
    decision = routing_controller.decide(hard, budget="0.0019usd")
    assert decision.configuration == {"config": "small"}
    assert "0.0001 usd over the budget" in decision.explain()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"budget_ms": 60}, "budget_ms: got 60, .* costs in usd; say budget with its unit, such as '60usd'"),
        ({"budget": "60ms"}, "budget: got '60ms', expected an amount in usd"),
        ({"average": "40ms"}, "average budget: got '40ms', expected an amount in usd"),
        ({"average": "80%"}, "average budget: got '80%', expected an amount in usd"),
        ({"average": "-1usd"}, "got '-1usd', expected a positive, finite amount in usd"),
        ({"first_token_budget_ms": 5}, "costs, which have no first token; limit the whole cost"),
    ],
)
def test_budgets_that_make_no_sense_for_prices(words, said, routing_controller, router):
    with pytest.raises(BudgetError, match=said):
        routing_controller.decide(context(routing_controller, router, True), **words)


def test_budgets_in_a_unit():
    assert parse_budget("0.5 J", full_ms=2.0, unit="J") == 0.5
    assert parse_budget("50%", full_ms=2.0, unit="J") == 1.0
    assert parse_budget("2s", full_ms=None) == 2000
    with pytest.raises(
        BudgetError, match=r"got '2s', expected an amount in J \(0.002 or '0.002J'\), a share"
    ):
        parse_budget("2s", full_ms=2.0, unit="J")


@pytest.mark.parametrize("kind", ["runtime", "cost"])
def test_models_run_and_calibrate_under_latencies_alone(kind, solver, routing_controller):
    controller = solver if kind == "runtime" else routing_controller
    with pytest.raises(ControllerError, match=f"trained on {kind}s in .*paceline decide --outcomes"):
        AdaptiveModel(SimpleNamespace(), controller)
    Quantity().check_live()


def test_the_commands_take_both(solver, routing_controller, solvers, router, tmp_path):
    solver.save(tmp_path / "solver")
    routing_controller.save(tmp_path / "router")
    assert Controller.load(tmp_path / "router").quantity == Quantity(kind="cost", unit="usd")
    value = run_json(
        "decide", tmp_path / "solver", "--outcomes", solvers, "--sample", "s1", "--budget-ms", 60000
    )
    assert (value["predicted_ms"], value["feasible"]) == (None, 3)
    asked = ("decide", tmp_path / "router", "--outcomes", router, "--sample", "s1")
    value = run_json(*asked, "--average-budget", "0.001usd")
    assert (value["average_budget_ms"], value["unit"]) == (0.001, "usd")
    assert "such as '1.0usd'" in message(run(*asked, "--average-budget-ms", 1))
    twice = run(*asked, "--average-budget-ms", 1, "--average-budget", "1usd")
    assert "expected one of them" in message(twice)
    refused = run("calibrate", tmp_path / "router", "tiny")
    assert "trained on costs in usd" in message(refused)
    assert (
        run_json("evaluate", tmp_path / "router", router, "--replicates", 100)["provenance"]["unit"] == "usd"
    )
    text = run("evaluate", tmp_path / "router", router, "--replicates", 100).stdout
    assert "Average budgets in usd" in text
    assert "Mean cost, usd" in text
    assert " ms" not in text
    assert "\nrandom: APGR 0.500 [0.500, 0.500], CPT50 50.0%, CPT80 80.0%" in text
    assert "APGR" not in run("evaluate", tmp_path / "solver", solvers, "--replicates", 100).stdout


def test_prices_hold_the_costs_that_came(router, routing_controller):
    """What needs the large model costs three times as much as other samples; prices are found by that."""
    table = read_table(router)
    factor = np.where(table.features[:, :1] > 0, 1.5, 0.5).astype(np.float32)
    varying = replace(table, latency_ms=table.latency_ms * factor)
    policy, latency = routing_controller.policy, fit_latency(varying)
    fixed, found = (fit_prices(policy, seen, fit_latency(seen)) for seen in (table, varying))
    validation = varying.split_rows("validation")
    scores = policy.scores(validation.image_features, validation.question_features, None)
    mean_ms = latency.mean(
        table.actions, validation.tiles, validation.vision_tokens, validation.prompt_tokens
    )
    budget = float(found.budgets_ms[np.searchsorted(found.budgets_ms, 0.0008)])

    def spent(price):
        full, temperature = policy.spec.full_latency_ms, policy.spec.temperature
        logits = priced_logits(scores, mean_ms, price, full_latency_ms=full, temperature=temperature)
        chosen = choose(logits, mean_ms, np.isfinite(mean_ms))
        return validation.latency_ms[np.arange(len(chosen)), chosen].mean()

    assert spent(fixed.price(budget)) > 1.1 * budget  # as if every call of a model cost the same
    assert spent(found.price(budget)) <= 1.001 * budget


def test_routing_numbers_of_known_routers(router):
    """APGR of always mixing by chance is 1/2; a router that sends the right half up recovers all with half."""
    table = read_table(router)
    value = compare(table, CompareOptions(learners=("knn",), contest=CONTEST, train=QUICK))["routing"]
    assert set(value) == {"best_static", "random", "lookup", "oracle", "knn"}
    assert value["random"]["APGR"] == pytest.approx(0.5)
    assert value["random"]["CPT80"] == pytest.approx(0.8)
    assert value["random"]["APGR_ci"] == pytest.approx([0.5, 0.5])
    low, high = value["knn"]["APGR_ci"]
    assert 0.5 < low <= value["knn"]["APGR"] <= high
    assert value["knn"]["CPT50"] < 0.5
    folds = cross_validate_learners(table, CompareOptions(learners=("knn",), contest=CONTEST, train=QUICK), 2)
    assert folds["routing"]["knn"]["APGR"] > 0.5


def test_routing_numbers_by_hand():
    accuracy = np.array([[0.0, 1.0], [1.0, 1.0]])
    test = SimpleNamespace(accuracy=accuracy, cheapest=0)
    half = [np.array([[0.0, 1.0], [1.0, 0.0]])] * len(routing.SHARES)  # dear where the cheap one fails
    bootstrap = SceneBootstrap(np.array(["a", "b"]), replicates=100)
    value = routing.routing_section(test, {"all": half}, bootstrap)["all"]  # pyright: ignore[reportArgumentType]
    assert value["APGR"] == pytest.approx(0.75)  # up to 1 at half the calls, whatever share was asked for
    assert value["CPT50"] == pytest.approx(0.25)
    assert value["CPT80"] == pytest.approx(0.4)
    assert value["dear_share"] == [0.5] * len(routing.SHARES)
    chance = np.array([1.0, 0.0])[None] + np.array(routing.SHARES)[::-1, None, None] * np.array(
        [[-1.0, 1.0]] * 2
    )
    at_random = routing.routing_section(test, {"all": list(chance)}, bootstrap)["all"]  # pyright: ignore[reportArgumentType]
    assert at_random["APGR"] == pytest.approx(0.5)  # in whatever order the budgets came
    assert at_random["CPT80"] == pytest.approx(0.8)
    worse = SimpleNamespace(accuracy=accuracy[:, ::-1], cheapest=0)
    nothing = routing.routing_section(worse, {"all": half}, bootstrap)["all"]  # pyright: ignore[reportArgumentType]
    assert {name: nothing[name] for name in ("APGR", "APGR_ci", "CPT50", "CPT80")} == {
        "APGR": None,
        "APGR_ci": None,
        "CPT50": None,
        "CPT80": None,
    }
