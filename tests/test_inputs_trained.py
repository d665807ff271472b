"""Each option of the inputs trained and decided with: controllers, balance, augmentation, live requests."""

import dataclasses

import numpy as np
import pytest
import torch

from fakes import FakeModel, FakeTask
from input_tables import (
    QUICK,
    context_of,
    controller_of,
    latency_of,
    plain_controller,
    plain_table,
    token_table,
)
from paceline.errors import TrainError
from paceline.learning.contexts import balanced_over_budgets, context_ranges, sample_contexts
from paceline.learning.dataset import training_problems
from paceline.learning.groups import GroupSource
from paceline.learning.inputs import fit_inputs
from paceline.learning.options import TrainOptions
from paceline.learning.preparation import train_preparation
from paceline.learning.train import train_controller_policy
from paceline.runtime.controller import Controller


@pytest.mark.parametrize(
    "changes",
    [
        {"feature_scaling": "quantile"},
        {"reduce": "pca:2"},
        {"reduce": "learned:2"},
        {"budget_encoding": "linear"},
        {"budget_form": "share"},
        {"budget_form": "class", "budget_encoding": "linear"},
        {"augment": "noise=0.1,dropout=0.1,mix=0.2"},
        {"balance": "dataset,kind,budget"},
    ],
    ids=lambda item: "-".join(f"{key}={value}" for key, value in item.items()),
)
@pytest.mark.parametrize("tokens", [False, True], ids=["pooled", "attention"])
def test_a_controller_trained_with_each_option_decides_and_is_stored(tmp_path, changes, tokens):
    table = token_table() if tokens else plain_table()
    options = dataclasses.replace(QUICK, **changes)
    controller = controller_of(table, options)
    controller.save(tmp_path)
    again = Controller.load(tmp_path)
    assert again.policy.spec == controller.policy.spec
    assert again.provenance["training"]["options"] == options.to_json()
    for budget in (None, 9.0, "low", "70%"):
        first, second = (c.decide(context_of(table, 3), budget=budget) for c in (controller, again))
        assert first.action == second.action
        assert first.score == pytest.approx(second.score)
    plain = plain_controller(tokens)
    assert plain.decide(context_of(table, 3), budget=9.0).score != pytest.approx(first.score, abs=1e-9)


def test_auto_scaling_is_by_rank_for_columns_of_a_table():
    table = plain_table()
    columns = table.manifest.options | {"features": {"kind": "columns", "columns": ["a"]}}
    tabular = dataclasses.replace(table, manifest=dataclasses.replace(table.manifest, options=columns))
    for given, expected in ((table, "standard"), (tabular, "quantile")):
        trained = train_controller_policy(given, latency_of(table), QUICK)
        assert trained.spec.inputs.feature_scaling == expected
    asked = dataclasses.replace(QUICK, feature_scaling="standard")
    assert (
        train_controller_policy(tabular, latency_of(table), asked).spec.inputs.feature_scaling == "standard"
    )


def test_features_other_than_those_read_are_refused():
    options = dataclasses.replace(QUICK, image_features="statistics")
    with pytest.raises(
        TrainError, match="image_features: got 'statistics', but the outcomes were read with 'stored'"
    ):
        train_controller_policy(plain_table(), latency_of(plain_table()), options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_features": "max"}, "image_features: got 'max', expected one of"),
        ({"question_features": "cls"}, "question_features: got 'cls', expected one of"),
        ({"feature_scaling": "rank"}, "feature_scaling: got 'rank', expected one of"),
        ({"reduce": "pca"}, "reduce: got 'pca', expected none, pca:K or learned:K"),
        ({"reduce": "pca:0"}, "reduce: got 'pca:0'"),
        ({"reduce": "svd:4"}, "reduce: got 'svd:4'"),
        ({"reduce": "none:4"}, "reduce: got 'none:4'"),
        ({"reduce": "pca:2", "share_projector": "tiny"}, "share_projector: got reduce 'pca:2'"),
        ({"budget_encoding": "cubic"}, "budget_encoding: got 'cubic'"),
        ({"budget_form": "class "}, "budget_form: got 'class '"),
        ({"augment": "noise=2"}, "augment: noise is 2.0, expected a number from 0 to 1"),
        ({"augment": "blur=1"}, "^augment: got 'blur=1', expected each of"),
        ({"balance": "kind,kind"}, "balance: got 'kind,kind', expected none, or some of"),
        ({"balance": "split"}, "balance: got 'split'"),
    ],
)
def test_unknown_words_are_refused(changes, message):
    with pytest.raises(TrainError, match=message):
        TrainOptions(**{"algorithm": "grpo_warm", **changes})


