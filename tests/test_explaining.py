"""The global picture of a controller: batches equal single decisions, planted importance, the tree's fidelity."""

import json
from dataclasses import replace

import numpy as np
import pytest

import controllers
from paceline.errors import BudgetError, ControllerError, OutcomesError
from paceline.evaluation.importance import importance, orders
from paceline.evaluation.surrogate import Decisions, surrogate
from paceline.evaluation.usage import usage
from paceline.knobs import Knob, KnobSpace
from paceline.outcomes.bootstrap import SceneBootstrap
from paceline.policies.numpy_policy import NumpyPolicy
from paceline.report.explanation_page import write_explanation
from paceline.report.explanation_tables import explanation_parts
from paceline.runtime.recorded import ALL, RecordedRequests, Shown
from paceline.workflows.deciding import recorded_context
from paceline.workflows.explaining import ExplainOptions, explain_controller
from solvers import priced_table, solver_table

QUICK = ExplainOptions(permutations=2, replicates=100)
TEST = controllers.rows_to_serve()


def reading(**changes) -> controllers.Controller:
    """The fake controller with a policy that reads budget and price too."""
    made = controllers.controller()
    spec = replace(made.policy.spec, **changes)
    rng = np.random.default_rng(0)
    arrays = {
        name: made.policy.arrays[name].copy()
        if made.policy.arrays[name].shape == shape
        else np.zeros(shape, np.float32)
        for name, shape in spec.array_shapes().items()
    }
    codes = arrays["input.weight"][:, spec.feature_width :]
    codes[:] = rng.normal(0, 0.3, codes.shape)
    return replace(made, policy=NumpyPolicy(spec, arrays))


LOGITS = {"output": "logits", "temperature": 1.0, "price_low": 0.1, "price_high": 2.0}
POLICIES = {"accuracy": controllers.controller(), "reading": reading(), "logits": reading(**LOGITS)}


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize("budget", [{"budget_ms": 9.0}, {"average_ms": 6.0}, {"budget_ms": 4.0}, {}])
def test_batches_are_single_decisions(kind, budget):
    made, table = POLICIES[kind], TEST.select(np.arange(40))
    requests = RecordedRequests(made, table)
    chosen, fits = requests.choices(**budget)
    words = {"average": budget["average_ms"]} if "average_ms" in budget else budget
    for row, sample in enumerate(table.sample_id):
        single = made.decide(recorded_context(table, made, sample), **words)
        assert (single.action, single.reason == "policy") == (made.actions[chosen[row]], fits[row])


def test_exchanged_and_hidden_inputs():
    table = TEST.select(np.arange(30))
    requests = RecordedRequests(POLICIES["reading"], table)
    order = np.roll(np.arange(30), 1)
    mixed, _ = requests.choices(budget_ms=9.0, shown=Shown(image=order))
    features = table.features.copy()
    features[:, : table.image_width] = features[order, : table.image_width]
    expected, _ = RecordedRequests(POLICIES["reading"], replace(table, features=features)).choices(
        budget_ms=9.0
    )
    np.testing.assert_array_equal(mixed, expected)
    everything, _ = requests.choices(budget_ms=9.0, shown=Shown(image=np.arange(30), question=np.arange(30)))
    np.testing.assert_array_equal(everything, requests.choices(budget_ms=9.0)[0])
    hidden, fits = requests.choices(budget_ms=9.0, shown=Shown(budget=False))
    assert fits.all()
    assert (requests.problem.upper_ms[np.arange(30), hidden] <= 9.0).all()  # the guard stays
    plain = RecordedRequests(controllers.controller(), table)  # it does not read the budget
    own = plain.choices(budget_ms=9.0)[0]
    np.testing.assert_array_equal(plain.choices(budget_ms=9.0, shown=Shown(budget=False))[0], own)
    priced = plain.choices(average_ms=6.0, shown=ALL)[0]
    assert not np.array_equal(priced, plain.choices(average_ms=30.0, shown=ALL)[0])


@pytest.fixture(scope="module")
def picture():
    return explain_controller(controllers.controller(), controllers.table(), QUICK)


