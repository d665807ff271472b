"""Memory of deciding: what a fresh process imports, and that nothing grows."""

import json
import os
import subprocess
import sys

import pytest

import controllers
from benchmarks.decision_memory import directory_bytes, judged, median_and_range
from benchmarks.decision_process import CHECKS, grow, growth, load_once, memory, requests

ONE_BYTE = 2.0**-20


def load_line(milliseconds: float, imported: list[str]) -> dict:
    line = {"load_ms": {"p50": milliseconds}, "imported": imported}
    return {"default": {**line, "load_ms": {"p50": 1.0}}, "first": line}


def test_growth_is_what_comes_after_the_warm_up():
    counts = [100 * i for i in range(1, 11)]
    filling = [50.0 if count <= 200 else 90.0 for count in counts]
    assert growth(counts, filling) == {"grown_mib": 0.0, "bytes_per_decision": 0.0}
    leaking = [50.0 + 16 * ONE_BYTE * count for count in counts]
    assert growth(counts, leaking)["bytes_per_decision"] == 16.0
    assert growth([100], [50.0]) == {"grown_mib": 0.0, "bytes_per_decision": 0.0}


def test_bars_are_the_defaults():
    line = {"bytes_per_decision": 0.2}
    bars = judged(load_line(120.0, ["onnxruntime"]), {"default, 1 threads": line}, 5_000_000)
    assert all(bar["met"] for bar in bars.values())
    steep = {"default, 1 threads": line, "default, 4 threads": {"bytes_per_decision": 16.0}}
    bars = judged(load_line(151.0, ["torch"]), steep, 5_000_001)
    assert not any(bar["met"] for bar in bars.values())
    other = {"default, 1 threads": line, "torch, 1 threads": {"bytes_per_decision": 16.0}}
    assert judged(load_line(1.0, []), other, 1)["bytes_per_decision"]["met"]


def test_middle_and_range():
    assert median_and_range([9.0, 1.04, 2.0]) == {"p50": 2.0, "lowest": 1.0, "highest": 9.0}


def test_a_directory_is_as_large_as_its_files(tmp_path):
    controllers.controller().save(tmp_path / "made")
    (tmp_path / "made" / "more").mkdir()
    (tmp_path / "made" / "more" / "part").write_bytes(b"123")
    files = (tmp_path / "made").glob("*.*")
    assert directory_bytes(str(tmp_path / "made")) == 3 + sum(file.stat().st_size for file in files)
    assert 0 < directory_bytes("tiny") < 5_000_000


def test_made_up_requests_are_more_workloads_than_are_kept():
    from paceline.runtime.controller import KEPT_WORKLOADS

    made = requests(controllers.controller())
    assert len({context.prompt_tokens.tobytes() for context in made}) > KEPT_WORKLOADS


def test_loading_and_growing_say_what_was_measured(tmp_path):
    controllers.controller().save(tmp_path / "made")
    found = load_once(str(tmp_path / "made"), "default")
    assert min(found["import_ms"], found["load_ms"], found["first_decision_ms"]) > 0
    assert 0 <= found["load_processor_ms"] <= 1.5 * found["load_ms"] + 10
    assert all(line["peak_mib"] >= line["rss_mib"] * 0.9 > 5 for line in found["memory"].values())
    for threads in (1, 4):
        value = grow(str(tmp_path / "made"), "default", 1000, threads, seconds=60.0)
        assert value["decisions"] == CHECKS * threads * (1000 // (CHECKS * threads))
        assert len(value["rss_mib"]) == CHECKS
    stopped = grow(str(tmp_path / "made"), "default", 1000, 1, seconds=0.0)
    assert stopped["decisions"] == 1000 // CHECKS


def test_memory_is_that_of_this_process():
    before = memory()
    held = bytearray(64 * 2**20)
    held[:: 2**12] = b"1" * (len(held) // 2**12)
    after = memory()
    assert after["rss_mib"] - before["rss_mib"] == pytest.approx(64, abs=4)
    del held


@pytest.mark.slow
def test_deciding_100000_times_keeps_nothing(tmp_path):
    """A leak of 100 bytes per decision would be 8 MiB of the last 80,000."""
    controllers.controller().save(tmp_path / "made")
    words = ["grow", str(tmp_path / "made"), "default", "100000", "2", "200"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.decision_process", *words],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    found = json.loads(done.stdout)
    assert found["decisions"] == 100_000
    assert found["grown_mib"] < 4.0
    assert found["bytes_per_decision"] < 50.0
