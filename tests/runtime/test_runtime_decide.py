"""One decision: the guard's arithmetic, the rule of choice, what happens when nothing fits, explanations."""

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers import FakeClock, context, controller, fake_training, rows_to_serve, table
from fakes import FAKE_SPACE, OVERVIEW_MS
from paceline.budgets import parse_budget
from paceline.errors import BudgetError, ControllerError, InfeasibleBudgetError, TrainError
from paceline.knobs import Knob, KnobSpace
from paceline.policies.native_policy import compiled
from paceline.policies.numpy_policy import NumpyPolicy
from paceline.runtime.average import AverageBudget
from paceline.runtime.backends import with_backend
from paceline.runtime.controller import Controller
from paceline.runtime.decision import RejectedError
from paceline.runtime.hard_budgets import KEPT_TEXTS

LONG = 1e6
BACKENDS = ["numpy", "torch", *(["native"] if compiled() else [])]


class RecordingPolicy(NumpyPolicy):
    """Scores its first action best, the next second best and so on; remembers the budgets it was told."""

    def __init__(self, policy, scores=None):
        super().__init__(policy.spec, policy.arrays)
        self.fixed = -np.arange(len(policy.spec.actions), dtype=np.float32) if scores is None else scores
        self.told = []

    def values(self, image_features, question_features, budget_ms, price):
        self.told.append(budget_ms)
        return np.float32(self.spec.temperature) * self.fixed


def with_scores(scores: np.ndarray | None = None) -> Any:
    return dataclasses.replace(controller(), policy=RecordingPolicy(controller().policy, scores))


def uppers(request=None):
    request = request or context()
    work = (request.tiles, request.vision_tokens, request.prompt_tokens)
    return controller().latency.upper(controller().actions, *work)


def means(request=None):
    request = request or context()
    work = (request.tiles, request.vision_tokens, request.prompt_tokens)
    return controller().latency.mean(controller().actions, *work)


def test_without_a_budget_the_best_score_wins():
    made = with_scores(np.arange(27, dtype=np.float32)[::-1].copy()).decide(context())
    assert (made.action, made.reason, made.feasible, made.tested) == (0, "policy", 27, 27)
    assert made.configuration == {"max_crops": 2, "top_k": 4, "num_active_blocks": 8}
    assert made.price == 0.0
    assert made.budget_ms is None


def test_ties_go_to_the_cheaper():
    tied = np.zeros(27, dtype=np.float32)
    made = with_scores(tied).decide(context(), budget_ms=LONG)
    assert made.action == int(np.argmin(means()))
    tied[[20, 13]] = 1.0
    assert with_scores(tied).decide(context()).action == min((20, 13), key=lambda a: means()[a])


def test_the_guard_compares_upper_latency_with_the_budget():
    upper = uppers()
    edge = float(np.sort(upper)[10])
    made = controller().decide(context(), budget_ms=edge)
    assert made.feasible == 11
    assert made.upper_ms <= edge
    assert controller().decide(context(), budget_ms=edge - 1e-6).feasible == 10
    assert made.predicted_ms == pytest.approx(means()[made.action])


@settings(deadline=None)
@given(budgets=st.tuples(st.floats(0.5, 60), st.floats(0.5, 60)), index=st.integers(0, 150))
def test_the_feasible_set_grows_with_the_budget(budgets, index):
    low, high = (controller().decide(context(index), budget_ms=budget) for budget in sorted(budgets))
    assert np.all(low.candidates.feasible <= high.candidates.feasible)
    for made in (low, high):
        assert made.action in controller().actions
        assert made.reason == ("policy" if made.feasible else "cheapest")
        assert made.feasible == 0 or made.upper_ms <= (made.budget_ms or 0)
        assert controller().space.action(made.configuration) == made.action


def test_elapsed_time_counts_beyond_the_expected_overview():
    assert controller().guard.overview_ms == 1.0
    edge = float(np.sort(uppers())[10])
    decide = controller().decide
    for elapsed in (0.0, 0.4, 1.0):  # the overview was expected, and a fast one earns nothing
        made = decide(context(), budget_ms=edge, elapsed_ms=elapsed)
        assert (made.feasible, made.unexpected_ms) == (11, 0.0)
    late = decide(context(), budget_ms=edge + 3.0 + 1e-9, elapsed_ms=4.0)
    assert (late.feasible, late.unexpected_ms) == (11, 3.0)
    assert decide(context(), budget_ms=edge + 3.0, elapsed_ms=4.01).feasible == 10
    # a slow machine's overview is expected to be slow too
    slow = decide(context(), budget_ms=2.0 * edge + 2.0 + 1e-9, elapsed_ms=4.0, slowdown=2.0)
    assert (slow.feasible, slow.unexpected_ms) == (11, 2.0)


