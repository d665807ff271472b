"""Configurations that were never tested: their features, embedding head, workloads, controller and evaluation."""

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch

from fakes import FAKE_SPACE, fake_table
from paceline.errors import ControllerError, OutcomesError, TrainError
from paceline.evaluation.contest import ContestOptions
from paceline.evaluation.evaluate import evaluate_controller
from paceline.evaluation.times import fit_latency
from paceline.knobs import Knob, KnobSpace
from paceline.learning.options import TrainOptions
from paceline.learning.scored_actions import MOST_SCORED, actions_to_score
from paceline.learning.train import train_controller_policy
from paceline.learning.trained import TrainedPolicy
from paceline.outcomes.table import OutcomeTable
from paceline.outcomes.workloads import over_actions, workload_columns
from paceline.policies.embedding_head import EmbeddingHead
from paceline.policies.feature_scaling import FeatureScaling
from paceline.policies.heads import make_head
from paceline.policies.knob_features import configuration_positions, knob_features, option_positions
from paceline.policies.network import PolicyNetwork, export_arrays
from paceline.policies.numpy_policy import NumpyPolicy
from paceline.policies.spec import PolicySpec
from paceline.runtime.controller import Controller
from paceline.workflows.deciding import recorded_context

SPACE = KnobSpace((Knob(name="crops", options=(2, 4, 12)), Knob(name="mode", options=("fast", "good"))))
HELD_OUT = np.array([1, 5, 6, 10, 12, 14, 17, 21, 23])  # a third of the 27, never the first or the last
OPTIONS = TrainOptions(
    head="embedding",
    score_untested=True,
    algorithm="outcome",
    hidden=32,
    members=1,
    batch_size=50,
    warm_epochs=40,
    epochs=0,
)


@cache
def whole_table() -> OutcomeTable:
    return fake_table(200, 60, 150)


@cache
def narrow_table() -> OutcomeTable:
    return over_actions(whole_table(), np.setdiff1d(np.arange(27), HELD_OUT))


@cache
def trained(head: str = "embedding") -> TrainedPolicy:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        options = dataclasses.replace(OPTIONS, head=head)
        return train_controller_policy(narrow_table(), fit_latency(narrow_table()), options)
    finally:
        torch.set_num_threads(threads)


@cache
def controller() -> Controller:
    latency, first = (fit_latency(narrow_table(), first_token=first) for first in (False, True))
    return Controller.from_training(trained(), narrow_table(), latency, first)


def test_places_are_values_or_ranks_between_0_and_1():
    assert option_positions(Knob(name="a", options=(2, 4, 12))).tolist() == [0.0, 0.2, 1.0]
    assert option_positions(Knob(name="a", options=(1.0, 0.5))).tolist() == [1.0, 0.0]
    assert option_positions(Knob(name="a", options=("x", 2))).tolist() == [0.0, 1.0]
    assert option_positions(Knob(name="a", options=(7,))).tolist() == [0.0]
    assert configuration_positions(SPACE, np.array([3])).tolist() == [[0.2, 1.0]]


def test_knob_features_are_options_places_and_products():
    # action 3 = crops 4, mode good; no tested configuration has crops 12 (the third column)
    features = knob_features(SPACE, np.array([3, 5]), np.array([0, 3]))
    np.testing.assert_allclose(
        features,
        [[0, 1, 0, 0, 1, -0.6, 1.0, -0.6], [0, 0, 0, 0, 1, 1.0, 1.0, 1.0]],
        atol=1e-6,
    )


def make_embedding(seed: int = 0) -> EmbeddingHead:
    head = make_head(
        "embedding",
        members=2,
        hidden=5,
        space=SPACE,
        actions=np.array([0, 2, 3, 5]),
        generator=torch.Generator().manual_seed(seed),
    )
    assert isinstance(head, EmbeddingHead)
    return head


def test_embedding_head_is_the_dot_product_of_hidden_and_embedding():
    head = make_embedding()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.read.weight[0, 5, 0] = 1.0  # the place of crops, -1 to 1, into the first unit
        head.read.bias[0, 0, 0] = 1.0
        head.embed.weight[0, 0, 2] = 3.0  # which scales the third hidden unit
        head.embed.weight[0, 0, 5] = 7.0  # and adds to the logit
        hidden = torch.zeros(2, 1, 5)
        hidden[0, 0, 2] = 2.0
        logits = head(hidden)
    unit = np.array([0.0, 0.4, 0.4, 2.0])  # relu(place + 1) of actions 0, 2, 3, 5
    np.testing.assert_allclose(logits[0, 0], unit * (3.0 * 2.0 / 5**0.5 + 7.0), rtol=1e-5)
    assert (logits[1] == 0).all()


