"""Sweeps: what they record, and that neither kills nor full disks nor changed options spoil them."""

import dataclasses
import errno
import os
import platform
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fakes import FAKE_SPACE, IMAGE_WIDTH, FakeModel, FakeTask, traits
from paceline.errors import OutcomesError, ProfileError
from paceline.outcomes.files import exclusive
from paceline.outcomes.store import read_table
from paceline.outcomes.table import CELL_FIELDS, SAMPLE_FIELDS, OutcomeTable
from paceline.profiling.options import ProfileOptions
from paceline.profiling.samples import draw_samples
from paceline.profiling.sweep import profile

SMALL = ProfileOptions(configurations=12, samples=20, timed_samples=8, shard_samples=4, warmup=1, batch=3)


def assert_same(a: OutcomeTable, b: OutcomeTable) -> None:
    for name in ("actions", "features", *SAMPLE_FIELDS, *CELL_FIELDS):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> OutcomeTable:
    """What an uninterrupted sweep gives."""
    return profile(FakeModel(), FakeTask(), tmp_path_factory.mktemp("whole"), SMALL)


class Watcher:
    """Progress that remembers."""

    def __init__(self) -> None:
        self.stages: list[tuple[int, str]] = []
        self.advanced: list[int] = []
        self.messages: list[str] = []

    def start(self, total: int, description: str) -> None:
        self.stages.append((total, description))
        self.advanced.append(0)

    def advance(self, n: int) -> None:
        self.advanced[-1] += n

    def message(self, text: str) -> None:
        self.messages.append(text)


def test_a_sweep_records_what_the_model_does(tmp_path: Path):
    model, task = FakeModel(), FakeTask()
    table = profile(model, task, tmp_path, SMALL)
    assert table.accuracy.shape == (20, 12)
    assert {s: int((table.split == s).sum()) for s in ("train", "validation", "test")} == {
        "train": 12,
        "validation": 3,
        "test": 5,
    }
    samples = {s.sample_id: s for split in ("train", "validation", "test") for s in task.samples(split, 12)}
    timed = ~np.isnan(table.latency_ms)
    assert timed.all(axis=1).sum() == timed.any(axis=1).sum() == 8
    for i, sample_id in enumerate(table.sample_id.tolist()):
        sample = samples[sample_id]
        overview = model.overview(task.image(sample), sample.question)
        np.testing.assert_array_equal(table.image_features[i], overview.image_features)
        np.testing.assert_array_equal(table.question_features[i], overview.question_features)
        assert (table.kind[i], table.image_hash[i], table.question[i]) == (
            sample.kind,
            sample.image_hash,
            sample.question,
        )
        for j, action in enumerate(table.actions.tolist()):
            generation = model.generate(overview, FAKE_SPACE.configuration(action), 4)
            assert table.accuracy[i, j] == task.score(sample, generation.text)
            assert table.tiles[i, j] == generation.workload.tiles
            assert table.vision_tokens[i, j] == generation.workload.vision_tokens
            assert table.prompt_tokens[i, j] == generation.workload.prompt_tokens
            if timed[i, j]:
                whole = np.float32(overview.elapsed_ms + generation.timings.total_ms)
                first = np.float32(overview.elapsed_ms + generation.timings.first_token_ms)
                assert (table.latency_ms[i, j], table.first_token_ms[i, j]) == (whole, first)
                assert table.output_tokens[i, j] == len(generation.tokens)
            else:
                assert np.isnan([table.first_token_ms[i, j], table.output_tokens[i, j]]).all()


def test_the_manifest_says_what_was_measured(tmp_path: Path):
    manifest = profile(FakeModel(), FakeTask(), tmp_path, SMALL).manifest
    assert manifest.block_ranking == [0, *range(15, 0, -1)]
    assert manifest.task == "fake"
    assert manifest.model == {"name": "fake", "weights": "fake", "blocks": 16}
    assert manifest.options == dataclasses.asdict(SMALL) | {"splits": [0.6, 0.15, 0.25]}
    assert manifest.image_width == IMAGE_WIDTH
    assert manifest.hardware["cpus"] >= 1
    assert {"python", "numpy"} <= set(manifest.software)
    assert manifest.software["system"] == platform.system()
    expected = {"samples": 20, "configurations": 12, "rows": 240, "timed_samples": 8, "timed_rows": 96}
    assert {name: manifest.audit[name] for name in expected} == expected
    assert manifest.audit["clock_cost_ms"] > 0
    assert manifest.audit["spikes"] == 0
    assert manifest.audit["disagreement"] == 0
    assert manifest.audit["worst_spike"] < 2
    assert not (tmp_path / "shards").exists()


