"""The benchmark of rewards: what it judges, and that v1 in another unit of time is v1 on a slower machine."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks.record import RESULTS
from benchmarks.reward_slide import TRAIN, Judge, options_of, over_seeds, slide, train_subset
from benchmarks.reward_slide_plot import LOOKS, save_plot
from fakes import fake_table
from paceline.evaluation import baselines
from paceline.evaluation.times import fit_latency
from paceline.rewards import RewardParams, reward_v1

QUICK = dataclasses.replace(TRAIN, hidden=8, warm_epochs=1, epochs=1, batch_size=64)


def test_v1_in_seconds_is_v1_on_a_slower_machine():
    changes = options_of(50.0)["v1_seconds"]
    accuracy, latency, budget = np.array([0.0, 1.0, 1.0]), np.array([0.02, 0.03, 0.05]), 0.03
    np.testing.assert_allclose(
        reward_v1(accuracy, latency, budget, changes["reward_params"]),
        reward_v1(accuracy, 20 * latency, 20 * budget, RewardParams()),
    )
    assert options_of(50.0)["v1"] == {"reward": "v1", "mask_infeasible": False}


def test_the_command_trains_as_the_committed_result_did():
    recorded = json.loads((RESULTS / "reward_slide.json").read_text())["train_options"]
    if "clip_eps" in recorded:  # one number then, an equal pair now
        recorded["clip_eps_low"] = recorded["clip_eps_high"] = recorded.pop("clip_eps")
    now = TRAIN.to_json()
    assert {name: now[name] for name in recorded} == recorded


def test_a_subset_takes_train_samples_only():
    table = fake_table(60, 20, 30, seed=0)
    part = train_subset(table, 25, seed=1)
    assert {name: int((part.split == name).sum()) for name in ("train", "validation", "test")} == {
        "train": 25,
        "validation": 20,
        "test": 30,
    }
    assert set(part.sample_id) <= set(table.sample_id)
    assert train_subset(table, 100, seed=1).samples == table.samples


def test_the_judge_by_hand():
    table = fake_table(60, 20, 30, seed=0)
    judge = Judge(table, fit_latency(table))
    column = 7
    means = judge.means(lambda test, budget: baselines.static_shares(test, column))
    test = table.select(table.split == "test")
    assert means["accuracy"] == pytest.approx(
        [float(test.accuracy[:, column].mean())] * len(judge.budgets_ms)
    )
    latency = float(judge.test.mean_ms[:, column].mean())
    assert means["latency_share"] == pytest.approx([latency / budget for budget in judge.budgets_ms])


def test_every_reward_is_judged_and_drawn(tmp_path):
    said = []
    found = slide(fake_table(60, 20, 30, seed=0), 40, 1, QUICK, said.append)
    assert set(found["rewards"]) == set(options_of(1.0)) == set(LOOKS) - {"best_static"}
    assert len(said) == len(found["rewards"])
    for line in (*found["rewards"].values(), found["best_static"]):
        assert len(line["accuracy"]) == len(line["latency_share"]) == len(found["budgets_ms"])
        assert all(0 <= value <= 1 for value in line["accuracy"])
    pytest.importorskip("matplotlib")
    assert "</svg>" in save_plot(found, tmp_path / "dark.svg", "dark").read_text()


def test_seeds_become_means_and_deviations():
    parts = [
        {"accuracy": [0.5, 1.0], "latency_share": [0.2, 0.4]},
        {"accuracy": [0.7, 1.0], "latency_share": [0.4, 0.4]},
    ]
    summary = over_seeds(parts)
    assert summary["accuracy"] == pytest.approx([0.6, 1.0])
    assert summary["accuracy_deviation"] == pytest.approx([0.2 / 2**0.5, 0.0])
    assert summary["latency_share_mean"] == pytest.approx(0.35)
    assert over_seeds(parts[:1])["accuracy_deviation"] == [0.0, 0.0]
