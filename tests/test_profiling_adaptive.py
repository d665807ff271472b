"""Sweeps of adaptive plans: what they write, and that kills at any moment change neither choices nor outcomes."""

import dataclasses
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fakes import FAKE_SPACE, FakeModel, FakeTask
from paceline.errors import OutcomesError, ProfileError
from paceline.outcomes.store import read_table
from paceline.outcomes.table import OutcomeTable
from paceline.profiling.options import ADAPTIVE_PLANS, ProfileOptions
from paceline.profiling.rounds import next_round
from paceline.profiling.samples import draw_samples, scouts_first, timed_with_scouts
from paceline.profiling.scouted import Scouted
from paceline.profiling.sweep import profile
from test_profiling_sweep import KILLED_SWEEP, Watcher, assert_same

OPTIONS = ProfileOptions(
    plan="successive", configurations=18, bound=0.1, samples=40, timed_samples=20, scout_samples=24,
    shard_samples=4, warmup=1, batch=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> OutcomeTable:
    """What an uninterrupted sweep gives."""
    return profile(FakeModel(), FakeTask(), tmp_path_factory.mktemp("whole"), OPTIONS)


def rounds_of(table: OutcomeTable) -> list[dict]:
    return table.manifest.audit["plan"]["rounds"]


def scout_rows(table: OutcomeTable) -> np.ndarray:
    scouts = scouts_first(draw_samples(FakeTask(), OPTIONS), OPTIONS)[0][:24]
    return np.isin(table.sample_id, [sample.sample_id for sample in scouts])


def test_every_sample_is_scored_under_every_chosen_configuration(expected: OutcomeTable):
    assert not np.isnan(expected.accuracy).any()
    assert expected.accuracy.shape[0] == 40
    timed = ~np.isnan(expected.latency_ms)
    assert timed.all(axis=1).sum() == timed.any(axis=1).sum() == 20
    added = [action for part in rounds_of(expected) for action in part["actions"]]
    assert sorted(added) == expected.actions.tolist()
    assert len(rounds_of(expected)) >= 3
    assert expected.manifest.options["plan"] == "successive"
    assert expected.manifest.audit["rows"] == expected.accuracy.size
    assert expected.manifest.audit["plan"]["scout_samples"] == 24


def test_features_belong_to_their_samples(expected: OutcomeTable):
    model, task = FakeModel(), FakeTask()
    for sample in draw_samples(task, OPTIONS):
        row = expected.sample_id.tolist().index(sample.sample_id)
        overview = model.overview(task.image(sample), sample.question)
        np.testing.assert_array_equal(expected.image_features[row], overview.image_features)
        np.testing.assert_array_equal(expected.question_features[row], overview.question_features)


def test_the_choices_follow_from_the_finished_table(expected: OutcomeTable):
    rows, tested, told = scout_rows(expected), np.zeros(0, np.int64), rounds_of(expected)
    for part in told:
        columns = np.isin(expected.actions, tested)
        scouts = expected.select(rows)
        scouted = Scouted(
            space=FAKE_SPACE,
            actions=expected.actions[columns],
            accuracy=scouts.accuracy[:, columns],
            latency_ms=scouts.latency_ms[:, columns],
            scene=scouts.image_hash,
        ) if len(tested) else None  # fmt: skip
        chosen = next_round(FAKE_SPACE, OPTIONS, scouted)
        assert (chosen.actions.tolist(), chosen.reason) == (part["actions"], part["reason"])
        tested = np.union1d(tested, chosen.actions)


@pytest.mark.parametrize("plan", ADAPTIVE_PLANS)
def test_scouts_are_never_of_the_test_split_and_some_are_timed(plan: str):
    options = ProfileOptions(plan=plan, samples=100, timed_samples=12, scout_samples=20)
    samples, scouts = scouts_first(draw_samples(FakeTask(), options), options)
    assert scouts == 20
    assert {sample.split for sample in samples[:20]} <= {"train", "validation"}
    assert sorted(s.sample_id for s in samples) == sorted(
        s.sample_id for s in draw_samples(FakeTask(), options)
    )
    timed = timed_with_scouts(samples, 20, 12)
    assert len(timed) == 12
    assert sum(place < 20 for place in timed) == 8
    assert timed_with_scouts(samples, 20, 100) == set(range(100))
    assert sum(place < 20 for place in timed_with_scouts(samples, 20, 60)) == 12


def test_all_samples_may_scout(tmp_path: Path):
    options = dataclasses.replace(
        OPTIONS, splits=(0.8, 0.2, 0.0), scout_samples=None, plan="stratified", bound=None
    )
    table = profile(FakeModel(), FakeTask(), tmp_path, options)
    assert table.accuracy.shape == (40, 18)
    assert not np.isnan(table.accuracy).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"scout_samples": 31},
            "scout_samples: got 31, expected 8 or more of the 30 training and validation",
        ),
        (
            {"samples": 9, "timed_samples": 8, "scout_samples": None},
            "scout_samples: got 7, expected 8 or more",
        ),
        ({"configurations": 28}, "configurations: got 28, expected 2 to 27"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path, changes: dict, message: str):
    with pytest.raises(ProfileError, match=message):
        profile(FakeModel(), FakeTask(), tmp_path / "out", dataclasses.replace(OPTIONS, **changes))
    assert not (tmp_path / "out").exists()


