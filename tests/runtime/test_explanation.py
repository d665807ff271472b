"""Why a configuration was chosen: other budgets, shares of image, question and budget, text and JSON."""

import dataclasses
import json
import math
from itertools import product

import numpy as np
import pytest

from controllers import context, controller
from paceline.errors import ControllerError
from paceline.latency.estimate import LatencyEstimator
from paceline.policies.inputs import InputSpec
from paceline.policies.numpy_policy import NumpyPolicy
from paceline.policies.token_pooling import pack_tokens
from paceline.runtime import attribution
from paceline.runtime.attribution import Attribution
from paceline.runtime.average import AverageBudget
from paceline.runtime.controller import Controller
from paceline.runtime.decision import Decision, RejectedError
from paceline.runtime.explanation import Explanation
from paceline.runtime.replay import Replay
from paceline.runtime.verdicts import verdict

METHODS = list(attribution.STEPS)
SPEC = controller().policy.spec
LOGITS = {"output": "logits", "temperature": 1.0, "price_low": 0.1, "price_high": 2.0}
ESTIMATE = "space actions rows law product_order upper_ratio floor_ms scale margin".split()
REQUESTS = [
    {"budget_ms": 9.0},
    {"budget_ms": 9.0, "elapsed_ms": 3.0, "slowdown": 1.3},
    {"budget": "60%"},
    {"first_token_budget_ms": 7.0},
    {"budget_ms": 11.0, "first_token_budget_ms": 7.0, "elapsed_ms": 1.7},
    {"average": 6.0},
    {"budget_ms": 9.0, "average": 6.0},
    {},
]


def random_policy(seed: int = 0, **changes) -> Controller:
    """Random weights: every input matters, budget and price among them."""
    spec = dataclasses.replace(SPEC, **changes)
    rng = np.random.default_rng(seed)
    arrays = {
        name: (rng.normal(size=shape) / np.sqrt(shape[-2] if len(shape) > 1 else 1)).astype(np.float32)
        for name, shape in spec.array_shapes().items()
    }
    if "feature_mean" in arrays:
        arrays["feature_mean"] = arrays["feature_mean"] * 0.1
        arrays["feature_scale"] = np.full_like(arrays["feature_scale"], 3.0)
    else:
        arrays = {name: np.sort(a, axis=0) if name.startswith("feature") else a for name, a in arrays.items()}
    return dataclasses.replace(controller(), policy=NumpyPolicy(spec, arrays))


READING = {
    "accuracy": random_policy(),
    "quantile": random_policy(1, inputs=InputSpec(feature_scaling="quantile")),
    "share": random_policy(2, inputs=InputSpec(budget_form="share")),
    "class": random_policy(3, inputs=InputSpec(budget_form="class", class_shares=(0.3, 0.5, 0.8))),
    "logits": random_policy(4, **LOGITS),
}


def planted(part: str) -> Controller:
    """A policy that prefers the first configuration to all others by what it reads of one part alone."""
    arrays = {name: np.zeros(shape, np.float32) for name, shape in SPEC.array_shapes().items()}
    arrays["feature_scale"] += 1.0
    first = {"image": 0, "question": SPEC.image_width, "budget": SPEC.feature_width + 16}[part]
    arrays["input.weight"][0, first, 0] = 1.0
    arrays["input.weight"][0, first, 1] = -1.0
    arrays["fusion.weight"][0, :2, 0] = 1.0  # |what was read|
    arrays["head.weight"][0, 0, 0] = 2.0
    return dataclasses.replace(controller(), policy=NumpyPolicy(SPEC, arrays))


def seen(image: float = 0.7, question: float = 0.7):
    return dataclasses.replace(
        context(),
        image_features=np.full(SPEC.image_width, image, np.float32),
        question_features=np.full(SPEC.columns[1] or 0, question, np.float32),
    )


def shares_of(decision: Decision, method: str) -> Attribution:
    shares = decision.explanation(method=method).shares
    assert shares is not None
    return shares


def contributions(decision: Decision, method: str) -> dict[str, float]:
    return {item.part: item.value for item in shares_of(decision, method).contributions}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("part", attribution.PARTS)
