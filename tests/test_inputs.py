"""What a policy reads: tokens, reduction, the form of the budget, and how a specification says it."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from input_tables import (
    QUICK,
    context_of,
    controller_of,
    latency_of,
    plain_table,
    token_table,
)
from paceline.budgets import encode_budget
from paceline.errors import ControllerError, OutcomesError
from paceline.learning.dataset import training_problems
from paceline.learning.groups import GroupSource
from paceline.learning.inputs import fit_inputs
from paceline.learning.learners.policy_contender import policy_scorer
from paceline.learning.principal import principal_components
from paceline.learning.problem import problem_of
from paceline.learning.train import train_controller_policy
from paceline.learning.validation import validate
from paceline.policies.input_layers import AttentionPool
from paceline.policies.inputs import FeatureChoice, InputSpec, named_shares
from paceline.policies.network import PolicyNetwork, export_arrays
from paceline.policies.numpy_policy import NumpyPolicy
from paceline.policies.spec import PolicySpec
from paceline.policies.token_pooling import attention_pool, pack_tokens, unpack_tokens

# Tokens


def test_attention_by_hand():
    """Logits 0 and log 3: weights 1/4 and 3/4; the third token is padding and counts for nothing."""
    tokens = np.array([[[0.0, 2.0], [math.log(3.0), 6.0], [9.0, 9.0]]], dtype=np.float32)
    query = np.array([[1.0, 0.0], [0.0, 0.0]], dtype=np.float32)
    pooled = attention_pool(tokens, np.array([2]), query)
    expected = [[[0.75 * math.log(3.0), 5.0]], [[0.5 * math.log(3.0), 4.0]]]  # a zero query: the mean
    np.testing.assert_allclose(pooled, expected, rtol=1e-6)


def test_packed_rows_by_hand_and_back():
    tokens = np.arange(12.0).reshape(2, 2, 3)
    packed = pack_tokens(tokens, np.array([2, 1]))
    np.testing.assert_array_equal(packed[1], [6, 7, 8, 0, 0, 0, 1])
    back, counts = unpack_tokens(packed, 3)
    np.testing.assert_array_equal(counts, [2, 1])
    np.testing.assert_array_equal(back[0], tokens[0])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (np.zeros(8), "got rows of 8 numbers, expected tokens of 3 numbers"),
        (np.zeros(3), "got rows of 3 numbers, expected tokens of 3 numbers"),
        (np.array([1.0, 1, 1, 0]), "got 0 to 0 tokens, expected 1 to 1"),
        (np.array([1.0, 1, 1, 2]), "got 2 to 2 tokens, expected 1 to 1"),
        (np.array([1.0, 1, 1, 0.5]), "got 0.5 to 0.5 tokens"),
    ],
)
def test_rows_that_hold_no_tokens_are_refused(row, message):
    with pytest.raises(ControllerError, match=message):
        unpack_tokens(row, 3)


def test_attention_in_torch_equals_numpy_and_starts_as_the_mean():
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(6, 5, 4)).astype(np.float32)
    counts = np.array([5, 1, 3, 2, 5, 4])
    pool = AttentionPool(3, 4)
    packed = torch.from_numpy(pack_tokens(tokens, counts)).expand(3, -1, -1)
    means = np.stack([row[:count].mean(axis=0) for row, count in zip(tokens, counts, strict=True)])
    np.testing.assert_allclose(pool(packed)[1].detach().numpy(), means, atol=1e-6)
    with torch.no_grad():
        pool.query.copy_(torch.from_numpy(3 * rng.normal(size=(3, 4))))
    torch.testing.assert_close(pool.scaled_query, pool.query / 2.0)  # sqrt(width)
    expected = attention_pool(tokens, counts, pool.scaled_query.detach().numpy())
    np.testing.assert_allclose(pool(packed).detach().numpy(), expected, atol=1e-5)


# Reduction


@pytest.mark.parametrize("shape", [(60, 7), (20, 50)])
def test_principal_components_are_those_of_sklearn(shape):
    """From the covariance where samples are many, from products of samples where features are."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=shape) @ rng.normal(size=(shape[1], shape[1]))
    reference = PCA(n_components=5, svd_solver="full").fit(rows)
    directions = np.asarray(reference.components_).T
    found = principal_components(rows, 5)
    signs = np.sign((found.components * directions).sum(axis=0))
    np.testing.assert_allclose(found.components * signs, directions, atol=1e-8)
    np.testing.assert_allclose(found.apply(rows) * signs, reference.transform(rows), atol=1e-4)