def test_the_sweep_runs_the_model_with_the_measured_ranking(tmp_path: Path):
    seen = []

    class Watched(FakeModel):
        def with_block_ranking(self, ranking) -> FakeModel:
            seen.append(list(ranking))
            return super().with_block_ranking(ranking)

    profile(Watched(), FakeTask(), tmp_path / "ranked", SMALL)
    assert seen == [[0, *range(15, 0, -1)]]
    unranked = dataclasses.replace(SMALL, importance_samples=0)
    assert profile(Watched(), FakeTask(), tmp_path / "unranked", unranked).manifest.block_ranking == []
    own = Watched(ranking=[0, 2, 1, *range(3, 16)])
    assert profile(own, FakeTask(), tmp_path / "own", SMALL).manifest.block_ranking == []
    assert own.calls["block_importance"] == 0
    asked = dataclasses.replace(SMALL, importance_samples=4, importance="similarity")
    table = profile(own, FakeTask(), tmp_path / "asked", asked)
    assert own.calls["block_importance"] == 1
    assert len(seen) == 2
    recorded = table.manifest.audit["block_importance"]
    assert recorded == {
        "method": "similarity",
        "samples": 4,
        "ranking": table.manifest.block_ranking,
        "scores": [None, *(block / 16 for block in range(1, 16))],
    }


def test_phases_and_repeats_are_in_the_file(tmp_path: Path):
    table = profile(FakeModel(), FakeTask(), tmp_path, dataclasses.replace(SMALL, repeats=3))
    rows = pq.read_table(tmp_path / "outcomes.parquet")
    assert Counter(rows.column("repeat").to_pylist()) == {0: 240, 1: 96, 2: 96}
    latency, *phases = (
        rows.column(name).to_numpy()
        for name in ("latency_ms", "overview_ms", "vision_ms", "prefill_ms", "decode_ms")
    )
    np.testing.assert_allclose(latency, sum(phases), rtol=1e-5)
    assert rows.column("latency_ms").null_count == 144
    assert np.isnan(table.latency_ms).sum() == 144


def test_spikes_are_reported_and_kept(tmp_path: Path):
    table = profile(FakeModel(spike_every=40), FakeTask(), tmp_path, SMALL)
    assert 1 <= table.manifest.audit["spikes"] <= 4
    assert table.manifest.audit["worst_spike"] == pytest.approx(10, rel=0.3)
    assert np.nanmax(table.latency_ms) > 30


def test_answers_that_differ_in_a_batch_are_reported(tmp_path: Path):
    class Drifting(FakeModel):
        def generate_batch(self, overviews, configuration, max_new_tokens):
            return ["wrong"] * len(overviews)

        def with_block_ranking(self, ranking):
            return self

    table = profile(Drifting(), FakeTask(), tmp_path, SMALL)
    timed = pq.read_table(tmp_path / "outcomes.parquet").column("timed_accuracy").drop_null().to_numpy()
    assert (table.accuracy == 0).all()
    assert table.manifest.audit["disagreement"] == pytest.approx(timed.mean())
    assert timed.mean() > 0.3


def test_progress_counts_every_answer_and_gives_rate_and_time_left(tmp_path: Path):
    watcher, ticks = Watcher(), iter(np.arange(1_000_000) * 0.5)
    profile(FakeModel(), FakeTask(), tmp_path, SMALL, watcher, clock=lambda: float(next(ticks)))
    assert watcher.stages == [(32, "block importance"), (336, "profiling 20 samples x 12 configurations")]
    assert watcher.advanced == [32, 336]
    assert len(watcher.messages) == 5
    assert watcher.messages[0].startswith("shard 1 of 5: ")
    assert "answers/s, 0 min 0" in watcher.messages[0]
    assert watcher.messages[-1] == f"shard 5 of 5: {336 / 2.5:.1f} answers/s, 0 min 00 s left"


def test_the_same_call_on_a_finished_directory_measures_nothing(tmp_path: Path):
    first = profile(FakeModel(), FakeTask(), tmp_path, SMALL)
    model, watcher = FakeModel(), Watcher()
    again = profile(model, FakeTask(), tmp_path, SMALL, watcher)
    assert_same(first, again)
    assert model.calls == {"overview": 0, "generate": 0, "generate_batch": 0, "block_importance": 0}
    assert "finished already" in watcher.messages[0]


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 24}, "samples was 20, is now 24"),
        ({"seed": 1, "batch": 2}, "batch was 3, is now 2; seed was 0, is now 1"),
        ({"configurations": 10}, "configurations was 12, is now 10"),
    ],
)
def test_other_options_are_refused(tmp_path: Path, finished: bool, changes: dict, message: str):
    if finished:
        profile(FakeModel(), FakeTask(), tmp_path, SMALL)
    else:
        interrupt(tmp_path)
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
    with pytest.raises(ProfileError, match=f"holds another sweep: {message}. Use the same options"):
        profile(FakeModel(), FakeTask(), tmp_path, dataclasses.replace(SMALL, **changes))
    assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before


