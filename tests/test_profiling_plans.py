"""Plans of configurations, and which samples a sweep draws and times."""

import dataclasses
import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import FakeTask
from paceline.errors import ProfileError
from paceline.knobs import SEED_SPACE, Knob, KnobSpace
from paceline.profiling.options import ProfileOptions
from paceline.profiling.plans import plan_actions
from paceline.profiling.samples import draw_samples, shared_out, timed_positions
from paceline.tasks.protocol import Sample


def test_full_tests_everything():
    assert plan_actions(SEED_SPACE, "full", None).tolist() == list(range(432))
    assert plan_actions(SEED_SPACE, "full", 432).tolist() == list(range(432))


def test_balanced_is_an_even_grid_with_both_ends():
    actions = plan_actions(SEED_SPACE, "balanced", 48)
    indices = SEED_SPACE.option_indices(actions)
    assert [np.unique(column).tolist() for column in indices.T] == [[0, 2, 5], [0, 2, 5, 7], [0, 3, 5, 8]]
    assert len(actions) == 3 * 4 * 4


def test_balanced_fills_what_a_grid_leaves():
    actions = plan_actions(SEED_SPACE, "balanced", 50)
    assert len(set(actions.tolist())) == 50
    assert set(plan_actions(SEED_SPACE, "balanced", 48).tolist()) < set(actions.tolist())


@pytest.mark.parametrize("seed", range(5))
def test_a_hypercube_uses_every_option_about_equally(seed: int):
    actions = plan_actions(SEED_SPACE, "lhs", 48, seed)
    for column, size in zip(SEED_SPACE.option_indices(actions).T, SEED_SPACE.shape, strict=True):
        inner = np.bincount(column, minlength=size)[1:-1]
        assert inner.min() >= 40 // size - 2
        assert inner.max() <= math.ceil(40 / size) + 3


def test_a_hypercube_depends_on_the_seed_only():
    first = plan_actions(SEED_SPACE, "lhs", 48, 1)
    assert first.tolist() == plan_actions(SEED_SPACE, "lhs", 48, 1).tolist()
    assert first.tolist() != plan_actions(SEED_SPACE, "lhs", 48, 2).tolist()


@pytest.mark.parametrize("plan", ["balanced", "lhs"])
def test_one_knob_at_a_time_extremes_are_tested_when_there_is_room(plan: str):
    configurations = [SEED_SPACE.configuration(a) for a in plan_actions(SEED_SPACE, plan, 48).tolist()]
    for knob in SEED_SPACE.knobs:
        assert SEED_SPACE.full | {knob.name: knob.options[0]} in configurations
        assert SEED_SPACE.cheapest | {knob.name: knob.options[-1]} in configurations


spaces = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(
    lambda sizes: KnobSpace(tuple(Knob(name=f"k{i}", options=tuple(range(s))) for i, s in enumerate(sizes)))
)


@settings(deadline=None)
@given(space=spaces, plan=st.sampled_from(["balanced", "lhs"]), data=st.data())
def test_any_plan_has_the_number_asked_for_and_both_ends(space: KnobSpace, plan: str, data: st.DataObject):
    count = data.draw(st.integers(min(2, space.size), space.size))
    actions = plan_actions(space, plan, count, data.draw(st.integers(0, 9)))
    assert len(actions) == count
    assert (np.diff(actions) > 0).all()
    assert actions.dtype == np.int64
    assert (actions[0], actions[-1]) == (0, space.size - 1)