def test_reduction_keeps_no_more_than_there_is():
    rows = np.random.default_rng(0).normal(size=(3, 9))
    for repeated in (rows, np.tile(rows, (2, 1)), np.tile(rows, (20, 1))):  # questions share images
        found = principal_components(repeated, 8)
        assert found.components.shape == (9, 2)
        np.testing.assert_allclose(found.components.T @ found.components, np.eye(2), atol=1e-9)
        again = found.apply(repeated) @ found.components.T + found.centre
        np.testing.assert_allclose(again, repeated, atol=1e-5)
    constant = principal_components(np.ones((4, 3)), 2)
    assert constant.components.shape == (3, 1)
    np.testing.assert_array_equal(constant.apply(np.ones((1, 3))), [[0.0]])


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("method", ["standard", "quantile"])
@pytest.mark.parametrize("reduction", [None, ("pca", 2), ("learned", 2)])
def test_the_numpy_policy_equals_the_network_under_every_input(tokens, method, reduction):
    """Scaling, reduction and attention of the trained network, folded into what decides."""
    table = token_table() if tokens else plain_table()
    kind, count = reduction or (None, None)
    inputs = fit_inputs(
        table.features,
        table.image_width,
        table.feature_choice,
        method=method,
        components=count if kind == "pca" else None,
    )
    if kind == "pca":  # scaled features are centred nearly at 0, which would hide a wrong centre
        parts = {"image": inputs.image, "question": inputs.question}
        for name, part in parts.items():
            assert part.reduction is not None
            moved = dataclasses.replace(part.reduction, centre=part.reduction.centre + 0.8)
            parts[name] = dataclasses.replace(part, reduction=moved)
        inputs = dataclasses.replace(inputs, **parts)
    columns = (table.image_width, table.features.shape[1] - table.image_width)
    widths = table.feature_choice.widths(*columns)
    names = {"image_features": table.feature_choice.image, "question_features": table.feature_choice.question}
    spec = PolicySpec(
        head="joint",
        members=3,
        image_width=widths[0],
        question_width=widths[1],
        hidden=8,
        budget_low_ms=10.0,
        budget_high_ms=50.0,
        full_latency_ms=50.0,
        actions=(0, 1, 3),
        inputs=InputSpec(feature_scaling=method, **names),
    )
    network = PolicyNetwork(
        inputs.network_spec(spec),
        table.space,
        dropout=0.1,
        generator=torch.Generator().manual_seed(0),
        reduced=count if kind == "learned" else None,
        image_columns=inputs.image_columns,
    )
    with torch.no_grad():
        for pool in (network.image_pool, network.question_pool):
            if pool is not None:
                pool.query.normal_(generator=torch.Generator().manual_seed(1))
    prepared = torch.from_numpy(inputs.prepare(table.features)).expand(3, -1, -1)
    codes = torch.from_numpy(encode_budget(np.full(table.samples, 20.0), low_ms=10.0, high_ms=50.0))
    expected = network.mean_scores(network(prepared, codes.expand(3, -1, -1))).detach().numpy()
    policy = NumpyPolicy(spec, inputs.folded(export_arrays(network)))
    got = policy.scores(table.image_features, table.question_features, 20.0)
    np.testing.assert_allclose(got, expected, atol=2e-4)
    assert np.ptp(expected, axis=0).min() > 0.01  # of something that varies
    one = policy.scores(table.image_features[7], table.question_features[7], 20.0)
    np.testing.assert_allclose(one, got[7], rtol=1e-4)


def test_attention_takes_any_number_of_tokens_but_no_other_width():
    """A live prompt may be longer than any in training; padding changes nothing."""
    trained = train_controller_policy(token_table(), latency_of(token_table()), QUICK)
    policy, table, wide = trained.numpy_policy(), token_table(), token_table(4, 5)
    more = dataclasses.replace(
        wide,
        features=np.concatenate(
            [wide.image_features, np.insert(wide.question_features, -1, np.zeros((6, 1)), axis=1)], axis=1
        ),
    )
    np.testing.assert_allclose(
        policy.scores(more.image_features, more.question_features),
        policy.scores(table.image_features, table.question_features),
        rtol=1e-5,
    )
    with pytest.raises(ControllerError, match="expected tokens of 3 numbers each"):
        policy.scores(table.image_features[:, 1:], table.question_features)


# Budgets


def test_the_linear_encoding_is_the_position():
    codes = encode_budget(
        np.array([10.0, 100.0, 1000.0, np.inf, 0.0]), low_ms=10.0, high_ms=1000.0, dimensions=1
    )
    np.testing.assert_allclose(codes, [[0.0], [0.5], [1.0], [1.25], [-0.25]], atol=1e-6)


def test_forms_of_a_budget_by_hand():
    """60 ms where the full configuration takes 80 on this request and 100 on the mean one: 0.75 of it."""
    share = InputSpec(budget_form="share")
    assert share.told_ms(60.0, 80.0, 100.0) == pytest.approx(75.0)
    assert InputSpec().told_ms(60.0, 80.0, 100.0) == 60.0
    classes = InputSpec(budget_form="class", class_shares=(0.2, 0.5, 0.8))
    budgets = np.array([1.0, 25.0, 26.0, 50.0, 500.0, np.inf])  # middles at 31.6 % and 63.2 % of 80
    told = classes.told_ms(budgets, 80.0, 100.0)
    assert told is not None
    np.testing.assert_allclose(told, [20.0, 20.0, 50.0, 50.0, 80.0, np.inf])
    assert classes.told_ms(None, 80.0, 100.0) is None