def test_another_model_or_task_is_refused(tmp_path: Path):
    class Other(FakeModel):
        def describe(self):
            return super().describe() | {"weights": "other"}

    profile(FakeModel(), FakeTask(), tmp_path, SMALL)
    with pytest.raises(ProfileError, match="model weights was 'fake', is now 'other'"):
        profile(Other(), FakeTask(), tmp_path, SMALL)
    with pytest.raises(ProfileError, match="task was 'fake', is now 'quiz'"):
        profile(FakeModel(), FakeTask(name="quiz"), tmp_path, SMALL)


def interrupt(out: Path, call: int = 60) -> None:
    """Press Ctrl-C in the middle of a sweep."""

    class Interrupted(FakeModel):
        def generate(self, *args, **kwargs):
            if self.calls["generate"] >= call:
                raise KeyboardInterrupt("pressed")
            return super().generate(*args, **kwargs)

        def with_block_ranking(self, ranking):
            return self

    with pytest.raises(KeyboardInterrupt, match="pressed"):
        profile(Interrupted(), FakeTask(), out, SMALL)


def shard_files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "shards").glob("*.parquet")}


def test_ctrl_c_leaves_finished_shards_and_the_sweep_goes_on(tmp_path: Path, expected: OutcomeTable):
    out = tmp_path / "interrupted"
    interrupt(out)
    before = shard_files(out)
    assert 1 <= len(before) < 5
    with pytest.raises(OutcomesError, match="the sweep is not finished; run the same"):
        read_table(out)
    model, watcher = FakeModel(), Watcher()
    assert_same(profile(model, FakeTask(), out, SMALL, watcher), expected)
    assert model.calls["block_importance"] == 0
    assert model.calls["generate_batch"] == (5 - len(before)) * 4 * 12
    assert watcher.messages[0] == f"{len(before)} of 5 shards were finished before; going on"
    assert watcher.advanced[-1] == watcher.stages[-1][0]


@pytest.mark.parametrize(
    "target", ["paceline.outcomes.shards.pq.write_table", "paceline.outcomes.store.save_file"]
)
def test_a_full_disk_leaves_finished_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, expected: OutcomeTable
):
    out = tmp_path / "full"
    module, name = target.rsplit(".", 1)
    real = pq.write_table if name == "write_table" else __import__("safetensors.numpy").numpy.save_file

    def write(value: object, path: Path, *args: object) -> None:
        if "00002" in path.name:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(value, path, *args)  # pyright: ignore

    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.{name}", write)
        with pytest.raises(OSError, match="No space left on device"):
            profile(FakeModel(), FakeTask(), out, SMALL)
    before = shard_files(out)
    assert sorted(before) == ["00000.outcomes.parquet", "00001.outcomes.parquet"]
    assert not list(out.rglob("*.tmp"))
    model = FakeModel()
    assert_same(profile(model, FakeTask(), out, SMALL), expected)
    assert model.calls["generate_batch"] == 3 * 4 * 12


def test_a_full_disk_at_the_end_repeats_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("paceline.outcomes.shards.write_row_groups", fail)
        with pytest.raises(OSError, match="No space left"):
            profile(FakeModel(), FakeTask(), tmp_path, SMALL)
    assert len(shard_files(tmp_path)) == 5
    model = FakeModel()
    profile(model, FakeTask(), tmp_path, SMALL)
    assert model.calls["generate"] == model.calls["generate_batch"] == 0


def test_a_damaged_shard_is_named(tmp_path: Path):
    interrupt(tmp_path)
    path = tmp_path / "shards" / "00000.outcomes.parquet"
    os.truncate(path, 100)
    with pytest.raises(
        OutcomesError, match=r"00000\.outcomes\.parquet: cannot be read .*truncated or damaged"
    ):
        profile(FakeModel(), FakeTask(), tmp_path, SMALL)


def test_samples_that_changed_since_the_sweep_began_are_refused(tmp_path: Path):
    class Reworded(FakeTask):
        def samples(self, split: str, count: int, seed: int = 0):
            return [
                dataclasses.replace(s, question=s.question + "?") for s in super().samples(split, count, seed)
            ]

    interrupt(tmp_path)
    with pytest.raises(ProfileError, match=r"other samples than when the sweep began \(question differs\)"):
        profile(FakeModel(), Reworded(), tmp_path, SMALL)


