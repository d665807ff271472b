"""Heads that decide knob by knob: their probabilities, their rounding, parity with numpy, and that they learn."""

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from command_line import message, run
from fakes import fake_table
from paceline.errors import ControllerError, TrainError
from paceline.evaluation.times import fit_latency
from paceline.knobs import Knob, KnobSpace
from paceline.latency.estimate import LatencyEstimator
from paceline.learning.options import ALGORITHMS, OUTPUT, TrainOptions
from paceline.learning.train import train_controller_policy
from paceline.learning.trained import TrainedPolicy
from paceline.outcomes.store import write_table
from paceline.outcomes.table import OutcomeTable
from paceline.outcomes.workloads import over_actions
from paceline.policies.autoregressive_head import AutoregressiveHead
from paceline.policies.context_code import encode_context
from paceline.policies.continuous_head import ContinuousHead
from paceline.policies.decision import choose
from paceline.policies.feature_scaling import FeatureScaling
from paceline.policies.heads import IndependentHead, make_head
from paceline.policies.knob_features import configuration_positions
from paceline.policies.network import PolicyNetwork, export_arrays
from paceline.policies.numpy_policy import NumpyPolicy
from paceline.policies.prefix_tree import PrefixTree
from paceline.policies.spec import HEADS, KNOBWISE_HEADS, PolicySpec
from paceline.runtime.controller import Controller
from paceline.workflows.deciding import recorded_context
from quick_options import QUICK_REFERENCE

SPACE = KnobSpace((Knob(name="crops", options=(2, 4, 12)), Knob(name="top_k", options=(4, 8))))
TESTED = (0, 1, 3, 5)
PLAIN = FeatureScaling(method="standard", first=np.zeros(5, np.float32), second=np.ones(5, np.float32))


def make_spec(head: str, actions: tuple[int, ...] = TESTED, **changes: object) -> PolicySpec:
    values: dict = {
        "head": head,
        "members": 2,
        "image_width": 3,
        "question_width": 2,
        "hidden": 6,
        "budget_low_ms": 10.0,
        "budget_high_ms": 50.0,
        "full_latency_ms": 50.0,
        "actions": actions,
        "temperature": 1.0,
        "output": "logits",
        "price_low": 0.1,
        "price_high": 1.0,
        "knob_options": SPACE.shape if head in KNOBWISE_HEADS else None,
    }
    return PolicySpec(**(values | changes))


def head_of(name: str, actions: np.ndarray, members: int = 1, space: KnobSpace = SPACE):
    generator = torch.Generator().manual_seed(0)
    return make_head(name, members=members, hidden=4, space=space, actions=actions, generator=generator)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("actions", [TESTED, tuple(range(6))])
def test_numpy_policy_equals_the_network(head, actions):
    spec = make_spec(head, actions)
    network = PolicyNetwork(spec, SPACE, dropout=0.0, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in network.head.parameters():
            parameter.mul_(3.0)  # away from what it starts as
    rng = np.random.default_rng(0)
    features = rng.normal(size=(9, 5)).astype(np.float32)
    shift, factor = np.full(5, 0.1, np.float32), np.full(5, 1.5, np.float32)
    scaling = FeatureScaling(method="standard", first=shift, second=factor)
    budgets, prices = np.append(rng.uniform(5, 80, 8), np.inf), rng.uniform(0, 1.5, 9)
    policy = NumpyPolicy(spec, export_arrays(network, scaling))
    with torch.no_grad():
        rows = torch.from_numpy(scaling.apply(features)).expand(2, -1, -1)
        codes = torch.from_numpy(encode_context(spec, budgets, prices)).expand(2, -1, -1)
        expected = network.mean_scores(network(rows, codes)).numpy()
    got = policy.scores(features[:, :3], features[:, 3:], budgets, prices)
    np.testing.assert_allclose(got, expected, atol=2e-5)
    assert got.dtype == np.float32
    assert np.ptp(expected, axis=1).min() > 0.01
    one = policy.scores(features[8, :3], features[8, 3:], None, float(prices[8]))
    np.testing.assert_allclose(one, got[8], atol=2e-5)


def test_conditional_probabilities_by_hand():
    tree = PrefixTree.of((2, 3), np.array([0, 2, 4]))  # (0, 0), (0, 2), (1, 1)
    assert tree.paths.tolist() == [[0, 0, 1], [2, 3, 4]]
    logits = np.log([1.0, 3.0, 1.0, 4.0, 7.0])  # first knob 1 : 3; after 0, 1 : 4; after 1 there is no choice
    got = np.exp(tree.log_probabilities(np.stack([logits, np.zeros(5)])))
    np.testing.assert_allclose(got, [[0.25 * 0.2, 0.25 * 0.8, 0.75], [0.25, 0.25, 0.5]])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_probabilities_sum_to_one_over_the_tested_configurations(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 5, rng.integers(1, 4)).tolist())
    size = int(np.prod(shape))
    actions = np.sort(rng.permutation(size)[: rng.integers(1, size + 1)])
    tree = PrefixTree.of(shape, actions)
    logits = rng.normal(0, 300, (3, len(tree.groups)))  # large: nothing may overflow
    log_probability = tree.log_probabilities(logits)
    np.testing.assert_allclose(np.exp(log_probability).sum(axis=-1), 1.0, rtol=1e-9)
    space = KnobSpace(tuple(Knob(name=str(i), options=tuple(range(n))) for i, n in enumerate(shape)))
    head = head_of("autoregressive", actions, space=space)
    assert isinstance(head, AutoregressiveHead)
    hidden = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(seed % 1000)) * 100
    with torch.no_grad():
        expected = tree.log_probabilities(head.nodes(hidden).double().numpy())
        np.testing.assert_allclose(head(hidden).numpy(), expected, rtol=1e-4, atol=1e-3)