@pytest.mark.parametrize("name", ["embedding", "independent"])
def test_exporting_more_actions_leaves_the_tested_scores_as_they_are(name):
    spec = PolicySpec(
        head=name,
        members=2,
        image_width=2,
        question_width=1,
        hidden=6,
        budget_low_ms=1.0,
        budget_high_ms=9.0,
        full_latency_ms=9.0,
        actions=(0, 2, 3, 5),
    )
    network = PolicyNetwork(spec, SPACE, dropout=0.0, generator=torch.Generator().manual_seed(1))
    plain = {"first": np.zeros(3, np.float32), "second": np.ones(3, np.float32)}
    scaling = FeatureScaling(method="standard", **plain)
    few = NumpyPolicy(spec, export_arrays(network, scaling))
    wide = dataclasses.replace(spec, actions=tuple(range(6)))
    all_of_them = NumpyPolicy(wide, export_arrays(network, scaling, np.arange(6)))
    image, question = np.ones((4, 2)), np.arange(4.0)[:, None]
    got = all_of_them.scores(image, question, 5.0)
    np.testing.assert_allclose(got[:, [0, 2, 3, 5]], few.scores(image, question, 5.0), rtol=1e-5)
    assert np.ptp(got, axis=1).min() > 0


def test_which_actions_are_scored():
    tested = np.array([0, 3])  # crops 2 and 4, both modes
    assert actions_to_score(SPACE, tested, "embedding").tolist() == [0, 1, 2, 3, 4, 5]
    assert actions_to_score(SPACE, tested, "independent").tolist() == [0, 1, 2, 3]
    assert actions_to_score(SPACE, tested, "embedding", np.array([5])).tolist() == [0, 3, 5]


def test_what_cannot_be_scored_is_named():
    tested = np.array([0, 3])
    with pytest.raises(TrainError, match="got head 'joint', which scores tested configurations only"):
        actions_to_score(SPACE, tested, "joint")
    with pytest.raises(TrainError, match="scored_actions: got ids from 0 to 6, expected 0 to 5"):
        actions_to_score(SPACE, tested, "embedding", np.array([6]))
    large = KnobSpace(tuple(Knob(name=name, options=tuple(range(30))) for name in "abc"))
    with pytest.raises(
        TrainError, match=f"the knob space has 27000 configurations, expected at most {MOST_SCORED}"
    ):
        actions_to_score(large, tested, "embedding")
    with pytest.raises(TrainError, match="scored_actions: got 20001 configurations"):
        actions_to_score(large, tested, "embedding", np.arange(MOST_SCORED + 1))
    with pytest.raises(TrainError, match="score_untested: head 'joint' scores tested configurations only"):
        TrainOptions(algorithm="grpo_warm", score_untested=True)
    arguments = {"members": 1, "hidden": 2, "space": SPACE, "actions": tested, "generator": torch.Generator()}
    with pytest.raises(TrainError, match="'joint' has a logit for each tested configuration"):
        make_head("joint", **arguments).exported(np.arange(6))
    with pytest.raises(TrainError, match="'independent' learned nothing of crops 12"):
        make_head("independent", **arguments).exported(np.arange(6))


def test_workloads_come_from_the_configuration_with_the_same_crops():
    columns = workload_columns(narrow_table(), np.arange(27))
    tested = narrow_table().actions
    crops = FAKE_SPACE.option_indices(np.arange(27))[:, 0]
    assert (FAKE_SPACE.option_indices(tested[columns])[:, 0] == crops).all()
    assert (tested[columns][tested] == tested).all()
    wide = over_actions(narrow_table(), np.arange(27))
    for name in ("tiles", "vision_tokens", "prompt_tokens"):  # in this model they follow from the crops alone
        np.testing.assert_array_equal(getattr(wide, name), getattr(whole_table(), name))
    assert np.isnan(wide.accuracy[:, HELD_OUT]).all()
    assert np.isnan(wide.latency_ms[:, HELD_OUT]).all()
    np.testing.assert_array_equal(wide.accuracy[:, tested], whole_table().accuracy[:, tested])


def test_workloads_without_any_variation_come_from_the_nearest():
    table = narrow_table()
    same = {
        name: np.full_like(getattr(table, name), 3) for name in ("tiles", "vision_tokens", "prompt_tokens")
    }
    columns = workload_columns(dataclasses.replace(table, **same), np.array([1]))
    assert table.actions[columns].tolist() == [
        0
    ]  # one step away; 2 and 4 are too, the first of equals is taken