def test_slowdown_multiplies_predictions():
    edge = float(np.sort(uppers())[10])
    made = controller().decide(context(), budget_ms=edge, slowdown=1.5)
    assert made.feasible == int(np.sum(1.5 * uppers() <= edge))
    assert made.predicted_ms == pytest.approx(1.5 * means()[made.action])


def test_first_token_budget():
    request = context()
    work = (request.tiles, request.vision_tokens, request.prompt_tokens)
    first = controller().first_token_latency.upper(controller().actions, *work)
    edge = float(np.sort(first)[8])
    made = controller().decide(request, first_token_budget_ms=edge)
    assert 9 <= made.feasible == int(np.sum(first <= edge)) < 27
    assert made.first_token_upper_ms <= edge
    assert (
        controller().decide(request, first_token_budget_ms=edge + 2 + 1e-9, elapsed_ms=3.0).feasible
        == made.feasible
    )
    both = controller().decide(request, first_token_budget_ms=edge, budget_ms=float(np.sort(uppers())[3]))
    assert both.feasible == int(np.sum((first <= edge) & (uppers() <= (both.budget_ms or 0))))


def test_the_policy_is_told_the_remaining_budget_of_the_profiled_machine():
    made = with_scores()
    made.decide(context())
    made.decide(context(), budget_ms=20.0, elapsed_ms=5.0, slowdown=2.0)  # 3 ms more than 2 x 1 ms
    edge = float(np.sort(uppers())[12])
    made.decide(context(), first_token_budget_ms=LONG)
    twice = made.rescaled(
        latency=made.latency.rescaled(np.array([2.0]), np.array([1.0])),
        first_token_latency=made.first_token_latency,
        overview_ms=2.0,
    )
    twice.decide(context(), budget_ms=2 * edge)
    assert made.policy.told == [None, (20.0 - 3.0) / 2.0, pytest.approx(uppers().max()), pytest.approx(edge)]


def test_shares_and_classes_are_of_this_requests_full_configuration():
    full = float(means()[-1])
    assert controller().decide(context(), budget="80%").budget_ms == pytest.approx(0.8 * full)
    assert controller().decide(context(), budget="80%", slowdown=3.0).budget_ms == pytest.approx(0.8 * full)
    named = [controller().decide(context(), budget=name).budget_ms or 0 for name in ("low", "medium", "high")]
    shares = controller().guard.classes
    assert named == pytest.approx([shares[name] * full for name in ("low", "medium", "high")])
    assert named == sorted(named)
    assert 0 < shares["low"] < shares["high"] < 1
    assert controller().decide(context(), budget="0.012s").budget_ms == 12.0
    wide = max(range(100), key=lambda i: rows_to_serve().tiles[i, -1])
    narrow = min(range(100), key=lambda i: rows_to_serve().tiles[i, -1])
    more, less = (controller().decide(context(i), budget="80%").budget_ms or 0 for i in (wide, narrow))
    assert more > less


def test_what_a_text_means_is_kept_and_a_share_is_of_each_request():
    chooser = dataclasses.replace(controller())
    rows = rows_to_serve().tiles[:100, -1]
    wide, narrow = int(rows.argmax()), int(rows.argmin())
    texts = ["80%", "low", "0.05s", " 80 % ", *(f"{share}%" for share in range(1, 300))]
    for text in (*texts, *texts):
        for place in (wide, narrow):
            seen = context(place)
            full = chooser.times(seen).full_ms
            classes = {name: share * full for name, share in chooser.guard.classes.items()}
            expected = parse_budget(text, full_ms=full, classes=classes)
            assert chooser.decide(seen, budget=text).budget_ms == pytest.approx(expected)
    assert len(chooser.budgets._texts) == KEPT_TEXTS
    assert not dataclasses.replace(chooser).budgets._texts
    for _ in range(2):
        with pytest.raises(BudgetError, match="got 'soon'"):
            chooser.decide(context(), budget="soon")