def test_without_memory_the_autoregressive_head_is_the_independent_one():
    everything = np.arange(6)
    autoregressive, independent = head_of("autoregressive", everything), head_of("independent", everything)
    assert isinstance(autoregressive, AutoregressiveHead)
    assert isinstance(independent, IndependentHead)
    with torch.no_grad():
        own = autoregressive.nodes
        for source, target in (
            (independent.options.weight, own.weight),
            (independent.options.bias, own.bias),
        ):
            target.copy_(torch.cat([source[..., :3], *[source[..., 3:]] * 3], dim=-1))
        hidden = torch.randn(1, 5, 4)
        expected = torch.log_softmax(independent(hidden), dim=-1)
        torch.testing.assert_close(autoregressive(hidden), expected)


def test_autoregressive_gradients_are_those_of_the_conditionals():
    head = head_of("autoregressive", np.array([0, 1, 5]))
    assert isinstance(head, AutoregressiveHead)
    head(torch.zeros(1, 1, 4))[0, 0, 0].backward()
    bias = head.nodes.bias.detach()[0, 0]
    first, second = torch.softmax(bias[:2], 0), torch.softmax(bias[2:4], 0)
    expected = torch.stack([1 - first[0], -first[1], 1 - second[0], -second[1], torch.tensor(0.0)])
    assert head.nodes.bias.grad is not None
    torch.testing.assert_close(head.nodes.bias.grad[0, 0], expected)


@pytest.mark.parametrize("head", KNOBWISE_HEADS)
def test_mixed_precision_does_not_round_what_a_head_adds_up(head):
    space = KnobSpace(tuple(Knob(name=name, options=tuple(range(8))) for name in "abc"))
    made = head_of(head, np.arange(0, 512, 5), space=space)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_((parameter * 16.0).round() / 4.0)  # bfloat16 holds such numbers and their sums
        hidden = torch.randint(-1, 2, (1, 20, 4), generator=torch.Generator().manual_seed(0)).float()
        expected = made(hidden)
        with torch.autocast("cpu", torch.bfloat16):
            got = made(hidden)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected)
    assert expected.std() > 0.5


def test_continuous_logits_by_hand():
    head = head_of("continuous", np.array([1, 2]))  # places (0, 1) and (0.2, 0)
    assert isinstance(head, ContinuousHead)
    with torch.no_grad():
        head.values.weight.zero_()
        head.values.bias.copy_(torch.tensor([0.0, np.log(3.0)]))  # values 0.5 and 0.75
        got = head(torch.zeros(1, 1, 4)).flatten().tolist()
    # every spread starts at 0.5, so that 1 / (2 spread^2) = 2
    assert got == pytest.approx([-2 * (0.5**2 + 0.25**2), -2 * (0.3**2 + 0.75**2)], rel=1e-5)


def continuous_policy(seed: int, members: int, actions: tuple[int, ...], space: KnobSpace) -> NumpyPolicy:
    spec = make_spec("continuous", actions, members=members, knob_options=space.shape)
    network = PolicyNetwork(spec, space, dropout=0.0, generator=torch.Generator().manual_seed(seed))
    assert isinstance(network.head, ContinuousHead)
    with torch.no_grad():
        network.head.values.weight.mul_(20.0)
        network.head.spread.normal_(generator=torch.Generator().manual_seed(seed))
    return NumpyPolicy(spec, export_arrays(network, PLAIN))


