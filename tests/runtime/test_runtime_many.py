"""Decisions for many requests at once equal those for one at a time, for every backend and form of policy."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

import paceline.runtime.many as many
from controllers import context, controller, table
from paceline.errors import BudgetError, ControllerError
from paceline.policies.native_policy import compiled
from paceline.runtime.backends import with_backend
from paceline.runtime.many import ContextBatch
from paceline.workflows.exporting import ExportOptions, export_controller
from policy_forms import FORMS, form_context, form_controller

LIMITS = (
    {},
    {"budget_ms": 45.0},
    {"first_token_budget_ms": 35.0},
    {"budget_ms": 50.0, "first_token_budget_ms": 30.0},
)


NUMBERS = ("action", "feasible", "score", "predicted_ms", "upper_ms", "first_token_upper_ms")


def assert_same(batch, singly):
    assert [decision.configuration for decision in singly] == batch.configurations
    for name in NUMBERS:
        expected = [getattr(decision, name) for decision in singly]
        np.testing.assert_allclose(getattr(batch, name), expected, rtol=1e-5, atol=1e-6)
    assert batch.reason.tolist() == [decision.reason for decision in singly]


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_decides_as_its_requests_do(form, monkeypatch):
    monkeypatch.setattr(many, "CHUNK", 4)  # so that 7 requests are two parts
    owner = form_controller(form)
    contexts = [form_context(form, index) for index in range(7)]
    contexts = [
        dataclasses.replace(  # packed tokens of one room
            each,
            image_features=np.resize(each.image_features, contexts[0].image_features.shape),
        )
        for each in contexts
    ]
    for limits in LIMITS:
        for rule in ("cheapest", "best_effort"):
            options = {"elapsed_ms": 4.0, "slowdown": 1.1, "when_infeasible": rule}
            singly = [owner.decide(each, **limits, **options) for each in contexts]
            assert_same(owner.decide_batch(contexts, **limits, **options), singly)


@pytest.mark.parametrize("form", ["joint", "joint logits"])
def test_each_request_has_its_own_budget_price_and_delay(form):
    owner = form_controller(form)
    contexts = [form_context(form, index) for index in range(6)]
    budgets, waits = [30.0, None, 45.0, 60.0, 25.0, 1.0], [0.0, 1.0, 2.0, 5.0, 9.0, 3.0]
    singly = [
        owner.decide(each, budget_ms=budget, elapsed_ms=wait)
        for each, budget, wait in zip(contexts, budgets, waits, strict=True)
    ]
    assert_same(owner.decide_batch(ContextBatch.of(contexts), budget_ms=budgets, elapsed_ms=waits), singly)
    prices = [owner.prices.price(average / owner.scale) for average in (20.0, 25.0, 30.0, 35.0, 40.0, 60.0)]
    singly = [
        owner.decide(each, average=a) for each, a in zip(contexts, (20, 25, 30, 35, 40, 60), strict=True)
    ]
    np.testing.assert_allclose(prices, [each.price for each in singly])
    assert_same(owner.decide_batch(contexts, price=prices), singly)


@pytest.mark.skipif(compiled() is None, reason="installed without a C compiler")
@pytest.mark.parametrize("form", ["joint", "joint logits", "share"])
def test_compiled_code_decides_batches_as_numpy_does(form):
    owner = form_controller(form)
    ours = with_backend(owner, "native")
    for count in (1, 8, 13):
        contexts = [form_context(form, index) for index in range(count)]
        budgets = [None, 1.0, *np.linspace(20.0, 60.0, count)][:count]
        for limits in (*LIMITS, {"budget_ms": budgets}):
            price = {} if form == "share" else {"price": np.linspace(0.0, 0.4, count)}
            for rule in ("cheapest", "best_effort"):
                options = {**limits, **price, "elapsed_ms": 4.0, "slowdown": 1.1, "when_infeasible": rule}
                expected = owner.decide_batch(contexts, **options)
                found = ours.decide_batch(contexts, **options)
                assert found.configurations == expected.configurations
                assert found.reason.tolist() == expected.reason.tolist()
                for name in NUMBERS:
                    np.testing.assert_allclose(
                        getattr(found, name), getattr(expected, name), rtol=1e-5, atol=2e-5
                    )
                    assert getattr(found, name).dtype == getattr(expected, name).dtype


def test_every_backend_serves_batches(tmp_path):
    made = export_controller(
        controller(), table(), tmp_path, ExportOptions(requests=50, calibration_requests=50)
    ).controller
    contexts = [context(index) for index in range(20)]
    budgets = np.linspace(0.5, 60.0, 20)
    ours = made.decide_batch(contexts, budget_ms=budgets)
    assert set(ours.reason.tolist()) == {"policy", "cheapest"}
    for name, options in (("torch", {}), ("onnx", {"precision": "fp32"})):
        theirs = with_backend(made, name, **options).decide_batch(contexts, budget_ms=budgets)
        assert theirs.action.tolist() == ours.action.tolist()
        np.testing.assert_allclose(theirs.score, ours.score, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "error", "expected"),
    [
        ({"contexts": []}, ControllerError, "contexts: got none"),
        ({"budget_ms": [10.0, 20.0]}, BudgetError, r"budget_ms: got \(2,\) numbers for 3 requests"),
        ({"budget_ms": [10.0, 0.0, 5.0]}, BudgetError, r"budget_ms: got \[0.0\], expected numbers above 0"),
        ({"budget_ms": float("nan")}, BudgetError, r"budget_ms: got \[nan\], expected numbers above 0"),
        ({"budget_ms": "fast"}, BudgetError, "budget_ms: got 'fast', expected a number or one per request"),
        ({"price": -1.0}, BudgetError, r"price: got \[-1.0\], expected numbers from 0 on"),
        ({"elapsed_ms": np.inf}, BudgetError, r"elapsed_ms: got \[inf\]"),
        ({"slowdown": 0.0}, BudgetError, "slowdown: got 0.0, expected a finite number from 1e-06 on"),
        ({"slowdown": "x"}, BudgetError, "slowdown: got 'x'"),
        ({"slowdown": None}, BudgetError, "slowdown: got None"),
        ({"budget_ms": True}, BudgetError, "budget_ms: got True, expected a number or one per request"),
        ({"budget_ms": [10.0, True, 5.0]}, BudgetError, r"budget_ms: got \[10.0, True, 5.0\]"),
        ({"budget_ms": np.array([True, True, True])}, BudgetError, "budget_ms: got array"),
        ({"budget_ms": ["10", "20", "30"]}, BudgetError, "budget_ms: got .* expected a number"),
        ({"budget_ms": 10**400}, BudgetError, "budget_ms: got 1000"),
        ({"price": None}, BudgetError, "price: got None"),
        ({"price": np.array(0.1 + 0.2j)}, BudgetError, "price: got array"),
        ({"contexts": context(0)}, ControllerError, "contexts: got one Context, expected a list of Context"),
        ({"contexts": ["one", "two"]}, ControllerError, "contexts: got a str in the list"),
        ({"contexts": None}, ControllerError, "contexts: got one NoneType"),
        ({"when_infeasible": "reject"}, BudgetError, "when_infeasible: got 'reject', expected 'cheapest' or"),
        ({"when_infeasible": "wait"}, BudgetError, "when_infeasible: got 'wait'"),
    ],
)
def test_wrong_batches_are_refused(changes, error, expected):
    options = {"contexts": [context(index) for index in range(3)], **changes}
    with pytest.raises(error, match=expected):
        controller().decide_batch(options.pop("contexts"), **options)


def test_a_batch_of_none_is_refused():
    for backend in ("numpy", *(("native",) if compiled() else ())):
        none, owner = ContextBatch.of([context(0)]).rows(slice(0, 0)), with_backend(controller(), backend)
        with pytest.raises(ControllerError, match="contexts: got none"):
            owner.decide_batch(none)


def test_numbers_of_any_real_kind_are_read_as_one_decision_reads_them():
    plain = controller().decide(context(0), budget_ms=30.0, elapsed_ms=4.0, slowdown=1.5)
    for kind in (np.float32, np.float64, Fraction):
        same = {"budget_ms": kind(30), "elapsed_ms": kind(4), "slowdown": kind(1.5)}
        assert controller().decide(context(0), **same).action == plain.action
        assert controller().decide_batch([context(0)], **same).action.tolist() == [plain.action]
    budgets = np.array([30.0, None], dtype=object)
    both = controller().decide_batch([context(0), context(1)], budget_ms=budgets)
    assert both.action.tolist() == [
        controller().decide(context(0), budget_ms=30.0).action,
        controller().decide(context(1)).action,
    ]


def test_requests_of_different_sizes_are_refused():
    narrow = dataclasses.replace(context(1), tiles=context(1).tiles[:-1])
    with pytest.raises(ControllerError, match="contexts: tiles has shapes .* expected one size in a batch"):
        controller().decide_batch([context(0), narrow])
    short = dataclasses.replace(ContextBatch.of([context(0)]), tiles=context(0).tiles[None, :-1])
    with pytest.raises(ControllerError, match="contexts: tiles has shape .* a value per configuration"):
        controller().decide_batch(short)
    narrow = dataclasses.replace(ContextBatch.of([context(0)]), image_features=context(0).image_features)
    with pytest.raises(ControllerError, match=r"contexts: got \(3,\) image .* a row per request in both"):
        controller().decide_batch(narrow)
    holes = dataclasses.replace(ContextBatch.of([context(0)]), image_features=np.full((1, 3), np.nan))
    with pytest.raises(ControllerError, match="features: got NaN or infinity"):
        controller().decide_batch(holes)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"image_features": [0.0, 0.0, 0.0]}, "image_features: got list, expected a numpy array"),
        ({"tiles": None}, "tiles: got NoneType"),
        ({"question_features": np.zeros(5, dtype=complex)}, "features: got types float32 and complex128"),
        ({"image_features": np.full(3, 1e300)}, "NaN or infinity, or numbers beyond 3.4e.38"),
        ({"tiles": np.full(27, np.nan)}, "workload: got tiles with negative counts, NaN"),
        ({"vision_tokens": np.full(27, -1)}, "workload: got vision_tokens with negative counts"),
        ({"prompt_tokens": np.full(27, "7")}, "workload: got prompt_tokens of type <U1"),
    ],
)
@pytest.mark.parametrize("count", [1, 20])
def test_contexts_that_cannot_be_read(change, expected, count):
    wrong = dataclasses.replace(context(0), **change)
    with pytest.raises(ControllerError, match=expected):
        controller().decide_batch([wrong] * count, budget_ms=20.0)
    fields = {name: getattr(wrong, name) for name in many.FIELDS}
    stacked = {
        name: np.stack([each] * count) if isinstance(each, np.ndarray) else each
        for name, each in fields.items()
    }
    with pytest.raises(ControllerError, match=expected):
        controller().decide_batch(ContextBatch(**stacked), budget_ms=20.0)


def test_numbers_of_any_kind_are_budgets():
    contexts = [context(index) for index in range(3)]
    expected = controller().decide_batch(contexts, budget_ms=[10.0, 20.0, 30.0]).action.tolist()
    for given in ([10, 20, 30], np.array([10, 20, 30]), (np.float32(10), np.int64(20), Fraction(30))):
        assert controller().decide_batch(contexts, budget_ms=given).action.tolist() == expected


@pytest.mark.parametrize(
    "said",
    [
        "80%",
        "low",
        "0.03s",
        25.0,
        ["80%", None, "high", 20.0, "1s", np.float32(18.0)],
        [None] * 6,
        np.array(25.0),
    ],
)
def test_budgets_are_said_as_for_one_request(said):
    owner = controller()
    contexts = [context(index) for index in range(6)]
    each = said if isinstance(said, list) else [said] * 6
    singly = [
        owner.decide(one, budget=float(text) if isinstance(text, np.ndarray) else text)
        for one, text in zip(contexts, each, strict=True)
    ]
    assert_same(owner.decide_batch(contexts, budget=said), singly)
    endless = owner.decide_batch(contexts, budget=[25.0, np.inf, None, np.inf, None, 25.0])
    listed = owner.decide_batch(contexts, budget_ms=[25.0, np.inf, None, np.inf, None, 25.0])
    assert endless.action.tolist() == listed.action.tolist()


@pytest.mark.parametrize("average", [9.0, "0.009s", 1e9, 0.001])
def test_an_average_budget_has_the_price_that_one_request_is_asked(average):
    owner = controller()
    slower = owner.rescaled(
        latency=owner.latency.rescaled(np.array([3.0, 3.0]), np.array([2.0, 2.0])),
        first_token_latency=owner.first_token_latency,
        overview_ms=2.0,
    )
    assert slower.scale == pytest.approx(1.5)
    contexts = [context(index) for index in range(6)]
    for each in (owner, slower):
        together = each.decide_batch(contexts, average=average)
        assert_same(together, [each.decide(one, average=average) for one in contexts])
    assert set(together.reason.tolist()) == ({"cheapest"} if average == 0.001 else {"policy"})
    reads = form_controller("joint logits")
    contexts = [form_context("joint logits", index) for index in range(6)]
    together = reads.decide_batch(contexts, average=average)
    assert_same(together, [reads.decide(one, average=average) for one in contexts])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"budget": "soon"}, "got 'soon'"),
        ({"budget": ["80%", "60ms"]}, "budget: got 2 budgets for 3 requests"),
        ({"budget": 20.0, "budget_ms": 20.0}, "budget: got both"),
        ({"average": 9.0, "price": 0.1}, "price: got both"),
        ({"average": "80%"}, "average budget: got '80%'"),
    ],
)
def test_budgets_that_contradict_each_other(changes, expected):
    with pytest.raises(BudgetError, match=expected):
        controller().decide_batch([context(index) for index in range(3)], **changes)