def test_named_budgets_are_told_their_own_share():
    """A class-form policy sees exactly the share that a user's "low" is parsed to."""
    table = plain_table()
    options = dataclasses.replace(QUICK, budget_form="class")
    controller = controller_of(table, options)
    shares = controller.guard.classes
    assert controller.policy.spec.inputs.class_shares == pytest.approx(tuple(shares.values()), rel=0.02)
    assert list(shares) == list(named_shares(np.array([1.0, 2.0])))


def test_a_slower_machine_is_told_the_same_share(monkeypatch):
    """Twice the time of everything: "50%" is twice as long and still half of the mean full latency to the policy."""
    controller = controller_of(plain_table(), dataclasses.replace(QUICK, budget_form="share"))
    slow = [
        estimate.rescaled(np.array([2.0]), np.array([1.0]))
        for estimate in (controller.latency, controller.first_token_latency)
    ]
    slower = controller.rescaled(latency=slow[0], first_token_latency=slow[1], overview_ms=0.0)
    told, values = [], NumpyPolicy.values

    def watch(self, image, question, budget_ms, price):
        told.append(budget_ms)
        return values(self, image, question, budget_ms, price)

    monkeypatch.setattr(NumpyPolicy, "values", watch)
    for machine in (controller, slower):
        machine.decide(context_of(plain_table(), 3), budget="50%")
    unit = controller.policy.spec.full_latency_ms
    np.testing.assert_allclose(told, [0.5 * unit, 0.5 * unit], rtol=1e-6)


def test_validation_tells_shares_too():
    """The reward that stops training is that of the policy as it decides."""
    table, latency = plain_table(), latency_of(plain_table())
    train, _ = training_problems(table, latency)
    options = dataclasses.replace(QUICK, budget_form="share", tie_break=0.0)
    spec = train_controller_policy(table, latency, options).spec
    inputs = fit_inputs(train.features, table.image_width, table.feature_choice)
    source = GroupSource(train, spec, table.space, options, inputs)
    network = PolicyNetwork(spec, table.space, dropout=0.0, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2.0)  # so that the budget matters
    policy, rows = NumpyPolicy(spec, inputs.folded(export_arrays(network))), table.split_rows("train")
    feasible = train.upper_ms <= 9.0

    def chosen(budget_ms):
        scores = policy.scores(rows.image_features, rows.question_features, budget_ms)
        return np.where(feasible, scores, -np.inf).argmax(axis=1)

    told = chosen(source.told_ms(torch.arange(80), torch.full((80,), 9.0)).numpy())
    expected = train.accuracy[np.arange(80), told][feasible.any(axis=1)].mean()
    assert validate(network, source, [(9.0, 0.0)]).reward == pytest.approx(expected, abs=1e-6)
    untold = train.accuracy[np.arange(80), chosen(9.0)][feasible.any(axis=1)].mean()
    assert expected != pytest.approx(untold, abs=1e-3)


def test_training_and_judging_tell_the_same_share():
    table = plain_table()
    latency = latency_of(table)
    train, _ = training_problems(table, latency)
    trained = train_controller_policy(table, latency, dataclasses.replace(QUICK, budget_form="share"))
    inputs = fit_inputs(train.features, table.image_width, table.feature_choice)
    source = GroupSource(train, trained.spec, table.space, QUICK, inputs)
    rows = torch.arange(5)
    told = source.told_ms(rows, torch.full((5,), 9.0)).numpy()
    expected = 9.0 / train.mean_ms[:5, -1] * trained.spec.full_latency_ms
    np.testing.assert_allclose(told, expected, rtol=1e-6)
    problem = problem_of(table.split_rows("train"), latency)
    policy = trained.numpy_policy()
    values = policy_scorer(policy, table.actions)(problem, 9.0)[:5]
    scores = policy.scores(problem.image_features[:5], problem.question_features[:5], told)
    np.testing.assert_allclose(values, policy.spec.temperature * scores, rtol=1e-5)
    assert np.ptp(told) > 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_features": "max"}, "policy image_features: got 'max', expected one of"),
        ({"budget_form": "money"}, "policy budget_form: got 'money'"),
        ({"budget_form": "class"}, "class_shares: got \\[\\] for budgets in the form 'class'"),
        ({"class_shares": (0.5,)}, "class_shares: got \\[0.5\\] for budgets in the form 'absolute'"),
        ({"budget_form": "class", "class_shares": (0.5, 0.2)}, "in ascending order"),
    ],
)
def test_an_input_specification_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ControllerError, match=message):
        InputSpec(**changes)


def test_unknown_keys_of_an_input_specification_are_refused():
    with pytest.raises(ControllerError, match="policy inputs: got .*surprise.*, expected exactly the keys"):
        InputSpec.from_json(InputSpec().to_json() | {"surprise": 1})
    with pytest.raises(OutcomesError, match="question_features: got 'last', expected one of"):
        FeatureChoice(question="last")


def test_older_specifications_without_inputs_are_read():
    trained = train_controller_policy(plain_table(), latency_of(plain_table()), QUICK)
    value = json.loads(json.dumps(trained.spec.to_json()))
    assert PolicySpec.from_json(value) == trained.spec
    del value["inputs"]
    assert PolicySpec.from_json(value).inputs == InputSpec()