def values_of(policy: NumpyPolicy, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values (members, batch, knobs) and precisions (members, 1, knobs)."""
    hidden = []
    values_head = policy._head
    policy._head = lambda last: hidden.append(last) or values_head(last)  # pyright: ignore[reportAttributeAccessIssue]
    policy.scores(features[:, :3], features[:, 3:], 30.0)
    policy._head = values_head
    logits = hidden[0] @ policy.arrays["head.weight"] + policy.arrays["head.bias"]
    return 1 / (1 + np.exp(-logits)), policy.arrays["head.precision"]


WIDE = KnobSpace(
    (
        Knob(name="crops", options=(1, 2, 4, 6, 12)),
        Knob(name="mode", options=("fast", "fair", "good")),
        Knob(name="blocks", options=(8, 9, 16)),
    )
)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31 - 1))
def test_with_all_tested_the_continuous_head_rounds_every_knob_on_its_own(seed):
    policy = continuous_policy(seed, 1, tuple(range(45)), WIDE)
    features = np.random.default_rng(seed).normal(size=(8, 5)).astype(np.float32)
    chosen = policy.scores(features[:, :3], features[:, 3:], 30.0).argmax(axis=1)
    values = values_of(policy, features)[0][0]
    places = configuration_positions(WIDE, np.arange(45))
    for knob in range(3):
        options = np.unique(places[:, knob])
        nearest = np.abs(values[:, knob, None] - options).min(axis=1)
        got = np.abs(values[:, knob] - places[chosen, knob])
        np.testing.assert_allclose(got, nearest, atol=1e-3)


def test_otherwise_it_takes_the_nearest_that_is_tested_and_feasible():
    actions = (0, 7, 11, 22, 30, 44)
    policy = continuous_policy(5, 2, actions, WIDE)
    rng = np.random.default_rng(5)
    features = rng.normal(size=(40, 5)).astype(np.float32)
    values, precision = values_of(policy, features)
    places = configuration_positions(WIDE, np.array(actions))
    gaps = (values[:, :, None] - places) ** 2  # (members, batch, actions, knobs)
    distance = (gaps * precision[:, :, None]).sum(axis=-1).mean(axis=0)
    feasible = rng.random(distance.shape) < 0.6
    feasible[:, 0] = True
    scores = policy.scores(features[:, :3], features[:, 3:], 30.0)
    np.testing.assert_allclose(scores, -distance, atol=1e-4)
    chosen = choose(scores, np.ones_like(scores), feasible)
    assert chosen.tolist() == np.where(feasible, distance, np.inf).argmin(axis=1).tolist()
    assert len(set(chosen.tolist())) > 2


@cache
def table() -> OutcomeTable:
    return fake_table(150, 60, 100)


@cache
def latency() -> LatencyEstimator:
    return fit_latency(table())


SMALL = TrainOptions(
    algorithm="grpo_warm", hidden=16, members=2, batch_size=50, warm_epochs=1, epochs=1, checkpoint_every=1
)


def train(options: TrainOptions, **arguments) -> TrainedPolicy:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return train_controller_policy(table(), latency(), options, **arguments)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_learns_which_configuration_suits_a_question(head):
    options = dataclasses.replace(
        SMALL,
        head=head,
        algorithm="supervised",
        members=1,
        hidden=32,
        batch_size=25,
        warm_epochs=25,
        dropout=0.1,
    )
    trained = train(options)
    test, budget = table().split_rows("test"), 9.0
    mean, upper = latency().mean_and_upper(test.actions, test.tiles, test.vision_tokens, test.prompt_tokens)
    scores = trained.numpy_policy().scores(test.image_features, test.question_features, budget)
    chosen = choose(scores, mean, upper <= budget)
    fits = (upper <= budget).mean(axis=0) >= 0.95
    static = test.accuracy[:, fits].mean(axis=0).max()
    assert test.accuracy[np.arange(len(chosen)), chosen].mean() > static + 0.05


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("head", HEADS)
def test_every_pair_of_head_and_algorithm_trains_or_says_why_not(head, algorithm):
    if head in KNOBWISE_HEADS and OUTPUT[algorithm] == "accuracy":
        with pytest.raises(
            TrainError, match=f"head: '{head}' gives probabilities .* algorithm '{algorithm}'"
        ):
            dataclasses.replace(SMALL, head=head, algorithm=algorithm)
        return
    if algorithm == "grpo":
        options = TrainOptions(head=head, reference=QUICK_REFERENCE)
    else:
        options = dataclasses.replace(SMALL, head=head, algorithm=algorithm)
    trained = train(options)
    assert np.isfinite(trained.facts["validation_reward"])
    assert PolicySpec.from_json(trained.spec.to_json()) == trained.spec


@pytest.mark.parametrize("head", KNOBWISE_HEADS)
def test_a_resumed_run_equals_an_uninterrupted_one(head, tmp_path):
    options = dataclasses.replace(SMALL, head=head, algorithm="grpo_scratch", epochs=2)
    whole = train(options)

    class StopError(Exception):
        pass

    class Stopping:
        def start(self, total, description): ...
        def message(self, text): ...
        def advance(self, steps=1):
            if steps:
                raise StopError("after an epoch")

    with pytest.raises(StopError, match="after an epoch"):
        train(options, checkpoint_dir=tmp_path, progress=Stopping())
    resumed = train(options, checkpoint_dir=tmp_path)
    assert whole.history == resumed.history
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(array, resumed.arrays[name], err_msg=name)


@pytest.mark.parametrize("head", KNOBWISE_HEADS)
def test_a_controller_of_such_a_head_is_stored_and_decides(head, tmp_path):
    narrow = over_actions(table(), np.array([0, 2, 5, 13, 14, 20, 26]))
    options = dataclasses.replace(SMALL, head=head, algorithm="supervised")
    trained = train_controller_policy(narrow, latency(), options)
    made = Controller.from_training(trained, narrow, latency(), latency())
    made.save(tmp_path)
    loaded = Controller.load(tmp_path)
    context = recorded_context(narrow, loaded, str(narrow.sample_id[0]))
    for budget_ms in (6.0, 12.0, None):
        first, second = (one.decide(context, budget_ms=budget_ms) for one in (made, loaded))
        assert first.action == second.action
        assert first.action in narrow.actions


def test_the_continuous_head_decides_among_untested_configurations():
    narrow = over_actions(table(), np.array([0, 2, 5, 13, 14, 20, 26]))
    options = dataclasses.replace(SMALL, head="continuous", algorithm="supervised", score_untested=True)
    trained = train_controller_policy(narrow, latency(), options)
    assert trained.spec.actions == tuple(range(27))
    assert Controller.from_training(trained, narrow, latency(), latency()).actions.tolist() == list(range(27))


def test_the_autoregressive_head_has_no_score_for_untested_configurations():
    with pytest.raises(
        TrainError, match="score_untested: head 'autoregressive' scores tested configurations only"
    ):
        TrainOptions(head="autoregressive", algorithm="supervised", score_untested=True)
    with pytest.raises(TrainError, match="'autoregressive' gives untested configurations no probability"):
        head_of("autoregressive", np.array([0, 1])).exported(np.arange(6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"knob_options": None}, "policy knob_options: got None"),
        ({"knob_options": (2, 2)}, r"policy knob_options: got \(2, 2\).*actions up to 5 exist"),
        (
            {"output": "accuracy", "price_low": None, "price_high": None, "temperature": 0.05},
            "policy head: got 'autoregressive' with output 'accuracy'",
        ),
        ({"head": "joint", "knob_options": (3, 2)}, "knob_options: got .*, head 'joint' has none"),
    ],
)
def test_specifications_that_cannot_be(changes, message):
    with pytest.raises(ControllerError, match=message):
        make_spec(**({"head": "autoregressive"} | changes))


def test_damaged_head_arrays_are_refused():
    spec = make_spec("continuous")
    network = PolicyNetwork(spec, SPACE, dropout=0.0, generator=torch.Generator().manual_seed(0))
    arrays = dict(export_arrays(network, PLAIN))
    with pytest.raises(ControllerError, match="policy array head.places"):
        NumpyPolicy(spec, arrays | {"head.places": arrays["head.places"][:2]})


def test_the_command_line_hands_heads_on_and_names_what_does_not_go_together(tmp_path, monkeypatch):
    write_table(tmp_path / "outcomes", fake_table(4, 2, 0))
    words = ("train", tmp_path / "outcomes", "--out", tmp_path / "c")
    seen = []

    def stop(table, options, **arguments):
        seen.append(options)
        raise TrainError("stopped here")

    monkeypatch.setattr("paceline.workflows.training.train_controller", stop)
    pair = ("--head", "continuous", "--algorithm", "supervised", "--score-untested")
    assert "stopped here" in message(run(*words, *pair))
    assert (seen[0].head, seen[0].algorithm, seen[0].score_untested) == ("continuous", "supervised", True)
    assert "head: got 'tree', expected one of" in message(run(*words, "--head", "tree"))
    pair = ("--head", "autoregressive", "--algorithm", "grpo")
    assert "algorithm 'grpo' predicts their accuracy" in message(run(*words, *pair))
    assert "stopped here" in message(run(*words, "--head", "autoregressive"))
    assert seen.pop().algorithm == "grpo_scratch"
    assert "score_untested: head 'joint' scores tested" in message(run(*words, "--score-untested"))
    assert len(seen) == 1
