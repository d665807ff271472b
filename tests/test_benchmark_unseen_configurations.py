"""The benchmark of held-out configurations: what is held out, what it is compared with, how it is judged."""

import dataclasses

import numpy as np
import pytest

from benchmarks.unseen_configurations import additive_law, held_out_columns, judge
from fakes import fake_table
from paceline.learning.options import TrainOptions
from paceline.learning.progress import SilentProgress


def test_a_third_is_held_out_but_never_the_cheapest_or_the_full():
    table = fake_table(4, 2, 2)
    draws = [held_out_columns(table, seed) for seed in range(20)]
    for held_out in draws:
        assert len(np.unique(held_out)) == len(held_out) == 9
        assert not {0, 26} & set(held_out.tolist())
    assert len({tuple(held_out) for held_out in draws}) > 15


def test_the_additive_law_recovers_a_sum_over_knobs_from_two_thirds():
    table = fake_table(4, 2, 2)
    levels = table.space.option_indices(table.actions) / 2
    truth = 0.2 + 0.3 * levels[:, 0] + 0.2 * levels[:, 1] ** 2 + 0.1 * levels[:, 2]
    exact = dataclasses.replace(table, accuracy=np.tile(truth, (table.samples, 1)).astype(np.float32))
    kept = np.setdiff1d(np.arange(27), held_out_columns(table, 0))
    np.testing.assert_allclose(additive_law(exact, kept), truth, atol=1e-6)


def test_held_out_configurations_are_judged_with_what_the_others_taught():
    options = TrainOptions(
        algorithm="grpo_warm", hidden=16, members=1, batch_size=20, warm_epochs=18, epochs=1
    )
    value = judge(fake_table(120, 40, 80), 1, options, SilentProgress())
    prediction, choice = value["prediction"], value["choice"]
    assert prediction["embedding"]["correlation"] > prediction["additive_law"]["correlation"] + 0.1
    assert prediction["mean_squared_error_less_by_ci"][0] > 0
    low, high = prediction["embedding"]["correlation_ci"]
    assert low < prediction["embedding"]["correlation"] < high
    reference = choice["contenders"]["joint, profiled"]
    assert reference["gain_mean"] == 0.0
    both = [choice["contenders"][f"embedding, {name}"]["accuracy_mean"] for name in ("all", "profiled")]
    assert choice["untested_gain_mean"] == pytest.approx(both[0] - both[1])
    assert max(value["held_out_choices"]) > 0.05
    assert value["over_upper_latency"][0]["held_out"] < 0.2
