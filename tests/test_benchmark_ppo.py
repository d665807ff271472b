"""The comparison with PPO: requests pay what the table says, and ratios are those of first arrivals."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from benchmarks.generated_table import SPACE, write_generated
from benchmarks.ppo_requests import MISSED, Requests
from benchmarks.record import RESULTS
from benchmarks.time_to_target import Curve, Stopwatch, compared
from benchmarks.training_scale import ALGORITHM, growth
from fakes import fake_table
from paceline.evaluation.times import fit_latency
from paceline.learning.contexts import ContextRanges, context_ranges
from paceline.learning.dataset import training_problems
from paceline.learning.groups import GroupSource
from paceline.learning.inputs import fit_inputs
from paceline.learning.options import TrainOptions
from paceline.learning.train import spec_of
from paceline.outcomes.store import read_table

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("stable_baselines3") is None, reason="needs the extra `bench`"
)


@pytest.fixture(scope="module")
def world() -> tuple[GroupSource, ContextRanges]:
    table = fake_table(80, 20, 0)
    train, _ = training_problems(table, fit_latency(table))
    options, ranges = TrainOptions(algorithm="grpo_scratch"), context_ranges(train)
    spec = spec_of(table, train, ranges, options)
    inputs = fit_inputs(train.features, table.image_width, table.feature_choice)
    return GroupSource(train, spec, table.space, options, inputs), ranges


def test_requests_pay_what_groups_say(world):
    source, ranges = world
    requests = Requests(source, ranges, seed=3)
    seen = requests.draw(400)
    groups = source.groups(torch.from_numpy(requests.rows), requests.budget, requests.price)
    np.testing.assert_array_equal(seen, torch.cat([groups.features, groups.codes], dim=-1).numpy())
    actions = np.random.default_rng(0).integers(0, 27, 400)
    rows = torch.arange(400)
    feasible = groups.feasible[rows, actions].numpy()
    assert 0.2 < feasible.mean() < 0.95
    expected = np.where(feasible, groups.rewards[rows, actions].numpy(), MISSED)
    np.testing.assert_allclose(requests.rewards(actions), expected, atol=1e-6)
    assert (requests.budget < np.inf).float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_ratios_are_of_first_arrivals():
    ours = [Curve([1.0, 2.0, 3.0], [9.0, 9.5, 9.9], [0.1, 0.5, 0.4]), Curve([4.0], [4.0], [0.6])]
    theirs = [Curve([10.0, 60.0], [11.0, 70.0], [0.3, 0.5]), Curve([30.0, 40.0], [30.0, 40.0], [0.5, 0.7])]
    line = compared(ours, theirs, 0.5, "processor")
    assert (line["paceline"], line["ppo"]) == ([2.0, 4.0], [60.0, 30.0])
    assert line["ratio"] == 45 / 3
    assert line["lowest_ratio"] == 30 / 4
    assert compared(ours, theirs, 0.5, "wall")["paceline"] == [9.5, 4.0]
    assert compared(ours, theirs, 0.65, "processor")["ratio"] is None


def test_the_clock_stands_while_a_curve_is_judged():
    watch, curve = Stopwatch(), Curve()

    def judge() -> float:
        total = 0.0
        while Stopwatch._now()[0] - watch.started[0] < 0.2:
            total += np.random.default_rng(0).random(1000).sum()
        return total

    watch.note(curve, judge)
    watch.note(curve, lambda: 1.0)
    assert curve.processor[1] < 0.1
    assert curve.reward[1] == 1.0


def test_growth_of_linear_time_is_one():
    lines = [
        {
            "samples": samples,
            "memory_gib": samples / 1e5,
            "outcome_epoch_processor_seconds": 1e-4 * samples,
            "grpo_epoch_processor_seconds": 1e-9 * samples**2,
            "outcome_epoch_seconds": 1e-6 * samples**1.5,
            "grpo_epoch_seconds": 1e-14 * samples**3,
        }
        for samples in (12_500, 25_000, 900_000)
    ]
    found = growth(lines)
    assert (found["outcome_processor_exponent"], found["grpo_processor_exponent"]) == (1.0, 2.0)
    assert (found["outcome_wall_exponent"], found["grpo_wall_exponent"]) == (1.5, 3.0)
    assert not found["within_memory_limit"]
    assert growth(lines[:1]) == {"within_memory_limit": True}


def test_the_committed_exponents_are_those_of_the_committed_seconds():
    recorded = json.loads((RESULTS / "training_scale.json").read_text())
    assert recorded["growth"] == growth(recorded["sizes"])
    assert recorded["algorithm"] == ALGORITHM


def test_the_generated_table_can_be_learned_from(tmp_path):
    actions = np.unique(np.linspace(0, SPACE.size - 1, 20).astype(int)).tolist()
    table = read_table(write_generated(tmp_path, 3000, actions=actions))
    assert table.actions.tolist() == actions
    assert [int((table.split == name).sum()) for name in ("train", "validation", "test")] == [2400, 300, 300]
    assert np.isfinite(table.latency_ms).all()
    means = table.accuracy.mean(axis=0)
    by_kind = [table.accuracy[table.kind == kind].mean(axis=0) for kind in np.unique(table.kind)]
    assert means[-1] > means[0] + 0.3  # dearer is better on the whole,
    cheaper = table.latency_ms.mean(axis=0) < np.median(table.latency_ms.mean(axis=0))
    static = means[cheaper].max()
    assert (
        np.mean([found[cheaper].max() for found in by_kind]) > static + 0.03
    )  # but what pays depends on the kind


@needs_library
@pytest.mark.filterwarnings("ignore:.*A Box observation space m.*imum value is")  # features have no bounds
def test_the_environment_keeps_gymnasiums_contract(world):
    from gymnasium.utils.env_checker import check_env  # pyright: ignore[reportMissingImports]

    from benchmarks.ppo_env import OutcomeEnv

    check_env(OutcomeEnv(*world), skip_render_check=True)


@needs_library
def test_many_requests_at_once_are_the_requests_one_by_one(world):
    from benchmarks.ppo_env import OutcomeBatch

    batch, requests = OutcomeBatch(*world, count=16, seed=5), Requests(*world, seed=5)
    np.testing.assert_array_equal(batch.reset(), requests.draw(16))
    actions = np.arange(16)
    expected = requests.rewards(actions)
    batch.step_async(actions)
    seen, rewards, done, infos = batch.step_wait()
    np.testing.assert_array_equal(rewards, expected)
    np.testing.assert_array_equal(seen, requests.draw(16))
    assert done.all()
    assert len(infos) == 16