@pytest.mark.parametrize(
    ("plan", "configurations", "message"),
    [
        ("random", 48, "plan: got 'random', expected one of"),
        ("full", 48, "plan full tests all 432, got 48"),
        ("lhs", 1, "configurations: got 1, expected 2 to 432"),
        ("balanced", 433, "configurations: got 433, expected 2 to 432"),
    ],
)
def test_an_impossible_plan_is_refused(plan: str, configurations: int, message: str):
    with pytest.raises(ProfileError, match=message):
        plan_actions(SEED_SPACE, plan, configurations)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plan": "all"}, "plan: got 'all'"),
        ({"samples": 0}, "samples: got 0, expected an integer from 1 on"),
        ({"samples": 2.5}, "samples: got 2.5"),
        ({"repeats": True}, "repeats: got True"),
        ({"configurations": 0}, "configurations: got 0, expected an integer from 1 on"),
        ({"shard_samples": -1}, "shard_samples: got -1"),
        ({"max_new_tokens": 0}, "max_new_tokens: got 0"),
        ({"samples": 10, "timed_samples": 11}, "timed_samples: got 11, expected at most the 10 samples"),
        ({"splits": (0.5, 0.5)}, "splits: got .* expected shares of train, validation and test"),
        ({"splits": (0.5, 0.6, -0.1)}, "splits: got"),
        ({"splits": (0.5, float("nan"), 0.5)}, "splits: got"),
        ({"splits": (0.5, 0.2, 0.2)}, "add up to 0.9, expected 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str):
    with pytest.raises(ProfileError, match=message):
        ProfileOptions(**options)


@settings(deadline=None)
@given(total=st.integers(0, 1000), shares=st.lists(st.floats(0.01, 1), min_size=1, max_size=5))
def test_shared_out_adds_up_and_is_within_one(total: int, shares: list[float]):
    counts = shared_out(total, shares)
    assert sum(counts) == total
    for count, share in zip(counts, shares, strict=True):
        assert abs(count - share / sum(shares) * total) < 1 + 1e-6


def test_samples_come_from_the_splits_in_their_shares_and_mixed():
    samples = draw_samples(FakeTask(), ProfileOptions(samples=40, timed_samples=0))
    assert Counter(sample.split for sample in samples) == {"train": 24, "validation": 6, "test": 10}
    assert {sample.split for sample in samples[:24]} == {"train", "validation", "test"}
    assert draw_samples(FakeTask(), ProfileOptions(samples=40, timed_samples=0)) == samples


def test_questions_about_one_image_stay_side_by_side():
    samples = draw_samples(FakeTask(), ProfileOptions(samples=40, timed_samples=0))
    images = [sample.image_hash for sample in samples]
    changes = sum(before != after for before, after in itertools.pairwise(images))
    assert changes == len(set(images)) - 1 == 19
    assert images != sorted(images)


def test_timed_samples_come_from_every_split_and_from_all_of_the_sweep():
    samples = draw_samples(FakeTask(), ProfileOptions(samples=80))
    positions = timed_positions(samples, 20)
    assert Counter(samples[p].split for p in positions) == {"train": 12, "validation": 3, "test": 5}
    assert min(positions) < 20
    assert max(positions) >= 60
    assert timed_positions(samples, 0) == set()
    assert timed_positions(samples, 80) == set(range(80))


class OddTask(FakeTask):
    """A task whose samples of one split are changed by the test."""

    change: dict = {}  # noqa: RUF012

    def samples(self, split: str, count: int, seed: int = 0) -> list[Sample]:
        samples = super().samples(split, count, seed)
        return [dataclasses.replace(s, **self.change) for s in samples] if split == "test" else samples


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "train"}, "of split test says it is of 'train'"),
        ({"sample_id": "train-0-0"}, "sample ids repeat"),
        ({"image_hash": "train-0-0"}, "is in the splits test and train; split by image"),
    ],
)
def test_a_task_that_mixes_its_splits_is_refused(change: dict, message: str):
    task = OddTask()
    task.change = change
    with pytest.raises(ProfileError, match=message):
        draw_samples(task, ProfileOptions(samples=8, timed_samples=0))


def test_all_samples_are_timed_where_there_are_few():
    assert ProfileOptions(samples=40).timed == 40
    assert ProfileOptions(samples=4000).timed == 96
    assert ProfileOptions(samples=40, timed_samples=0).timed == 0


def test_a_task_with_too_few_samples_is_refused():
    class Short(FakeTask):
        def samples(self, split: str, count: int, seed: int = 0) -> list[Sample]:
            return super().samples(split, min(count, 3), seed)

    with pytest.raises(ProfileError, match="split train gave 3 samples, expected 5"):
        draw_samples(Short(), ProfileOptions(samples=8, timed_samples=0))