# Drawing


def test_balanced_budgets_fall_equally_often_between_configurations():
    train, _ = training_problems(plain_table(), latency_of(plain_table()))
    ranges = balanced_over_budgets(context_ranges(train), train)
    upper = np.sort(train.configuration_means(train.upper_ms))
    budget, _ = sample_contexts((26_000,), ranges, 0.0, torch.Generator().manual_seed(0))
    counts, _ = np.histogram(budget.numpy(), upper * (1 + 1e-6 * np.linspace(-1, 1, len(upper))))
    np.testing.assert_allclose(counts, 1000, atol=150)
    even, _ = sample_contexts((26_000,), context_ranges(train), 0.0, torch.Generator().manual_seed(0))
    assert np.histogram(even.numpy(), upper)[0].max() > 2500


def test_the_options_replace_the_recipe_of_the_manifest():
    table = plain_table()
    recipe = {"balance": ["kind"], "noise": 0.2, "dropout": 0.0, "mix": 0.1}
    train = table.split_rows("train")
    weights = {str(kind): 1.0 for kind in np.unique(train.kind)}
    options = table.manifest.options | {"preparation": recipe | {"weights": weights}}
    train = dataclasses.replace(train, manifest=dataclasses.replace(train.manifest, options=options))

    def made(**changes):
        return train_preparation(train, dataclasses.replace(QUICK, **changes))

    assert made().recipe.noise == 0.2
    assert (made(augment="dropout=0.3").recipe.noise, made(augment="dropout=0.3").recipe.dropout) == (
        0.0,
        0.3,
    )
    assert made(augment="dropout=0.3").recipe.balance == ("kind",)
    assert made(balance="none").weights is None
    assert made(balance="budget").recipe.balance == ("kind",)
    drawn = made(balance="kind,budget").weights
    assert drawn is not None
    totals = [float(drawn[train.kind == kind].sum()) for kind in np.unique(train.kind)]
    np.testing.assert_allclose(totals, totals[0], rtol=1e-5)


def test_augmented_tokens_keep_their_count():
    table = token_table()
    train, _ = training_problems(table, latency_of(table))
    options = dataclasses.replace(QUICK, augment="noise=0.3,dropout=0.3,mix=0.3")
    trained = train_controller_policy(table, latency_of(table), options)
    inputs = fit_inputs(train.features, table.image_width, table.feature_choice)
    preparation = train_preparation(table.split_rows("train"), options)
    source = GroupSource(train, trained.spec, table.space, options, inputs, preparation)
    groups = source.random_groups(torch.arange(80), context_ranges(train), torch.Generator().manual_seed(0))
    changed, before = groups.features.numpy(), source.features.numpy()
    for column in (inputs.image_columns - 1, -1):
        np.testing.assert_array_equal(changed[:, column], before[:, column])
    assert (changed[:, : inputs.image_columns - 1] != before[:, : inputs.image_columns - 1]).mean() > 0.5


def test_noise_on_components_has_their_spread():
    """The first component of correlated features varies most and gets most of the noise."""
    table = plain_table()
    train, _ = training_problems(table, latency_of(table))
    inputs = fit_inputs(train.features, table.image_width, table.feature_choice, components=2)
    trained = train_controller_policy(table, latency_of(table), dataclasses.replace(QUICK, reduce="pca:2"))
    source = GroupSource(train, trained.spec, table.space, QUICK, inputs)
    np.testing.assert_allclose(source.spread.numpy(), source.features.numpy().std(axis=0), rtol=1e-4)
    assert source.spread[0] > source.spread[1]


def test_a_live_request_is_decided_with_the_same_scores_as_in_the_table():
    model, task, table = FakeModel(), FakeTask(), plain_table()
    controller = controller_of(table, dataclasses.replace(QUICK, feature_scaling="quantile", reduce="pca:2"))
    sample = next(s for s in task.samples("train", 80, 0) if s.sample_id == table.sample_id[3])
    overview = model.overview(task.image(sample), sample.question)
    live = dataclasses.replace(
        context_of(table, 3),
        image_features=overview.image_features,
        question_features=overview.question_features,
    )
    assert controller.decide(live).score == pytest.approx(controller.decide(context_of(table, 3)).score)
