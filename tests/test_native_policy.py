"""Compiled decisions: the function of the numpy policy for every form, its choice, what it refuses, what it leaves."""

import math
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.errors import BudgetError, ControllerError, DependencyError
from paceline.policies.decision import choose, choose_one
from paceline.policies.feature_scaling import FeatureScaling
from paceline.policies.inputs import InputSpec
from paceline.policies.native_policy import NativePolicy, compiled
from paceline.policies.numpy_policy import NumpyPolicy
from paceline.policies.spec import PolicySpec
from policy_forms import FORMS, TOKENS, form_arrays, form_features, form_spec

SERVED = [form for form in FORMS if NativePolicy.serves(form_spec(form))]
BUDGETS = (None, math.inf, 1e-9, 5e-324, -3.0, 0.0, 9.0, 10.0, 33.3, 60.0, 1e9)
PRICES = (0.0, 1e-6, 0.05, 0.3, 40.0)

pytestmark = pytest.mark.skipif(compiled() is None, reason="installed without a C compiler")


def both(
    spec: PolicySpec, arrays: dict[str, np.ndarray], lanes: int = 16
) -> tuple[NumpyPolicy, NativePolicy]:
    ours = NumpyPolicy(spec, arrays)
    return ours, NativePolicy(ours, lanes)


def sized_spec(
    members: int, image: int, question: int, hidden: int, actions: int, scaling: str
) -> PolicySpec:
    return replace(
        form_spec("joint"),
        members=members,
        image_width=image,
        question_width=question,
        hidden=hidden,
        actions=tuple(range(actions)),
        inputs=InputSpec(feature_scaling=scaling),
    )