def test_the_picture(picture):
    assert json.loads(json.dumps(picture, allow_nan=False))["samples"]["explained"] == 200
    for mode in ("hard", "average"):
        facts = picture[mode]
        assert facts["budgets_ms"] == sorted(facts["budgets_ms"])
        for row in facts["use"]:
            kinds = row["kinds"]
            assert kinds["all"]["count"] == sum(
                item["count"] for name, item in kinds.items() if name != "all"
            )
            assert 0 < kinds["all"]["share"] <= 1
        assert facts["surrogate"]["fidelity"] > facts["surrogate"]["most_frequent"]
    # The fake policy knows kinds from the question and difficulty from the image, and ignores the budget.
    hard = picture["hard"]["importance"]
    assert hard["budget"]["changed"] == 0.0
    assert hard["question"]["changed"] > 0.2
    assert hard["question"]["accuracy_lost_ci"][0] > 0
    assert "price of time" in picture["average"]["importance"]["budget"]["not_read"]
    costly = picture["hard"]["use"][-1]["kinds"]
    assert costly["small"]["knobs"]["max_crops"] > costly["wide"]["knobs"]["max_crops"]


def test_a_policy_that_reads_the_budget_misses_it():
    made = explain_controller(POLICIES["logits"], TEST, QUICK)
    assert made["hard"]["importance"]["budget"]["changed"] > 0
    assert made["average"]["importance"]["budget"]["changed"] > 0
    assert made["policy"]["output"] == "logits"


def test_the_same_seed_gives_the_same_picture():
    few = replace(QUICK, samples=60, budgets_ms=(9.0,), average_budgets_ms=(6.0,))
    first, second, other = (
        explain_controller(controllers.controller(), controllers.table(), replace(few, seed=seed))
        for seed in (1, 1, 2)
    )
    assert first == second
    assert first["hard"]["importance"] != other["hard"]["importance"]
    assert first["samples"] | {"scenes": 0} == {
        "split": "test", "explained": 60, "of": 200, "incomplete": 0, "scenes": 0,
    }  # fmt: skip


def test_importance_by_hand():
    changed = np.zeros((4, 2, 1), dtype=bool)
    changed[0], changed[1, 0] = True, True
    lost = np.zeros((4, 2, 1))
    lost[0, 0] = 0.8
    found = importance(changed, lost, None, SceneBootstrap(np.array(list("aabb")), replicates=100))
    assert found["changed"] == pytest.approx(3 / 8)
    assert found["changed_by_budget"] == [0.5, 0.25]
    assert found["accuracy_lost"] == pytest.approx(0.1)
    assert found["accuracy_lost_ci"] == pytest.approx([0.0, 0.2])  # the scenes' means
    assert "latency_change_ms" not in found
    assert [sorted(order.tolist()) for order in orders(5, 2, 0)] == [[0, 1, 2, 3, 4]] * 2


def test_usage_by_hand():
    space = KnobSpace((Knob(name="crops", options=(2, 6)), Knob(name="model", options=("small", "large"))))
    found = usage(space, np.array([0, 1, 3]), np.array([0, 2, 2, 1]), np.array(["a", "a", "a", "b"]))
    assert list(found) == ["all", "a", "b"]
    assert found["a"]["configuration"] == {"crops": 6, "model": "large"}
    assert (found["a"]["share"], found["a"]["used"]) == (pytest.approx(2 / 3), 2)
    assert found["a"]["knobs"] == {"crops": pytest.approx(14 / 3)}  # names of models have no mean
    assert found["b"]["knobs"] == {"crops": 2.0}


def planted(rule):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(400, 2))
    budget = np.arange(400) % 2
    return Decisions(
        inputs=inputs,
        names=["first", "second"],
        chosen=rule(inputs, budget).astype(np.int64),
        budget=budget,
        scene=np.array([f"s{i // 4}" for i in range(400)]),
    )


def test_the_tree_finds_a_planted_rule_and_its_fidelity_is_of_held_out_scenes():
    found = surrogate(planted(lambda inputs, _: np.where(inputs[:, 1] > 0.3, 5, 2)))
    assert found is not None
    tree = found["tree"]
    assert (tree["input"], tree["low"]["position"], tree["high"]["position"]) == ("second", 2, 5)
    assert tree["threshold"] == pytest.approx(0.3, abs=0.1)
    assert found["fidelity"] > 0.97 > found["most_frequent"]
    assert found["fitted_decisions"] + found["held_out_decisions"] == 400
    assert found["held_out_decisions"] == 120
    noise = np.random.default_rng(1).integers(0, 2, 400)
    lost = surrogate(planted(lambda *_: noise))
    assert lost is not None
    assert lost["fidelity"] < 0.65
    constant = surrogate(planted(lambda _, budget: 3 * budget))
    assert constant is not None
    assert constant["most_frequent_at_budget"] == 1.0
    assert constant["most_frequent"] == pytest.approx(0.5, abs=0.05)
    assert surrogate(replace(planted(lambda _, budget: budget), scene=np.array(["s"] * 400))) is None
    endless = planted(lambda inputs, _: np.where(inputs[:, 1] > 0.3, 5, 2))
    endless.inputs[:, 0] *= 1e300  # budgets that no float32 holds
    told = surrogate(endless)
    assert told is not None
    assert told["fidelity"] > 0.97
    far = surrogate(planted(lambda _, budget: 3 * budget), seed=2**32 + 1)  # more than scikit-learn takes
    assert far is not None