def test_progress_names_the_rounds(tmp_path: Path):
    watcher = Watcher()
    profile(FakeModel(), FakeTask(), tmp_path, OPTIONS, watcher)
    names = [name for _, name in watcher.stages]
    assert names[1] == "round 1: 24 samples x 8 configurations"
    assert names[-1].startswith("profiling 16 samples x ")
    assert watcher.advanced == [total for total, _ in watcher.stages]
    assert watcher.messages[0].startswith("round 1: shard 1 of 6: ")


class Slowing(FakeModel):
    """Three times as slow from the second round on."""

    def overview(self, *args):
        made = super().overview(*args)
        return dataclasses.replace(made, elapsed_ms=made.elapsed_ms * self.pace)

    def generate(self, *args):
        made = super().generate(*args)
        times = {name: value * self.pace for name, value in dataclasses.asdict(made.timings).items()}
        return dataclasses.replace(made, timings=type(made.timings)(**times))

    @property
    def pace(self) -> float:
        return 1.0 if self.calls["generate_batch"] <= 24 * 8 else 3.0

    def with_block_ranking(self, ranking):
        return self


def test_a_machine_that_slows_down_between_rounds_changes_no_choice(tmp_path: Path, expected: OutcomeTable):
    table = profile(Slowing(), FakeTask(), tmp_path, OPTIONS)
    told = rounds_of(table)
    assert [part["actions"] for part in told] == [part["actions"] for part in rounds_of(expected)]
    np.testing.assert_allclose([part["slowdown"] for part in told[:-1]], [1.0, *[3.0] * (len(told) - 2)])
    assert np.nanmax(table.latency_ms) > 2.5 * np.nanmax(expected.latency_ms)


def test_ctrl_c_between_rounds_goes_on_with_the_same_choice(tmp_path: Path, expected: OutcomeTable):
    class Interrupted(FakeModel):
        def generate_batch(self, *args):
            if self.calls["generate_batch"] >= 24 * 10:
                raise KeyboardInterrupt("pressed")
            return super().generate_batch(*args)

        def with_block_ranking(self, ranking):
            return self

    with pytest.raises(KeyboardInterrupt, match="pressed"):
        profile(Interrupted(), FakeTask(), tmp_path, OPTIONS)
    with pytest.raises(OutcomesError, match="the sweep is not finished"):
        read_table(tmp_path)
    rounds_done = len(list((tmp_path / "shards").glob("*.parquet"))) // 6
    assert rounds_done >= 1
    model, watcher = FakeModel(), Watcher()
    assert_same(profile(model, FakeTask(), tmp_path, OPTIONS, watcher), expected)
    assert watcher.messages[0] == "round 1: 6 of 6 shards were finished before; going on"
    assert model.calls["generate_batch"] <= 40 * len(expected.actions) - 24 * 8


def test_a_shard_of_other_configurations_is_refused(tmp_path: Path):
    class Interrupted(FakeModel):
        def block_importance(self, overviews, targets, method="loss"):
            self.calls["block_importance"] += 1
            return super().block_importance(overviews, targets, method)

        def generate_batch(self, *args):
            if self.calls["generate_batch"] >= 24 * 8:
                raise KeyboardInterrupt("pressed")
            return super().generate_batch(*args)

        def with_block_ranking(self, ranking):
            return self

    with pytest.raises(KeyboardInterrupt, match="pressed"):
        profile(Interrupted(), FakeTask(), tmp_path, OPTIONS)
    path = tmp_path / "shards" / "00002.outcomes.parquet"
    rows = pq.read_table(path)
    pq.write_table(rows.filter(np.array(rows.column("action").to_pylist()) != 0), path)
    with pytest.raises(
        ProfileError, match="shard 2 holds 7 configurations that are not the 8 which the plan"
    ):
        profile(FakeModel(), FakeTask(), tmp_path, OPTIONS)


def test_sigkill_in_any_round_repeats_no_finished_shard(tmp_path: Path, expected: OutcomeTable):
    out, log, script = tmp_path / "killed", tmp_path / "log", tmp_path / "sweep.py"
    options = dataclasses.asdict(OPTIONS)
    script.write_text(
        KILLED_SWEEP.format(tests=str(Path(__file__).parent), log=str(log), out=str(out), options=options)
    )
    kills = [
        (2, 0.0),
        (8, 0.01),
        (len(rounds_of(expected)) * 6 - 5, 0.02),
    ]  # in the first, second and last pass
    done = []
    for least, delay_s in kills:
        process = subprocess.Popen([sys.executable, str(script)])
        deadline = time.monotonic() + 60
        while len(list((out / "shards").glob("*.outcomes.parquet"))) < least:
            assert process.poll() is None, "the sweep ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        shards = {path: path.read_bytes() for path in (out / "shards").glob("*.outcomes.parquet")}
        assert all(shards[path] == before for path, before in (done[-1] if done else {}).items())
        done.append(shards)
    subprocess.run([sys.executable, str(script)], check=True)
    table = read_table(out)
    assert_same(table, expected)
    assert rounds_of(table) == rounds_of(expected)
    scored = Counter(line for line in log.read_text().splitlines() if line not in ("importance", "ranked"))
    extra = sum(scored.values()) - table.accuracy.size
    assert extra <= len(kills) * OPTIONS.shard_samples * len(table.actions)