def random_arrays(spec: PolicySpec, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights of the size that training gives, so that sums of any length stay near 1."""
    arrays = {}
    for name, shape in spec.array_shapes().items():
        width = math.sqrt(shape[1]) if name.endswith("weight") else 1.0
        arrays[name] = (rng.normal(size=shape) / width).astype(np.float32)
    scaling = FeatureScaling.fit(rng.normal(size=(300, spec.feature_width)), spec.inputs.feature_scaling)
    return arrays | scaling.to_arrays()


def test_the_served_forms_are_those_with_pooled_features_and_a_linear_head():
    assert set(FORMS) - set(SERVED) == {"autoregressive", "continuous", *TOKENS}


@pytest.mark.parametrize("form", SERVED)
def test_every_served_form_says_what_numpy_says(form):
    spec = form_spec(form)
    ours, theirs = both(spec, form_arrays(spec))
    for image, question in zip(*form_features(form, 20), strict=True):
        for budget in BUDGETS:
            for price in PRICES if spec.output == "logits" else (0.0,):
                expected = spec.temperature * ours.scores(image, question, budget, price)
                np.testing.assert_allclose(theirs.values(image, question, budget, price), expected, atol=2e-5)


@pytest.mark.parametrize("count", [0, 1, 9])
@pytest.mark.parametrize("form", ["joint", "joint logits"])
def test_batches_of_any_size_are_scored_as_numpy_scores_them(form, count):
    spec = form_spec(form)
    ours, theirs = both(spec, form_arrays(spec))
    image, question = form_features(form, count)
    many, price = np.linspace(5.0, 80.0, count), 0.2 * (spec.output == "logits")
    for budgets in (None, 20.0, many):
        found, expected = (each.scores(image, question, budgets, price) for each in (theirs, ours))
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    if count:
        np.testing.assert_allclose(
            theirs.scores(image[0], question[0], 20.0, price),
            ours.scores(image, question, 20.0, price)[0],
            atol=1e-4,
        )


@settings(max_examples=60, deadline=None)
@given(
    members=st.integers(1, 4),
    image=st.integers(0, 70),
    question=st.integers(1, 40),
    hidden=st.integers(1, 90),
    actions=st.integers(1, 130),
    scaling=st.sampled_from(["standard", "quantile"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_networks_of_any_size_say_what_numpy_says(members, image, question, hidden, actions, scaling, seed):
    rng = np.random.default_rng(seed)
    spec = sized_spec(members, image, question, hidden, actions, scaling)
    ours, theirs = both(spec, random_arrays(spec, rng))
    for scale in (1.0, 1000.0):  # far outside, features are clipped
        features = (scale * rng.normal(size=image + question)).astype(np.float32)
        parts = features[:image].copy(), features[image:].copy()
        expected = spec.temperature * ours.scores(*parts, 25.0)
        np.testing.assert_allclose(theirs.values(*parts, 25.0, 0.0), expected, atol=2e-5)


@settings(max_examples=60, deadline=None)
@given(
    lanes=st.sampled_from([4, 8, 16]),
    count=st.sampled_from([1, 2, 3, 4, 5, 8, 11, 12, 16, 29, 95, 96, 97, 150, 192]),
    members=st.integers(1, 4),
    image=st.integers(0, 70),
    question=st.integers(1, 40),
    hidden=st.integers(1, 90),
    actions=st.integers(1, 130),
    scaling=st.sampled_from(["standard", "quantile"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_many_requests_are_scored_as_numpy_scores_them(
    lanes, count, members, image, question, hidden, actions, scaling, seed
):
    rng = np.random.default_rng(seed)
    spec = sized_spec(members, image, question, hidden, actions, scaling)
    ours, theirs = both(spec, random_arrays(spec, rng), lanes)
    features = rng.normal(size=(count, image + question)).astype(np.float32)
    features[::3] *= 1000.0  # far outside, features are clipped
    parts = features[:, :image].copy(), features[:, image:].copy()
    budgets = rng.choice([math.inf, 1e-9, -3.0, 0.0, 9.0, 33.3, 60.0, 1e9], count)
    expected = spec.temperature * ours.scores(*parts, budgets)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NumpyPolicy, "scores", None)  # which compiled code does not ask
        found = spec.temperature * theirs.scores(*parts, budgets)
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("form", SERVED)
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_many_requests_of_every_served_form(form, lanes):
    spec = form_spec(form)
    ours, theirs = both(spec, form_arrays(spec), lanes)
    features = form_features(form, 40)
    budgets = np.resize(np.array([np.inf if b is None else b for b in BUDGETS]), 40)
    prices = np.resize(np.array(PRICES), 40) if spec.output == "logits" else 0.0
    np.testing.assert_allclose(
        spec.temperature * theirs.scores(*features, budgets, prices),
        spec.temperature * ours.scores(*features, budgets, prices),
        atol=2e-5,
    )


def test_values_on_the_edge_of_a_knot_are_ranked_as_numpy_ranks_them():
    spec = form_spec("quantile")
    arrays = form_arrays(spec)
    ours, theirs = both(spec, arrays)
    for row in arrays["feature_knots"]:
        parts = row[: spec.image_width].copy(), row[spec.image_width :].copy()
        expected = spec.temperature * ours.scores(*parts, 25.0)
        np.testing.assert_allclose(theirs.values(*parts, 25.0, 0.0), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["float64", "strided", "huge"])
def test_features_of_another_kind_are_converted(kind):
    spec = form_spec("joint")
    ours, theirs = both(spec, form_arrays(spec))
    image, question = (part[0] for part in form_features("joint", 1))
    expected = ours.values(image, question, 30.0, 0.0)
    match kind:
        case "float64":
            image = image.astype(np.float64)
        case "strided":
            image = np.repeat(image, 2)[::2]
        case "huge":
            image = np.full_like(image, 1e30)
            expected = ours.values(image, question, 30.0, 0.0)
    np.testing.assert_allclose(theirs.values(image, question, 30.0, 0.0), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "expected"),
    [
        ({"image_features": np.full(3, np.nan, np.float32)}, ControllerError, "NaN or infinity"),
        ({"question_features": np.full(2, np.inf, np.float32)}, ControllerError, "NaN or infinity"),
        ({"image_features": np.zeros(4, np.float32)}, ControllerError, r"got \(4, 2\) image and question"),
        ({"budget_ms": math.nan}, BudgetError, "budget: got NaN"),
        ({"price": -0.1}, ControllerError, "price: got -0.1"),
        ({"price": math.nan}, ControllerError, "price: got nan"),
    ],
)
def test_bad_input_gets_the_message_of_numpy(change, error, expected):
    spec = form_spec("joint logits")
    _, theirs = both(spec, form_arrays(spec))
    request = {
        "image_features": np.zeros(3, np.float32),
        "question_features": np.zeros(2, np.float32),
        "budget_ms": 30.0,
        "price": 0.1,
    }
    with pytest.raises(error, match=expected):
        theirs.values(**(request | change))


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from([-math.inf, -1.0, 0.0, 0.5]), st.sampled_from([1.0, 2.0]), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
def test_the_choice_is_that_of_numpy(rows):
    spec = form_spec("joint")
    _, theirs = both(spec, form_arrays(spec))
    logits, mean_ms, feasible = (np.array(column) for column in zip(*rows, strict=True))
    expected = choose_one(logits.astype(np.float32), mean_ms, feasible)
    assert theirs.choose(logits.astype(np.float32), mean_ms, feasible) == expected
    assert theirs.choose(logits, mean_ms, feasible) == expected  # float64, which numpy chooses from
    assert theirs.choose(logits.astype(np.float32), np.broadcast_to(1.0, len(rows)), feasible) == choose_one(
        logits, np.ones(len(rows)), feasible
    )


@settings(max_examples=200, deadline=None)
@given(
    rows=st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.lists(
                st.tuples(
                    st.sampled_from([-math.inf, -1.0, 0.0, 0.5]),
                    st.sampled_from([1.0, 2.0]),
                    st.booleans(),
                ),
                min_size=width,
                max_size=width,
            ),
            min_size=1,
            max_size=6,
        )
    )
)
def test_the_choices_of_many_are_those_of_numpy(rows):
    spec = form_spec("joint")
    _, theirs = both(spec, form_arrays(spec))
    logits, mean_ms, feasible = (
        np.array([[cell[part] for cell in row] for row in rows]) for part in range(3)
    )
    expected = choose(logits, mean_ms, feasible)
    for given_logits in (logits, logits.astype(np.float32), np.asfortranarray(logits)):
        found = theirs.choose_rows(given_logits, mean_ms, feasible)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    whole = theirs.choose_rows(logits, mean_ms.astype(np.int64), feasible)  # of another kind: numpy's
    np.testing.assert_array_equal(whole, expected)


@pytest.mark.parametrize("kind", ["float64", "strided", "columns"])
def test_many_features_of_another_kind_are_converted(kind):
    spec = form_spec("joint")
    ours, theirs = both(spec, form_arrays(spec))
    image, question = form_features("joint", 7)
    expected = ours.scores(image, question, 30.0)
    match kind:
        case "float64":
            image = image.astype(np.float64)
        case "strided":
            image = np.repeat(image, 2, axis=0)[::2]
        case "columns":
            image = np.asfortranarray(image)
    np.testing.assert_allclose(theirs.scores(image, question, 30.0), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "error", "expected"),
    [
        ({"image_features": np.full((3, 3), np.nan, np.float32)}, ControllerError, "NaN or infinity"),
        ({"question_features": np.full((3, 2), np.inf, np.float32)}, ControllerError, "NaN or infinity"),
        (
            {"image_features": np.zeros((3, 4), np.float32)},
            ControllerError,
            r"got \(4, 2\) image and question",
        ),
        ({"budget_ms": np.array([1.0, math.nan, 2.0])}, BudgetError, "budget: got NaN"),
        ({"price": np.array([0.0, 0.1, -0.1])}, ControllerError, "price: got"),
    ],
)
def test_bad_input_among_many_gets_the_message_of_numpy(change, error, expected):
    spec = form_spec("joint logits")
    _, theirs = both(spec, form_arrays(spec))
    requests = {
        "image_features": np.zeros((3, 3), np.float32),
        "question_features": np.zeros((3, 2), np.float32),
        "budget_ms": 30.0,
        "price": 0.1,
    }
    with pytest.raises(error, match=expected):
        theirs.scores(**(requests | change))


def test_threads_share_a_policy_and_score_many_at_once():
    spec = form_spec("joint logits")
    _, theirs = both(spec, form_arrays(spec))
    image, question = form_features("joint logits", 300)
    parts = [slice(start, start + 50) for start in range(0, 300, 50)]

    def scores(part: slice) -> np.ndarray:
        return theirs.scores(image[part], question[part], 20.0, 0.2)

    alone = [scores(part) for part in parts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(scores, parts * 20))
    np.testing.assert_array_equal(together, alone * 20)


def test_threads_share_a_policy():
    spec = form_spec("joint logits")
    _, theirs = both(spec, form_arrays(spec))
    requests = list(zip(*form_features("joint logits", 300), strict=True))

    def values(request: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        image, question = request
        return theirs.values(image, question, 20.0, 0.2)

    alone = [values(request) for request in requests]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(values, requests * 5))
    np.testing.assert_array_equal(together, alone * 5)


def test_a_policy_that_it_does_not_serve_is_refused():
    spec = form_spec("continuous")
    with pytest.raises(ControllerError, match="backend 'native': got a policy with head 'continuous'"):
        NativePolicy(NumpyPolicy(spec, form_arrays(spec)))


def test_without_the_compiled_part_it_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "paceline.policies._native", None)
    spec = form_spec("joint")
    with pytest.raises(DependencyError, match="install the package again where there is a C compiler"):
        NativePolicy(NumpyPolicy(spec, form_arrays(spec)))


def test_a_compiled_part_that_cannot_be_loaded_is_said(monkeypatch, caplog):
    def broken(name):
        raise ImportError("undefined symbol")

    monkeypatch.setattr("paceline.policies.native_policy.import_module", broken)
    assert compiled() is None
    assert "cannot be loaded (undefined symbol)" in caplog.text


@pytest.mark.parametrize("wrong", ["short", "sizes", "odd", "count"])
def test_the_extension_itself_refuses_arrays_that_do_not_fit(wrong, monkeypatch):
    native: Any = compiled()
    seen: dict[str, Any] = {}

    def network(**options):
        seen.update(options)
        return native.Network(**options)

    recorder = SimpleNamespace(Network=network, best=native.best, best_of_rows=native.best_of_rows)
    monkeypatch.setattr("paceline.policies.native_policy.compiled", lambda: recorder)
    spec = form_spec("joint")
    NativePolicy(NumpyPolicy(spec, form_arrays(spec)))
    match wrong:
        case "short":
            seen["arrays"] = (*seen["arrays"][:4], seen["arrays"][4][:-1].copy(), *seen["arrays"][5:])
            expected, error = r"array 4: got \d+ bytes, expected \d+", ValueError
        case "sizes":
            seen["sizes"] = (*seen["sizes"][:3], 0, *seen["sizes"][4:])
            expected, error = "sizes: expected positive numbers", ValueError
        case "odd":
            seen["sizes"] = (*seen["sizes"][:2], 3, *seen["sizes"][3:])
            expected, error = "sizes: .* one dimension or an even number of them", ValueError
        case "count":
            seen["arrays"] = seen["arrays"][:-1]
            expected, error = "argument 4", TypeError
    with pytest.raises(error, match=expected):
        native.Network(**seen)