def test_average_budgets_charge_for_time():
    rows = rows_to_serve()
    work = (rows.tiles, rows.vision_tokens, rows.prompt_tokens)
    mean = controller().latency.mean(controller().actions, *work)
    spent = []
    for average in (5.0, 7.0, 9.0):
        made = [controller().decide(context(i), average=average) for i in range(200)]
        assert made[0].price == pytest.approx(controller().prices.price(average))
        spent.append(np.mean([decision.predicted_ms for decision in made]))
        assert spent[-1] == pytest.approx(average, rel=0.1)  # fitted on validation, judged on test
    assert spent == sorted(spent)
    best = np.argmax([d.candidates.values for d in made], axis=1)
    assert [d.action for d in made] == best.tolist()
    seen = made[0].candidates
    share = mean[0] / controller().policy.spec.full_latency_ms
    np.testing.assert_allclose(seen.values, seen.scores - made[0].price * share, atol=1e-5)


def test_a_machine_twice_as_slow_with_twice_the_budget_chooses_the_same():
    twice = controller().rescaled(
        latency=controller().latency.rescaled(np.array([2.0]), np.array([1.0])),
        first_token_latency=controller().first_token_latency.rescaled(np.array([2.0]), np.array([1.0])),
        overview_ms=2.0,
    )
    for index in range(60):
        ours, theirs = (c.decide(context(index), average=b) for c, b in ((controller(), 6.0), (twice, 12.0)))
        assert (ours.action, ours.price) == (theirs.action, pytest.approx(theirs.price))
        np.testing.assert_allclose(ours.candidates.values, theirs.candidates.values, atol=1e-5)
    assert twice.lowest_average_ms == pytest.approx(2 * controller().lowest_average_ms)


def test_a_hard_limit_and_an_average_together():
    edge = float(np.sort(uppers())[10])
    made = controller().decide(context(), budget_ms=edge, average=AverageBudget(6.0))
    assert made.feasible == 11
    assert made.upper_ms <= edge
    assert made.price > 0
    assert (made.budget_ms, made.average_budget_ms) == (edge, 6.0)


