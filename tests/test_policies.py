"""The decision rule, the policy specification, and parity of the numpy policy with the trained network."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.budgets import encode_budget
from paceline.errors import ControllerError, TrainError
from paceline.knobs import Knob, KnobSpace
from paceline.policies.decision import choose, priced_logits
from paceline.policies.feature_scaling import FeatureScaling
from paceline.policies.heads import IndependentHead, make_head
from paceline.policies.network import PolicyNetwork, export_arrays
from paceline.policies.numpy_policy import NumpyPolicy
from paceline.policies.spec import HEADS, KNOBWISE_HEADS, PolicySpec

SPACE = KnobSpace((Knob(name="crops", options=(2, 4, 6)), Knob(name="top_k", options=(4, 8))))


PLAIN = FeatureScaling(method="standard", first=np.zeros(7, np.float32), second=np.ones(7, np.float32))


def make_spec(**changes: object) -> PolicySpec:
    values: dict = {
        "head": "joint",
        "members": 3,
        "image_width": 4,
        "question_width": 3,
        "hidden": 8,
        "budget_low_ms": 10.0,
        "budget_high_ms": 50.0,
        "full_latency_ms": 50.0,
        "actions": (0, 1, 3, 5),
    }
    return PolicySpec(**(values | changes))


def make_network(spec: PolicySpec, seed: int = 0) -> PolicyNetwork:
    return PolicyNetwork(spec, SPACE, dropout=0.1, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("head", [head for head in HEADS if head not in KNOBWISE_HEADS])
@pytest.mark.parametrize("widths", [(4, 3), (0, 3), (4, 0)])
def test_numpy_policy_equals_the_network(head, widths):
    spec = make_spec(head=head, image_width=widths[0], question_width=widths[1])
    network = make_network(spec)
    rng = np.random.default_rng(0)
    features = rng.normal(2.0, 3.0, (20, spec.feature_width)).astype(np.float32)
    features[0] = 1e6  # clipped, not run away
    mean, scale = features[1:].mean(axis=0), 1 / features[1:].std(axis=0)
    scaling = FeatureScaling(method="standard", first=mean, second=scale.astype(np.float32))
    policy = NumpyPolicy(spec, export_arrays(network, scaling))
    budgets = np.append(rng.uniform(5, 80, 19), np.inf)
    codes = torch.from_numpy(encode_budget(budgets, low_ms=10.0, high_ms=50.0))
    with torch.no_grad():
        rows = torch.from_numpy(scaling.apply(features)).expand(3, -1, -1)
        expected = network.mean_scores(network(rows, codes.expand(3, -1, -1))).numpy()
    image, question = features[:, : widths[0]], features[:, widths[0] :]
    got = policy.scores(image, question, budgets)
    np.testing.assert_allclose(got * spec.temperature, expected * spec.temperature, atol=1e-6)
    assert np.ptp(expected, axis=1).min() > 0.01  # the comparison is of something that varies
    one = policy.scores(image[19], question[19])
    np.testing.assert_allclose(one, got[19], rtol=1e-5)
    assert one.shape == (4,)


def test_scores_lie_on_the_accuracy_scale():
    spec = make_spec(temperature=0.1)
    network = make_network(spec)
    policy = NumpyPolicy(spec, export_arrays(network, PLAIN))
    scores = policy.scores(np.zeros((2, 4)), np.zeros((2, 3)), 20.0)
    assert ((scores > 0) & (scores < 1 / 0.1)).all()


def test_members_are_independent():
    spec = make_spec(members=2)
    network = make_network(spec)
    features, codes = torch.randn(2, 5, 7), torch.randn(2, 5, 32)
    before = network(features, codes)
    with torch.no_grad():
        network.fusion.weight[1] += 1.0
    after = network(features, codes)
    torch.testing.assert_close(before[0], after[0])
    assert (before[1] != after[1]).any()


def test_dropout_masks_keep_the_mean_and_drop_the_share():
    spec = make_spec(members=1, hidden=64)
    network = PolicyNetwork(spec, SPACE, dropout=0.25, generator=torch.Generator().manual_seed(0))
    first, second = network.draw_masks(200, torch.Generator().manual_seed(1))
    assert first.shape == (1, 200, 128)
    assert second.shape == (1, 200, 64)
    assert first.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (first == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)


def test_independent_head_sums_option_logits():
    actions = np.array([0, 3, 5])
    head = make_head(
        "independent", members=1, hidden=2, space=SPACE, actions=actions, generator=torch.Generator()
    )
    assert isinstance(head, IndependentHead)
    with torch.no_grad():
        head.options.weight.zero_()
        head.options.bias.copy_(torch.tensor([1.0, 2.0, 4.0, 10.0, 20.0]))  # three crops options, two top_k
    # action 0 = (0, 0), 3 = (1, 1), 5 = (2, 1)
    assert head(torch.zeros(1, 1, 2)).flatten().tolist() == [11.0, 22.0, 24.0]


def test_unknown_head_is_named():
    with pytest.raises(TrainError, match="head: got 'tree'"):
        make_head(
            "tree", members=1, hidden=2, space=SPACE, actions=np.array([0]), generator=torch.Generator()
        )


def test_price_and_temperature_enter_the_logits():
    logits = priced_logits(
        np.array([[10.0, 12.0], [10.0, 12.0]]),
        np.array([[10.0, 30.0], [10.0, 20.0]]),
        np.array([0.0, 0.4]),
        full_latency_ms=40.0,
        temperature=0.05,
    )
    np.testing.assert_allclose(logits, [[10.0, 12.0], [10.0 - 2.0, 12.0 - 4.0]])


def test_choose_takes_the_best_feasible_then_the_cheaper():
    logits = np.array([[1.0, 2.0, 3.0], [2.0, 2.0, 1.0], [5.0, 1.0, 1.0]])
    latency = np.array([[1.0, 2.0, 3.0], [9.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    feasible = np.array([[True, True, False], [True, True, True], [False, False, False]])
    assert choose(logits, latency, feasible).tolist() == [1, 1, -1]


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(0, 2**32 - 1))
def test_choice_is_feasible_and_a_larger_feasible_set_never_lowers_the_logit(seed):
    rng = np.random.default_rng(seed)
    logits, latency = rng.normal(size=(2, 5, 6))
    small = rng.random((5, 6)) < 0.5
    large = small | (rng.random((5, 6)) < 0.5)
    rows = np.arange(5)
    first, second = choose(logits, latency, small), choose(logits, latency, large)
    assert ((first == -1) == ~small.any(axis=1)).all()
    chosen = first >= 0
    assert small[rows, first][chosen].all()
    assert (logits[rows, second] >= logits[rows, first])[chosen].all()


def test_spec_round_trips_through_json():
    spec = make_spec()
    assert PolicySpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "tree"}, "policy head: got 'tree'"),
        ({"members": 0}, "policy members: got 0"),
        ({"actions": (1, 1)}, "an action id repeats"),
        ({"budget_low_ms": 60.0}, "expected 0 < low < high"),
        ({"budget_dimensions": 3}, "budget_dimensions: got 3, expected 1 or an even number"),
        ({"budget_dimensions": 33}, "budget_dimensions: got 33, expected 1 or an even number"),
        ({"temperature": 0.0}, "policy temperature: got 0.0"),
        ({"full_latency_ms": float("nan")}, "policy full_latency_ms: got nan"),
    ],
)
def test_spec_refuses_what_cannot_be(changes, message):
    with pytest.raises(ControllerError, match=message):
        make_spec(**changes)


def test_spec_refuses_unknown_and_missing_keys():
    value = make_spec().to_json()
    with pytest.raises(ControllerError, match="expected exactly the keys"):
        PolicySpec.from_json(value | {"surprise": 1})
    del value["hidden"]
    with pytest.raises(ControllerError, match="expected exactly the keys"):
        PolicySpec.from_json(value)


def broken_arrays(name: str, how: str) -> dict[str, np.ndarray]:
    spec = make_spec()
    arrays = dict(export_arrays(make_network(spec), PLAIN))
    if how == "missing":
        del arrays[name]
    elif how == "shape":
        arrays[name] = arrays[name][:1]
    elif how == "dtype":
        arrays[name] = arrays[name].astype(np.float64)
    else:
        arrays[name] = np.full_like(arrays[name], np.nan)
    return arrays


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "policy arrays: got"),
        ("shape", "policy array fusion.weight: got float32"),
        ("dtype", "policy array fusion.weight: got float64"),
        ("nan", "policy array fusion.weight: holds NaN"),
    ],
)
def test_damaged_arrays_are_refused(how, message):
    with pytest.raises(ControllerError, match=message):
        NumpyPolicy(make_spec(), broken_arrays("fusion.weight", how))


def test_wrong_features_are_refused():
    spec = make_spec()
    policy = NumpyPolicy(spec, export_arrays(make_network(spec), PLAIN))
    with pytest.raises(ControllerError, match=r"got \(5, 3\) image and question features, expected \(4, 3\)"):
        policy.scores(np.zeros(5), np.zeros(3))
    with pytest.raises(ControllerError, match="features: got NaN or infinity"):
        policy.scores(np.full(4, np.nan), np.zeros(3))


def test_spec_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError, match="hidden"):
        make_spec().hidden = 3  # type: ignore[misc]


def test_decision_path_needs_no_torch():
    code = (
        "import sys, paceline.policies.numpy_policy, paceline.policies.decision\n"
        "heavy = {'torch', 'pandas', 'polars', 'pyarrow', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
