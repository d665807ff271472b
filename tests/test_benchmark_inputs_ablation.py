"""The ablation of inputs on a table made by formula: what it compares, and what it leaves out."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.generalisation import DATASETS
from benchmarks.inputs_ablation import RARE, VARIANTS, Judged, ablate, compared, uneven
from fakes import fake_table
from paceline.learning.options import TrainOptions
from paceline.learning.progress import SilentProgress
from paceline.outcomes.bootstrap import SceneBootstrap
from paceline.outcomes.store import write_table

QUICK = TrainOptions(algorithm="grpo_warm", hidden=8, members=1, warm_epochs=1, epochs=1, batch_size=64)


def test_options_are_compared_with_the_default_and_missing_sets_are_listed(tmp_path):
    write_table(tmp_path, fake_table(60, 30, 40))
    names = ["reduction: learned 32", "budget: class", "image: statistics"]
    found = ablate(tmp_path, names, QUICK, [0, 1], SilentProgress())
    assert list(found["variants"]) == ["default", "reduction: learned 32", "budget: class"]
    assert "image.statistics" in found["left_out"]["image: statistics"]
    for mode in ("hard", "average"):
        assert found["variants"]["default"][mode]["over_default"] == 0.0
        # 4 features are fewer than 32 numbers: nothing is reduced
        assert found["variants"]["reduction: learned 32"][mode]["over_default"] == 0.0
        changed = found["variants"]["budget: class"][mode]
        low, high = changed["over_default_ci"]
        assert low <= changed["over_default"] <= high
    assert found["variants"]["budget: class"]["hard"]["over_default"] != 0.0


def test_balance_is_judged_on_uneven_samples(tmp_path):
    kinds = [kind for part in DATASETS.values() for kind in part]
    table = fake_table(240, 36, 48)
    table = replace(table, kind=np.resize(kinds, table.samples))
    thin = uneven(table)
    assert sorted(set(thin.dataset)) == sorted(DATASETS)
    for name in DATASETS:
        whole, kept = ((one.split == "train") & np.isin(one.kind, DATASETS[name]) for one in (table, thin))
        share = kept.sum() / whole.sum()
        assert (0 < share < 0.3) if name in RARE else share == 1.0
    assert (thin.split != "train").sum() == (table.split != "train").sum()
    write_table(tmp_path, table)
    found = ablate(tmp_path, ["balance: data set"], QUICK, [0], SilentProgress())["variants"]
    assert found["balance: data set"]["hard"]["over_default"] != 0.0


def test_differences_by_hand():
    """Two seeds, four samples: +1 on one sample of one seed is 1/8 on the mean, and 1/4 and 0 over the seeds."""
    base = np.array([[0.0, 1.0, 0.0, 1.0]] * 2)
    better = base.copy()
    better[0, 0] = 1.0
    first, second = (
        Judged(accuracy={"hard": rows, "average": base}, parameters=1, seconds=0.0) for rows in (better, base)
    )
    value = compared(first, second, SceneBootstrap(np.arange(4), replicates=200))
    assert value["hard"]["over_default"] == pytest.approx(1 / 8)
    assert value["hard"]["over_default_sd_of_seeds"] == pytest.approx(0.25 / 2**0.5)
    assert value["hard"]["over_default_ci"][0] == 0.0
    assert value["average"]["over_default"] == 0.0


def test_every_variant_is_a_valid_set_of_options():
    for changes in VARIANTS.values():
        TrainOptions(**{"algorithm": "grpo_warm", **changes})