@pytest.mark.parametrize(
    "budgets",
    [
        {"budget_ms": 0.5},
        {"first_token_budget_ms": 0.5},
        {"average": 0.5},
        {"budget_ms": 9.0, "elapsed_ms": 50.0},
    ],
)
def test_when_nothing_fits_the_caller_decides(budgets):
    cheapest = controller().decide(context(), **budgets)
    assert (cheapest.reason, cheapest.feasible) == ("cheapest", 0)
    assert cheapest.action == int(np.argmin(means()))
    effort = controller().decide(context(), when_infeasible="best_effort", **budgets)
    assert (effort.reason, effort.feasible) == ("best_effort", 0)
    assert effort.action == int(np.argmin(effort.candidates.upper_ms))
    with pytest.raises(InfeasibleBudgetError, match="none of 27 configurations fits") as caught:
        controller().decide(context(), when_infeasible="reject", **budgets)
    assert isinstance(caught.value, RejectedError)
    assert caught.value.decision.reason == "rejected"
    assert "rejected: none of 27" in caught.value.decision.explain()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget_ms": 0}, "budget_ms: got 0 ms, expected a positive"),
        ({"budget_ms": -3.0}, "got -3 ms"),
        ({"budget_ms": math.nan}, "got nan ms"),
        ({"budget_ms": math.inf}, "got inf ms"),
        ({"budget_ms": True}, "got True"),
        ({"first_token_budget_ms": 0.0}, "first_token_budget_ms: got 0 ms"),
        ({"budget": "fast"}, "'fast'.*'low', 'medium', 'high'"),
        ({"budget": "0%"}, "got '0%', expected a positive, finite share"),
        ({"budget": "80%", "budget_ms": 50.0}, "got both"),
        ({"average": -1.0}, "average_budget_ms: got -1 ms"),
        ({"elapsed_ms": -1.0}, "elapsed_ms: got -1.0"),
        ({"elapsed_ms": math.nan}, "elapsed_ms: got nan"),
        ({"slowdown": 0.0}, "slowdown: got 0.0"),
        ({"budget_ms": 10**400}, "budget_ms: got a number beyond the largest float"),
        ({"elapsed_ms": 10**400}, "elapsed_ms: got 1000"),
        ({"when_infeasible": "panic"}, "when_infeasible: got 'panic', expected one of"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(BudgetError, match=message):
        controller().decide(context(), **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_features": np.zeros(4, np.float32)}, r"image_features: got shape \(4,\), expected \(3,\)"),
        ({"question_features": np.zeros((1, 5), np.float32)}, r"question_features: got shape \(1, 5\)"),
        ({"image_features": np.array([0, np.nan, 0], np.float32)}, "NaN or infinity"),
        ({"question_features": np.full(5, np.inf, np.float32)}, "NaN or infinity"),
        ({"tiles": np.ones(3, np.int64)}, r"tiles \(3,\)"),
        ({"tiles": np.full(27, -1)}, "negative counts"),
        ({"image_features": [0.0, 0.0, 0.0]}, "image_features: got list, expected a numpy array"),
        ({"question_features": None}, "question_features: got NoneType, expected a numpy array"),
        ({"image_features": "abc"}, "image_features: got str"),
        (
            {"image_features": np.array(["a", "b", "c"])},
            "features: got types <U1 and float32, expected float32",
        ),
        ({"image_features": np.zeros(3, dtype=complex)}, "features: got types complex128 and float32"),
        ({"question_features": np.zeros(5, dtype=object)}, "features: got types float32 and object"),
        ({"image_features": np.full(3, 1e300)}, "NaN or infinity, or numbers beyond 3.4e.38"),
        ({"image_features": np.full(3, np.nan)}, "NaN or infinity"),
        ({"tiles": [1] * 27}, "tiles: got list, expected a numpy array"),
        ({"prompt_tokens": None}, "prompt_tokens: got NoneType"),
        ({"vision_tokens": np.full(27, "7")}, "workload: got vision_tokens of type <U1"),
        ({"tiles": np.full(27, np.nan)}, "workload: got tiles with negative counts, NaN"),
        ({"tiles": np.full(27, np.inf)}, "workload: got tiles with .* infinity"),
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_context_that_cannot_be_read(change, message, backend):
    with pytest.raises(ControllerError, match=message):
        with_backend(controller(), backend).decide(dataclasses.replace(context(), **change), budget_ms=20.0)


def test_what_a_decision_hands_out_cannot_be_changed_for_the_next():
    owner = controller()
    made = owner.decide(context(), budget_ms=20.0)
    for name in ("mean_ms", "upper_ms", "first_upper_ms"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(made.candidates, name)[:] = 0.0
    assert owner.decide(context(), budget_ms=0.5).reason == "cheapest"


@pytest.mark.parametrize("given", [None, "a question", {"tiles": 3}])
def test_what_is_no_context_is_refused(given):
    with pytest.raises(ControllerError, match=f"context: got {type(given).__name__}, expected a Context"):
        controller().decide(given, budget_ms=20.0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["float64", "float16", "int64", ">f4", "bool"])
def test_features_of_any_real_kind_are_read_as_float32(kind, backend):
    request = dataclasses.replace(context(), image_features=np.array([1, 0, 1], dtype=kind))
    plain = dataclasses.replace(context(), image_features=np.array([1, 0, 1], dtype=np.float32))
    made, expected = (with_backend(controller(), backend).decide(each) for each in (request, plain))
    assert made.action == expected.action
    assert made.score == pytest.approx(expected.score, abs=1e-6)


def test_explain_names_the_choice_and_why_losers_lost():
    edge = float(np.sort(uppers())[10])
    made = controller().decide(context(), budget_ms=edge + 2.0 + 1e-9, elapsed_ms=3.0)
    text = made.explain(top=27)
    lines = text.splitlines()
    assert lines[0] == (
        f"max_crops={made.configuration['max_crops']} top_k={made.configuration['top_k']} "
        f"num_active_blocks={made.configuration['num_active_blocks']}: the best of 11 configurations that fit, "
        "out of 27"
    )
    assert f"budget {edge + 2.0:.1f} ms; 3.0 ms spent, 2.0 ms of it beyond the overview's" in text
    assert sum("over the budget" in line for line in lines) == 16
    assert sum(line.endswith("chosen") for line in lines) == 1
    assert sum("lower" in line or "as good" in line for line in lines[2:]) == 10
    slowest = uppers().argmax()
    over = uppers()[slowest] - edge
    assert f"{uppers()[slowest]:6.1f} ms  {over:.1f} ms over the budget" in text
    assert sum(line.startswith("  max_crops=") for line in made.explain(top=3).splitlines()) in (4, 5)
    assert "and 23 configurations" in made.explain(top=3) or "and 22 configurations" in made.explain(top=3)


def test_explain_of_prices_and_slow_machines():
    made = with_scores(np.linspace(0, 8, 27, dtype=np.float32)).decide(context(), average=6.0, slowdown=1.25)
    text = made.explain(top=27)
    assert "average budget 6.0 ms" in text
    assert "1.25 x the calibrated time" in text
    assert "its time costs" in text
    assert "no budget: every configuration fits" in with_scores().decide(context()).explain()


def test_a_decision_is_json_without_its_losers():
    import json

    value = json.loads(json.dumps(controller().decide(context(), budget_ms=20.0).to_json()))
    assert value["reason"] == "policy"
    assert value["budget_ms"] == 20.0
    assert "candidates" not in value


def test_decision_time_is_measured():
    clock = FakeClock()

    class SlowPolicy(RecordingPolicy):
        def values(self, *arguments):
            clock.pass_ms(0.25)
            return super().values(*arguments)

    slow = dataclasses.replace(controller(), policy=SlowPolicy(controller().policy), clock=clock)
    assert slow.decide(context()).decision_ms == pytest.approx(0.25)


def test_many_threads_decide_as_one():
    shared = dataclasses.replace(controller())  # an empty cache
    arguments = [(index % 150, budget) for index in range(300) for budget in (6.0, 12.0)]

    def decide(argument):
        return shared.decide(context(argument[0]), budget_ms=argument[1]).action

    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(decide, arguments))
    assert together == [controller().decide(context(i), budget_ms=b).action for i, b in arguments]


def test_building_takes_the_overviews_time_from_the_profile_or_the_caller():
    latency, first = controller().latency, controller().first_token_latency
    trained = fake_training(table(), latency)
    made = Controller.from_training(trained, table(), latency, first, overview_ms=2.5, provenance={"seed": 3})
    assert (made.guard.overview_ms, controller().guard.overview_ms) == (2.5, OVERVIEW_MS)
    assert made.guard.max_new_tokens == 4
    assert made.guard.output_tokens == 2.0
    assert (made.provenance["seed"], made.provenance["training"]) == (3, {"algorithm": "ridge"})
    assert made.block_ranking == tuple(range(16))
    other = dataclasses.replace(trained, spec=dataclasses.replace(trained.spec, actions=tuple(range(1, 28))))
    with pytest.raises(TrainError, match="build the controller from the table it was trained on"):
        Controller.from_training(other, table(), latency, first)


def test_kept_predictions_are_bounded(monkeypatch):
    monkeypatch.setattr("paceline.runtime.controller.KEPT_WORKLOADS", 3)
    fresh = dataclasses.replace(controller())
    for index in range(40):
        assert fresh.decide(context(index)).action == controller().decide(context(index)).action
    assert len(fresh._kept) == 3


def test_choosing_beats_any_one_configuration():
    rows = rows_to_serve()
    average = 6.0
    made = [controller().decide(context(i), average=average) for i in range(200)]
    accuracy = np.mean([rows.accuracy[i, d.action] for i, d in enumerate(made)])
    affordable = np.nanmean(rows.latency_ms, axis=0) <= average
    assert accuracy > rows.accuracy[:, affordable].mean(axis=0).max() + 0.05


@pytest.mark.parametrize(
    ("name", "options", "fits"),
    [
        ("top_k", (4, 16, 32), True),
        ("top_k", (4, 8, 16, 32), True),
        ("top_k", (4, 16), False),
        ("experts", (4, 16, 32), False),
    ],
)
def test_a_model_needs_every_knob_and_option(name, options, fits):
    knobs = [Knob(name=name, options=options) if knob.name == "top_k" else knob for knob in FAKE_SPACE.knobs]
    if fits:
        controller().check_space(KnobSpace(tuple(knobs)), "the model")
    else:
        with pytest.raises(ControllerError, match="trained for the knobs"):
            controller().check_space(KnobSpace(tuple(knobs)), "the model")


def test_a_model_may_have_no_further_knob():
    knobs = (*FAKE_SPACE.knobs, Knob(name="resolution", options=(1, 2)))
    with pytest.raises(ControllerError, match="trained for the knobs"):
        controller().check_space(KnobSpace(knobs), "the model")
