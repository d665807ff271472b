"""Balancing and augmentation: recorded by an import, followed by training, and by training alone."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from command_line import message, run, run_json
from fakes import fake_table
from paceline.errors import OutcomesError, TrainError
from paceline.evaluation.times import fit_latency
from paceline.learning.options import TrainOptions
from paceline.learning.preparation import TrainPreparation, train_preparation
from paceline.learning.train import train_controller_policy
from paceline.outcomes.preparation import Preparation, balanced_weights, group_labels, parse_preparation
from paceline.outcomes.store import read_table
from result_files import Layout, World, write_exp5, write_exp6

QUICK = TrainOptions(algorithm="grpo_warm", hidden=8, members=2, warm_epochs=2, epochs=1, batch_size=32)
RECIPE = "noise=0.05,dropout=0.1,mix=0.2"


@pytest.fixture
def folder(tmp_path):
    for count, dataset in ((30, "coco_2014_vqa"), (10, "text_vqa")):
        world = World(count=count, images=count, dataset=dataset)
        write_exp5(tmp_path / "results", world, Layout())
        write_exp6(tmp_path / "results", world, Layout())
    return tmp_path


def prepared(table, **amounts):
    """The table with a recipe in its manifest, weights as an import writes them."""
    recipe = Preparation(**amounts)
    if recipe.balance:
        train = table.split_rows("train")
        labels = group_labels(recipe.balance, train.dataset.tolist(), train.kind.tolist())
        recipe = dataclasses.replace(recipe, weights=balanced_weights(labels))
    options = table.manifest.options | {"preparation": recipe.to_json()}
    return dataclasses.replace(table, manifest=dataclasses.replace(table.manifest, options=options))


def test_an_import_records_the_recipe_and_changes_no_sample(folder):
    plain = run_json("import", folder / "results", "--out", folder / "plain")
    words = ["--balance", "dataset,kind", "--augment", RECIPE, "--out", folder / "prepared"]
    value = run_json("import", folder / "results", *words)
    recipe = json.loads((folder / "prepared" / "manifest.json").read_text())["options"]["preparation"]
    assert recipe["balance"] == ["dataset", "kind"]
    assert (recipe["noise"], recipe["dropout"], recipe["mix"]) == (0.05, 0.1, 0.2)
    assert len(recipe["weights"]) == 4
    assert "preparation" not in json.loads((folder / "plain" / "manifest.json").read_text())["options"]
    for name in ("outcomes.parquet", "samples.parquet", "features.safetensors"):
        assert (folder / "plain" / name).read_bytes() == (folder / "prepared" / name).read_bytes()
    assert value["splits"] == plain["splits"]
    assert any(note.startswith("balance: 4 groups by dataset and kind") for note in value["audit"]["notes"])
    train = read_table(folder / "prepared").split_rows("train")
    weights = [recipe["weights"][f"{d} / {k}"] for d, k in zip(train.dataset, train.kind, strict=True)]
    assert np.mean(weights) == pytest.approx(1)


def test_weights_by_hand():
    labels = np.array(["a"] * 6 + ["b"] * 2 + ["c"], dtype=object)
    weights = balanced_weights(labels)
    assert {name: weights[name] * count for name, count in (("a", 6), ("b", 2), ("c", 1))} == pytest.approx(
        {"a": 3, "b": 3, "c": 3}
    )
    rare = balanced_weights(np.array(["a"] * 999 + ["b"], dtype=object))
    assert rare == pytest.approx({"a": 990 / 999, "b": 10})


def test_samples_are_drawn_by_weight():
    table = prepared(fake_table(120, 10, 10), balance=("kind",))
    train = table.split_rows("train")
    preparation = train_preparation(train)
    order = preparation.order((50, 120), torch.Generator().manual_seed(0))
    assert order.shape == (50, 120)
    kinds, counts = np.unique(train.kind[order.flatten().numpy()], return_counts=True)
    np.testing.assert_allclose(counts / counts.sum(), 1 / len(kinds), atol=0.02)


def test_without_a_recipe_every_sample_comes_once():
    preparation = train_preparation(fake_table(20, 4, 4).split_rows("train"))
    order = preparation.order((3, 20), torch.Generator().manual_seed(0))
    assert not preparation.recipe.augments
    for row in order:
        assert sorted(row.tolist()) == list(range(20))


def augmented(**amounts):
    features = torch.tensor([[1.0, -1.0, 0.0], [3.0, -3.0, 0.0], [10.0, 20.0, 0.0]])
    preparation = TrainPreparation(recipe=Preparation(**amounts), weights=None, alike=torch.tensor([0, 0, 1]))
    rows = torch.arange(3).repeat(4000).reshape(2, -1)
    spread = torch.tensor([1.0, 1.0, 0.0])
    changed = preparation.augmented(features, rows, spread, torch.Generator().manual_seed(1))
    return features[rows], changed, rows


def test_noise_has_its_spread_and_spares_constant_features():
    before, after, _ = augmented(noise=0.3)
    change = (after - before).flatten(0, 1)
    assert change[:, :2].std().item() == pytest.approx(0.3, rel=0.05)
    assert (after[..., 2] == 0).all()


def test_dropout_puts_features_to_their_mean():
    before, after, _ = augmented(dropout=0.25)
    gone = after[..., :2] == 0
    assert gone.float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(after[..., :2][~gone], before[..., :2][~gone])


def test_mixing_stays_within_a_kind():
    _, after, rows = augmented(mix=0.5)
    low, high = after[rows == 0], after[rows == 1]
    assert (low[:, 0] >= 1).all()
    assert (low[:, 0] <= 2).all()
    assert low[:, 0].max() > 1.9
    assert (high[:, 0] >= 2).all()
    assert torch.allclose(low[:, 0], -low[:, 1])
    assert torch.allclose(after[rows == 2], torch.tensor([[10.0, 20.0, 0.0]]).expand((rows == 2).sum(), -1))


@pytest.mark.parametrize(
    "amounts",
    [{"balance": ("kind",)}, {"noise": 0.2}, {"dropout": 0.2}, {"mix": 0.4}],
    ids=lambda item: next(iter(item)),
)
def test_training_follows_each_part(amounts):
    table = fake_table(80, 30, 10)
    latency = fit_latency(table)
    plain = train_controller_policy(table, latency, QUICK)
    changed = train_controller_policy(prepared(table, **amounts), latency, QUICK)
    again = train_controller_policy(prepared(table, **amounts), latency, QUICK)
    name = next(name for name in plain.arrays if plain.arrays[name].ndim > 1)
    assert not np.array_equal(plain.arrays[name], changed.arrays[name])
    np.testing.assert_array_equal(changed.arrays[name], again.arrays[name])
    part = next(iter(amounts))
    assert changed.facts["preparation"][part] in (
        amounts[part],
        list(amounts[part]) if part == "balance" else None,
    )
    # Validation before any training sees the same samples, once each and as they are.
    assert changed.facts["samples"] == plain.facts["samples"] == {"train": 80, "validation": 30}


def test_an_empty_recipe_changes_nothing():
    table = fake_table(60, 20, 10)
    latency = fit_latency(table)
    plain = train_controller_policy(table, latency, QUICK)
    empty = train_controller_policy(prepared(table), latency, QUICK)
    for name, array in plain.arrays.items():
        np.testing.assert_array_equal(array, empty.arrays[name])


def test_validation_samples_are_left_alone(monkeypatch):
    seen = []
    real = TrainPreparation.augmented

    def watch(self, features, *arguments):
        seen.append(features.shape[0])
        return real(self, features, *arguments)

    monkeypatch.setattr(TrainPreparation, "augmented", watch)
    table = prepared(fake_table(80, 30, 10), noise=0.5)
    train_controller_policy(table, fit_latency(table), QUICK)
    assert set(seen) == {80}


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    table = fake_table(60, 20, 10)
    latency = fit_latency(table)
    train_controller_policy(prepared(table, noise=0.1), latency, QUICK, checkpoint_dir=tmp_path)
    with pytest.raises(TrainError, match="belongs to another run, .*preparation.* changed"):
        train_controller_policy(prepared(table, noise=0.2), latency, QUICK, checkpoint_dir=tmp_path)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--balance", "split"], "--balance: got 'split', expected dataset and kind, or one of them"),
        (["--balance", "kind,kind"], "--balance: got 'kind,kind'"),
        (["--augment", "blur=1"], "--augment: got 'blur=1', expected each of"),
        (["--augment", "noise=much"], "--augment: 'noise=much' has no number"),
        (["--augment", "mix=0.7"], "--augment: mix is 0.7, expected a number from 0 to 0.5"),
        (["--augment", "noise=nan"], "--augment: noise is nan, expected a number from 0 to 1"),
        (["--augment", "noise=0.1,noise=0.2"], "--augment: got 'noise=0.2', expected each"),
    ],
)
def test_what_is_refused(words, expected, folder):
    told = message(run("import", folder / "results", *words, "--out", folder / "out"))
    assert expected in told
    assert not (folder / "out").exists()


def test_damaged_recipes_are_refused():
    with pytest.raises(OutcomesError, match="preparation is .'noise': 1., expected"):
        Preparation.from_json({"noise": 1})
    table = prepared(fake_table(20, 4, 4), balance=("kind",))
    table.manifest.options["preparation"]["weights"].pop("plain")
    with pytest.raises(TrainError, match="no weight for train samples of .'plain'."):
        train_preparation(table.split_rows("train"))
    assert parse_preparation(" dataset , kind", "").balance == ("dataset", "kind")