def test_two_sweeps_in_one_directory_are_refused(tmp_path: Path):
    with exclusive(tmp_path), pytest.raises(OutcomesError, match="another process is writing here"):
        profile(FakeModel(), FakeTask(), tmp_path, SMALL)


def test_a_file_or_foreign_outcomes_in_the_way_are_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ProfileError, match="this is a file, expected a directory"):
        profile(FakeModel(), FakeTask(), tmp_path / "file", SMALL)
    (tmp_path / "outcomes.parquet").write_text("")
    with pytest.raises(ProfileError, match="has outcomes without a manifest"):
        profile(FakeModel(), FakeTask(), tmp_path, SMALL)


def broken(**methods: object) -> FakeModel:
    return type("Broken", (FakeModel,), {"with_block_ranking": lambda self, ranking: self, **methods})()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (broken(generate_batch=lambda self, o, c, m: ["x"]), "generate_batch gave 1 answers to 3 requests"),
        (
            broken(
                workload=lambda self, o, c: dataclasses.replace(
                    FakeModel.workload(self, o, c), tiles=self.calls["generate"]
                )
            ),
            "was announced as .* and ran as .*workload must be exact",
        ),
        (
            broken(
                overview=lambda self, i, p: dataclasses.replace(
                    FakeModel.overview(self, i, p), image_features=np.full(3, np.nan)
                )
            ),
            "features have widths .* or are not finite",
        ),
    ],
)
def test_a_model_that_breaks_its_protocol_is_refused(tmp_path: Path, model: FakeModel, message: str):
    with pytest.raises(ProfileError, match=message):
        profile(model, FakeTask(), tmp_path, SMALL)


@pytest.mark.parametrize("score", [57.0, float("nan"), -0.1])
def test_a_score_outside_zero_to_one_is_refused(tmp_path: Path, score: float):
    class Percent(FakeTask):
        def score(self, sample, text: str) -> float:
            return score

    with pytest.raises(ProfileError, match="expected 0 to 1; divide percentages by 100"):
        profile(FakeModel(), Percent(), tmp_path, SMALL)


KILLED_SWEEP = """
import dataclasses, os, sys, time
from pathlib import Path

sys.path.insert(0, {tests!r})
from fakes import FakeModel, FakeTask
from paceline.profiling.options import ProfileOptions
from paceline.profiling.samples import draw_samples
from paceline.profiling.sweep import profile

LOG = os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

class Logged(FakeModel):
    def generate_batch(self, overviews, configuration, max_new_tokens):
        time.sleep(0.002)
        for overview in overviews:
            os.write(LOG, f"{{overview.state[0].key}} {{overview.state[2]}}\\n".encode())
        return super().generate_batch(overviews, configuration, max_new_tokens)

    def with_block_ranking(self, ranking):
        os.write(LOG, b"ranked\\n")
        return self

    def block_importance(self, overviews, targets, method="loss"):
        os.write(LOG, b"importance\\n")
        return super().block_importance(overviews, targets, method)

profile(Logged(), FakeTask(), Path({out!r}), ProfileOptions(**{options!r}))
"""


def test_sigkill_at_any_moment_loses_at_most_one_shard(tmp_path: Path, expected: OutcomeTable):
    out, log = tmp_path / "killed", tmp_path / "log"
    script = tmp_path / "sweep.py"
    script.write_text(
        KILLED_SWEEP.format(
            tests=str(Path(__file__).parent), log=str(log), out=str(out), options=dataclasses.asdict(SMALL)
        )
    )
    finished: list[tuple[list[int], int]] = []
    kills = [(1, 0.0), (2, 0.02), (3, 0.05)]
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
        shards = [int(name[:5]) for name in shard_files(out)]
        finished.append((shards, len(log.read_text().splitlines())))
    subprocess.run([sys.executable, str(script)], check=True)
    assert_same(read_table(out), expected)
    assert not (out / "shards").exists()

    lines = log.read_text().splitlines()
    assert lines.count("importance") == 1
    scored = Counter(line for line in lines if line not in ("importance", "ranked"))
    assert len(scored) == SMALL.samples
    assert min(scored.values()) >= 12
    assert sum(scored.values()) - 20 * 12 <= len(kills) * SMALL.shard_samples * 12
    samples = draw_samples(FakeTask(), SMALL)
    for shards, count in finished:
        again = set(lines[count:])
        for shard in shards:
            for sample in samples[shard * SMALL.shard_samples : (shard + 1) * SMALL.shard_samples]:
                line = f"{traits(FakeTask.image_of(sample.image_hash)).key} {sample.question}"
                assert line in scored
                assert line not in again