def test_held_out_configurations_are_predicted():
    test = whole_table().split_rows("test")
    policy = trained().numpy_policy()
    assert policy.spec.actions == tuple(range(27))
    predicted = (
        policy.scores(test.image_features, test.question_features)[:, HELD_OUT] * policy.spec.temperature
    )
    actual = test.accuracy[:, HELD_OUT]
    assert np.corrcoef(predicted.ravel(), actual.ravel())[0, 1] > 0.5
    assert np.abs(predicted.mean(axis=0) - actual.mean(axis=0)).max() < 0.15
    constant = np.abs(actual - actual.mean()).mean()
    assert np.abs(predicted - actual).mean() < 0.75 * constant


def test_the_controller_decides_among_untested_configurations():
    made = controller()
    assert made.actions.tolist() == list(range(27))
    whole = whole_table()
    rows = [recorded_context(whole, made, sample) for sample in whole.sample_id[whole.split == "test"][:40]]
    decisions = [made.decide(row, budget_ms=9.0) for row in rows]
    assert {d.action for d in decisions} & set(HELD_OUT.tolist())
    assert all(d.upper_ms <= 9.0 and d.reason == "policy" for d in decisions)
    borrowed = [
        recorded_context(narrow_table(), made, s) for s in whole.sample_id[whole.split == "test"][:40]
    ]
    assert [made.decide(row, budget_ms=9.0).action for row in borrowed] == [d.action for d in decisions]


def test_the_controller_is_stored_with_all_it_scores(tmp_path):
    controller().save(tmp_path)
    assert Controller.load(tmp_path).fingerprint == controller().fingerprint
    assert controller().provenance["training"]["tested_configurations"] == 18


def test_average_budgets_hold_over_all_configurations():
    budgets = controller().prices.budgets_ms
    assert len(budgets) > 2
    assert np.isfinite(controller().prices.prices).all()
    assert controller().lowest_average_ms == pytest.approx(float(budgets[0]))


def test_evaluation_judges_untested_configurations_where_they_were_tested_since():
    value = evaluate_controller(controller(), whole_table(), ContestOptions(replicates=100))
    hard = value["hard"]["accuracy"]
    assert np.mean(np.subtract(hard["paceline"], hard["best_static"])) > 0.03
    with pytest.raises(ControllerError, match="9 of its 27 configurations were not tested in these outcomes"):
        evaluate_controller(controller(), narrow_table())


def test_a_controller_is_built_from_the_table_of_its_training_only():
    latency = fit_latency(narrow_table())
    fewer = over_actions(narrow_table(), narrow_table().actions[1:])
    for table in (whole_table(), fewer):
        with pytest.raises(TrainError, match="it scores 27 configurations and was trained on 18"):
            Controller.from_training(trained(), table, latency, latency)


def test_a_sample_of_other_configurations_has_no_context():
    fewer = over_actions(narrow_table(), narrow_table().actions[:4])
    joint = train_controller_policy(
        narrow_table(),
        fit_latency(narrow_table()),
        dataclasses.replace(OPTIONS, head="joint", score_untested=False, warm_epochs=1),
    )
    latency = fit_latency(narrow_table())
    made = Controller.from_training(joint, narrow_table(), latency, latency)
    with pytest.raises(OutcomesError, match="they do not hold all configurations of the controller"):
        recorded_context(fewer, made, str(fewer.sample_id[0]))


def test_named_actions_are_scored_and_training_does_not_depend_on_them():
    options = dataclasses.replace(OPTIONS, score_untested=False, warm_epochs=2)
    latency = fit_latency(narrow_table())
    plain = train_controller_policy(narrow_table(), latency, options)
    named = train_controller_policy(narrow_table(), latency, options, scored_actions=np.array([5]))
    assert set(named.spec.actions) == {*plain.spec.actions, 5}
    assert plain.history == named.history
    columns = np.isin(np.array(named.spec.actions), plain.spec.actions)
    np.testing.assert_array_equal(named.arrays["head.weight"][..., columns], plain.arrays["head.weight"])


@pytest.mark.parametrize("head", ["embedding", "independent"])
def test_every_head_for_untested_configurations_trains_with_grpo(head):
    options = dataclasses.replace(OPTIONS, head=head, algorithm="grpo_warm", warm_epochs=2, epochs=1)
    made = train_controller_policy(narrow_table(), fit_latency(narrow_table()), options)
    assert made.spec.actions == tuple(range(27))