def of_solvers(table):
    """A controller of three solvers with random weights."""
    from paceline.latency.estimate import LatencyEstimator

    runtime = table.manifest.options["latency_kind"] == "runtime"
    facts = (
        {"kind": "runtime", "unit": "ms", "cutoff_ms": 1e5} if runtime else {"kind": "cost", "unit": "usd"}
    )
    mean = table.latency_ms.mean(axis=0).astype(np.float64)
    latency = LatencyEstimator.constant(
        table.space, table.actions, mean, upper_ratio=0.0 if runtime else 1.0, facts=facts
    )
    trained = controllers.fake_training(table, latency)
    spec = replace(trained.spec, budget_low_ms=float(mean.min()), full_latency_ms=float(mean.max()))
    return controllers.Controller.from_training(
        replace(trained, spec=replace(spec, budget_high_ms=float(mean.max()))), table, latency, latency
    )


def test_solvers_and_costs(tmp_path):
    solvers = solver_table()
    found = explain_controller(of_solvers(solvers), solvers, QUICK)
    assert "average" not in found
    assert "latency_change_ms" not in found["hard"]["importance"]["question"]
    assert found["hard"]["importance"]["image"] == {"not_read": "the policy reads no image features"}
    with pytest.raises(BudgetError, match="known only afterwards"):
        explain_controller(of_solvers(solvers), solvers, replace(QUICK, average_budgets_ms=(5.0,)))
    priced = priced_table()
    costs = explain_controller(of_solvers(priced), priced, QUICK)
    assert costs["unit"] == "usd"
    assert not any("Mean option" in str(getattr(part, "title", "")) for part in explanation_parts(costs))
    drawn = write_explanation(costs, tmp_path / "costs.html").read_text()
    assert 'class="panels"' not in drawn
    assert costs["average"]["use"]


def test_a_budget_named_twice_counts_once():
    made, table = controllers.controller(), controllers.table()
    found = explain_controller(made, table, replace(QUICK, budgets_ms=(20.0, 9.0, 20.0)))
    assert [row["budget_ms"] for row in found["hard"]["use"]] == [9.0, 20.0]


def test_what_cannot_be_explained():
    made, table = controllers.controller(), controllers.table()
    with pytest.raises(OutcomesError, match="no such samples"):
        explain_controller(made, table.split_rows("train"), QUICK)
    with pytest.raises(OutcomesError, match="expected one of"):
        explain_controller(made, table, replace(QUICK, split="dev"))
    other = KnobSpace((Knob(name="k", options=tuple(range(27))),))
    with pytest.raises(OutcomesError, match="their knobs are .* the controller's are"):
        explain_controller(made, replace(table, space=other), QUICK)
    manifest = replace(table.manifest, options=table.manifest.options | {"features": {"kind": "columns"}})
    with pytest.raises(OutcomesError, match="features were made by columns"):
        explain_controller(made, replace(table, manifest=manifest), QUICK)
    untested = table.accuracy.copy()
    untested[:, 3] = np.nan
    with pytest.raises(OutcomesError, match="none of 200 samples was tested under all 27"):
        explain_controller(made, replace(table, accuracy=untested), QUICK)
    with pytest.raises(ControllerError, match="features: got"):
        explain_controller(made, replace(table, features=table.features[:, :7]), QUICK)
    with pytest.raises(BudgetError, match="average budgets: got 0.5, expected at least"):
        explain_controller(made, table, replace(QUICK, average_budgets_ms=(0.5,)))
    for words in ({"samples": 1}, {"permutations": 0}, {"replicates": 10}, {"samples": True}):
        with pytest.raises(ControllerError, match=f"explain {next(iter(words))}: got"):
            ExplainOptions(**words)