def test_both_methods_find_the_only_part_that_matters(part, method):
    budgets = {"budget_ms": 1e5} if part == "budget" else {}  # long: nothing is excluded, only read
    spec = dataclasses.replace(SPEC, budget_high_ms=1e6)
    made = planted(part)
    if part == "budget":
        made = dataclasses.replace(made, policy=NumpyPolicy(spec, made.policy.arrays))
    shares = shares_of(made.decide(seen(), **budgets), method)
    assert {item.part: item.share for item in shares.contributions} == {
        name: pytest.approx(float(name == part), abs=1e-3) for name in attribution.PARTS
    }
    assert abs(shares.shown - shares.hidden) > 0.05


@pytest.mark.parametrize("method", METHODS)
def test_what_the_budget_excludes_is_the_budgets_share(method):
    plain = planted("image")
    arrays = plain.policy.arrays | {"input.weight": np.zeros_like(plain.policy.arrays["input.weight"])}
    arrays["head.bias"] = np.linspace(-2, 2, 27, dtype=np.float32)[None, None]
    made = dataclasses.replace(plain, policy=NumpyPolicy(SPEC, arrays)).decide(seen(), budget_ms=9.0)
    assert 1 < made.feasible < 27
    shares = shares_of(made, method)
    scores = np.exp(made.candidates.scores / SPEC.temperature - 20)
    gain = math.log(scores.sum() / scores[made.candidates.feasible].sum())
    assert [item.value for item in shares.contributions] == pytest.approx([0, 0, gain], abs=1e-3)
    assert [item.share for item in shares.contributions] == pytest.approx([0, 0, 1], abs=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_what_the_price_does_is_the_budgets_share(method):
    arrays = {name: np.zeros_like(array) for name, array in planted("image").policy.arrays.items()}
    made = dataclasses.replace(controller(), policy=NumpyPolicy(SPEC, arrays)).decide(context(), average=6.0)
    assert made.price > 0
    shares = shares_of(made, method)
    assert shares.hidden == pytest.approx(-math.log(27), abs=1e-5)  # all are alike where time is free
    assert shares.shown > shares.hidden + 0.1
    assert [item.share for item in shares.contributions] == pytest.approx([0, 0, 1], abs=1e-3)


@pytest.mark.parametrize("kind", ["accuracy", "share", "class", "logits"])
@pytest.mark.parametrize("request_", REQUESTS, ids=str)
def test_what_is_hidden_is_the_training_mean_without_a_budget(kind, request_):
    made = READING[kind]
    mean, width = made.policy.arrays["feature_mean"], made.policy.spec.image_width
    plain = dataclasses.replace(context(), image_features=mean[:width], question_features=mean[width:])
    decision = made.decide(context(), **request_)
    logits = made.decide(plain).candidates.values / made.policy.spec.temperature
    expected = logits[decision.candidates.chosen] - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    for method in METHODS:
        assert shares_of(decision, method).hidden == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", READING)
@pytest.mark.parametrize("request_", REQUESTS, ids=str)
def test_contributions_sum_to_the_whole_change(kind, request_, method):
    for index in range(3):
        shares = shares_of(READING[kind].decide(context(index), **request_), method)
        values = [item.value for item in shares.contributions]
        assert sum(values) == pytest.approx(shares.shown - shares.hidden, abs=1e-9)
        assert sum(item.share or 0.0 for item in shares.contributions) == pytest.approx(1.0)
        assert (request_ != {}) or values[2] == pytest.approx(0.0, abs=1e-3)


def two_way(image: float, question: float) -> Controller:
    """Logits: u + v for the first configuration, u = image, v = question; 0 for the second, never any other."""
    spec = dataclasses.replace(SPEC, **LOGITS)
    arrays = {name: np.zeros(shape, np.float32) for name, shape in spec.array_shapes().items()}
    arrays["feature_scale"] += 1.0
    arrays["input.weight"][0, 0, 0], arrays["input.weight"][0, SPEC.image_width, 0] = image, question
    arrays["input.bias"][0, 0, 0] = 10.0  # stays above the kink
    arrays["fusion.weight"][0, 0, 0] = 1.0
    arrays["head.weight"][0, 0, 0] = 1.0
    arrays["head.bias"][0, 0, 0], arrays["head.bias"][0, 0, 2:] = -10.0, -1e4
    return dataclasses.replace(controller(), policy=NumpyPolicy(spec, arrays))


def test_shares_by_hand():
    made = two_way(3.0, -1.0).decide(seen(1.0, 1.0))

    def f(u, v):
        return -math.log(1 + math.exp(-(u + v)))

    both = f(3, -1) - f(0, 0)
    image = 0.5 * (f(3, 0) - f(0, 0) + f(3, -1) - f(0, -1))
    by_hand = {"image": image, "question": both - image, "budget": 0.0}
    assert made.action == 0
    assert contributions(made, "occlusion") == pytest.approx(by_hand, abs=1e-5)
    along = {
        "image": 1.5 * both,
        "question": -0.5 * both,
        "budget": 0.0,
    }  # the gradient is in proportion 3 to -1
    assert contributions(made, "integrated_gradients") == pytest.approx(along, abs=1e-3)
    shares = shares_of(made, "integrated_gradients")
    assert [item.share for item in shares.contributions] == pytest.approx([0.75, 0.25, 0.0], abs=1e-3)


def test_shapley_values_of_a_game():
    rng = np.random.default_rng(0)
    games = rng.normal(size=(5, 8))
    values = attribution.shapley(games)
    np.testing.assert_allclose(values.sum(axis=1), games[:, 7] - games[:, 0])
    alone = np.array([[float(image) for image, _, _ in product((0, 1), repeat=3)]])
    assert attribution.shapley(alone).tolist() == [[1.0, 0.0, 0.0]]


def test_where_nothing_moves_the_choice_that_is_said():
    still = two_way(0.0, 0.0).decide(seen())
    explained = still.explanation()
    assert shares_of(still, "occlusion").nothing
    assert "none of image, question and budget moves it" in explained.to_text()
    assert json.loads(json.dumps(explained.to_json()))["shares"]["contributions"][0]["share"] is None


def test_tokens_that_a_query_pools():
    widths = {"image_width": 3, "question_width": 5}
    made = random_policy(5, inputs=InputSpec(image_features="attention"), **widths)
    rng = np.random.default_rng(0)
    tokens = pack_tokens(rng.normal(size=(1, 4, 3)), np.array([3]))[0]
    decision = made.decide(dataclasses.replace(context(), image_features=tokens), budget_ms=9.0)
    replay = Replay(decision, decision.asked)
    logits, _ = replay.weigh(replay.variants(2))
    np.testing.assert_allclose(SPEC.temperature * logits[1], decision.candidates.values, atol=1e-6)
    for method in METHODS:
        shares = shares_of(decision, method)
        total = sum(item.value for item in shares.contributions)
        assert total == pytest.approx(shares.shown - shares.hidden, abs=1e-9)
        assert (shares.contributions[0].share or 0.0) > 0.01


@pytest.mark.parametrize("kind", READING)
@pytest.mark.parametrize("request_", REQUESTS, ids=str)
def test_a_replay_is_the_decision(kind, request_):
    made = READING[kind].decide(context(1), **request_)
    replay = Replay(made, made.asked)
    logits, feasible = replay.weigh(replay.variants(3))
    temperature = READING[kind].policy.spec.temperature
    np.testing.assert_allclose(temperature * logits[2], made.candidates.values, atol=1e-6)
    np.testing.assert_array_equal(feasible[0], made.candidates.feasible)
    assert replay.choices(replay.variants(1)).tolist() == [made.candidates.chosen]
    score = replay.score(replay.variants(1), np.array([made.candidates.chosen]))
    assert score[0] == pytest.approx(made.score, abs=1e-6)


def asked_with(request: dict, kind: str, budget: float) -> dict:
    """The same request with another budget of a kind."""
    name = {"average_budget": "average", "budget": "budget_ms"}.get(kind, "first_token_budget_ms")
    rest = {key: value for key, value in request.items() if not (key == "budget" and kind == "budget")}
    return rest | {name: budget}


@pytest.mark.parametrize("kind", READING)
@pytest.mark.parametrize("request_", REQUESTS, ids=str)
def test_other_budgets_choose_what_is_said(kind, request_):
    made = READING[kind]
    for index in range(4):
        decision = made.decide(context(index), **request_)
        now = (decision.action, decision.reason)

        def choice(item, budget, index=index):
            again = made.decide(context(index), **asked_with(request_, item.kind, budget))
            return (again.action, again.reason)

        explained = decision.explanation()
        asked = [decision.budget_ms, decision.first_token_budget_ms, decision.average_budget_ms]
        assert len(explained.budgets) == max(1, 2 * sum(item is not None for item in asked))
        for item in explained.budgets:
            start = getattr(decision, f"{item.kind}_ms") or 1e4
            if item.budget_ms is None:
                far = np.geomspace(start, start * 50, 12) if item.direction == "larger" else [start / 2]
                if not item.changes and item.direction == "larger":
                    assert {choice(item, budget) for budget in far} == {now}
                continue
            larger = item.direction == "larger"
            beyond = item.budget_ms * (1 + 2e-6) if larger else item.budget_ms * (1 - 2e-6)
            if item.fits:
                expected = made.space.action(item.configuration)
                assert choice(item, beyond) == (expected, "policy")
                again = made.decide(context(index), **asked_with(request_, item.kind, beyond))
                assert (again.score, again.predicted_ms) == pytest.approx(
                    (item.score, item.predicted_ms), abs=1e-4
                )
            else:
                assert choice(item, beyond)[1] == "cheapest"
            inside = item.budget_ms * (1 - 2e-6) if larger else item.budget_ms * (1 + 2e-6)
            between = [] if larger == (inside < start) and inside == start else [inside]
            between += np.geomspace(start, inside, 9)[1:-1].tolist()
            assert {choice(item, budget) for budget in between if (budget >= start) == larger} <= {now}


def test_the_feasible_set_changes_exactly_at_the_budget_that_is_named():
    upper = np.sort(controller().decide(context()).candidates.upper_ms)
    decision = controller().decide(context(), budget_ms=float(upper[0]))
    larger, smaller = decision.explanation().budgets
    assert larger.budget_ms is not None
    assert larger.budget_ms in upper
    assert (smaller.budget_ms, smaller.fits) == (upper[0], False)
    text = decision.explain()
    assert f"budget below {math.floor(upper[0] * 10) / 10:.1f} ms: nothing fits" in text
    assert f"budget from {math.ceil(larger.budget_ms * 10 - 1e-3) / 10:.1f} ms on: max_crops=" in text


def test_delays_move_the_budgets_at_which_the_choice_changes():
    delayed = {"elapsed_ms": 4.3, "slowdown": 1.1}
    for index in range(10):
        decision = controller().decide(context(index), budget_ms=12.0, **delayed)
        larger, smaller = decision.explanation().budgets
        edges = decision.candidates.upper_ms + decision.unexpected_ms
        for item in (larger, smaller):
            if item.budget_ms is not None:
                assert np.abs(edges - item.budget_ms).min() < 1e-12  # an edge itself, no bisected neighbour
        if larger.budget_ms is not None:
            there, before = (
                controller().decide(context(index), budget_ms=float(budget), **delayed).configuration
                for budget in (larger.budget_ms, np.nextafter(larger.budget_ms, 0))
            )
            assert (there, before) == (larger.configuration, decision.configuration)


def test_a_policy_may_change_its_mind_where_the_same_configurations_fit():
    """The first configuration scores 2 |cos(pi p / 2)| at the position p of a long budget, the second always 1."""
    arrays = {name: array.copy() for name, array in planted("budget").policy.arrays.items()}
    arrays["head.bias"][0, 0, 1] = 1.0
    spec = dataclasses.replace(SPEC, budget_low_ms=10.0, budget_high_ms=1e6)
    made = dataclasses.replace(controller(), policy=NumpyPolicy(spec, arrays))
    decision = made.decide(context(), budget_ms=10.0 * 1e5**0.5)
    assert (decision.action, decision.feasible) == (0, 27)
    larger, _ = decision.explanation().budgets
    assert larger.budget_ms == pytest.approx(10.0 * 1e5 ** (2 / 3), rel=1e-4)
    assert made.space.action(larger.configuration) == 1


def test_without_a_budget_only_smaller_ones_are_asked():
    decision = controller().decide(context())
    (only,) = decision.explanation().budgets
    assert (only.kind, only.direction) == ("budget", "smaller")
    assert only.budget_ms == pytest.approx(decision.upper_ms)


def test_what_nothing_fits_for_has_a_larger_budget_and_no_shares():
    for budgets in ({"budget_ms": 0.5}, {"average": 0.5}):
        decision = controller().decide(context(), **budgets)
        larger, smaller = decision.explanation().budgets
        assert larger.fits
        assert (larger.budget_ms or 0.0) > 0.5
        assert not smaller.changes
        text = decision.explain()
        assert "share in the choice: none of image and question, as nothing fits" in text
        with pytest.raises(RejectedError, match="fits") as caught:
            controller().decide(context(), when_infeasible="reject", **budgets)
        assert "changes the choice" in caught.value.decision.explain()


def test_a_steered_stream_says_what_it_asks_now():
    stream = AverageBudget(6.0)
    for _ in range(3):
        stream.reserve(9.0)
        stream.record(predicted_ms=9.0, measured_ms=9.0)
    decision = controller().decide(context(), average=stream)
    assert decision.price > controller().prices.price(6.0)
    text = decision.explain()
    assert "the average budget is steered" in text
    assert "steered" not in controller().decide(context(), average=6.0).explain()


def test_text_and_json_say_the_same():
    decision = controller().decide(context(), budget_ms=9.0)
    explained = decision.explanation(top=3)
    assert isinstance(explained, Explanation)
    value = json.loads(json.dumps(explained.to_json(), allow_nan=False))
    assert decision.explain(top=3) == explained.to_text()
    assert 3 <= len(value["configurations"]) <= 5
    assert value["others"] + len(value["configurations"]) == 27
    (chosen,) = [row for row in value["configurations"] if row["chosen"]]
    assert chosen["configuration"] == dict(decision.configuration)
    assert (chosen["accuracy"], chosen["upper_ms"]) == (chosen["score"], decision.upper_ms)
    assert value["violation_rate"] == 0.05
    assert "score: predicted accuracy; upper: exceeded by 5 % of requests at most" in explained.to_text()
    assert any(row["feasible"] and not row["chosen"] for row in value["configurations"])
    logits = READING["logits"].decide(context())
    assert "this policy predicts no accuracy" in logits.explain()
    assert logits.explanation().configurations[0].accuracy is None


def test_a_promise_without_enough_samples_is_said():
    latency = controller().latency
    facts = latency.facts | {"promise_holds": False}
    unsure = LatencyEstimator(**{name: getattr(latency, name) for name in ESTIMATE}, facts=facts)
    made = dataclasses.replace(controller(), latency=unsure).decide(context())
    assert "upper: too few samples were timed to promise this" in made.explain()
    assert "too few samples" not in controller().decide(context()).explain()


def test_what_is_a_little_worse_and_cheaper_is_not_called_as_good():
    made = controller().decide(context())
    seen = made.candidates
    other = (seen.chosen + 1) % len(seen.values)
    seen.values = seen.values.copy()
    seen.mean_ms = seen.mean_ms.copy()
    seen.values[other] = seen.values[seen.chosen] - 1e-4
    for mean_ms, expected in ((0.9, "value less than 0.001 lower"), (1.0, "as good, not cheaper")):
        seen.mean_ms[other] = mean_ms * seen.mean_ms[seen.chosen]
        assert verdict(made, other) == expected


def test_a_first_token_that_nobody_measured_is_said():
    stands_in = dataclasses.replace(controller(), first_token_latency=controller().latency)
    limits = {"first_token_budget_ms": 9.0}
    told = "no first token was measured: the time of the whole call stands in"
    assert told in stands_in.decide(context(), **limits).explain()
    assert told not in stands_in.decide(context(), budget_ms=9.0).explain()
    assert told not in controller().decide(context(), **limits).explain()


def test_nothing_is_computed_before_it_is_asked_for(monkeypatch):
    def never(*_):
        raise AssertionError

    request = context()
    with monkeypatch.context() as patch:
        patch.setattr(Replay, "__init__", never)
        decision = controller().decide(request, budget_ms=9.0)
        assert "asked" not in decision.to_json()
        assert "asked" not in repr(decision)
    assert decision.asked.context is request
    assert decision.explain()


def test_changed_features_are_noticed():
    request = seen(1.0, 0.0)
    decision = two_way(3.0, -1.0).decide(request)
    request.image_features[:] = -1.0
    text = decision.explain()
    assert "no other budgets and no shares: asked again in float32 the policy chooses" in text
    assert "share in the choice" not in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"method": "lime"}, r"method: got 'lime', expected one of \['occlusion', 'integrated_gradients'\]"),
        ({"top": 0}, "got top=0, expected how many configurations"),
        ({"top": True}, "got top=True"),
    ],
)
def test_bad_arguments(words, said):
    with pytest.raises(ControllerError, match=said):
        controller().decide(context()).explain(**words)
