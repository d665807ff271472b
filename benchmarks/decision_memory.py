"""Time and memory of loading a controller and of deciding with it, every backend in fresh processes.

    python -m benchmarks.decision_memory                      # the shipped controller
    python -m benchmarks.decision_memory --controller DIRECTORY

Loading: as many processes per backend, taking turns; files are in the page cache. `Controller.load` is timed alone,
with what it imports itself; the import of the package and the start of the interpreter stand beside it. Memory is
resident memory, libraries included: at the start, after the import, after loading, after the first decision. The time
of the processor is what loading takes on a machine that does other things too; the bar is for the clock on the wall.

Growth: 1,000,000 decisions of made-up requests in one process, hard and average budgets in turn, on one thread and on
four; a run ends after --seconds, and then says how many it made. What grows after the first fifth counts.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.record import write_result
from paceline.runtime.controller import Controller
from paceline.runtime.storage import SHIPPED

BACKENDS = ("default", "first", "native", "numpy", "onnx", "torch")
LOAD_MS, DIRECTORY_BYTES = 150.0, 5_000_000
"""The bars: `Controller.load` at most, the first one included, which measures what is fastest; and the directory."""
BYTES_PER_DECISION = 1.0
"""Growth that counts as none: an object that is kept for every decision takes 16 bytes or more."""
THREADS = (1, 4)


def child(words: list[str]) -> tuple[dict[str, Any] | None, float, str]:
    """What a fresh process printed, how many milliseconds it took, and the last line of its errors."""
    environment = os.environ | dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)
    took = 1000 * (time.perf_counter() - started)
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return (json.loads(done.stdout) if done.returncode == 0 else None), took, last


def process(*words: object) -> tuple[dict[str, Any] | None, float, str]:
    """One run of `benchmarks.decision_process`."""
    return child(["-m", "benchmarks.decision_process", *map(str, words)])


def median_and_range(values: list[float]) -> dict[str, float]:
    """As it stands in the result.

    >>> median_and_range([3.0, 1.0, 2.04])
    {'p50': 2.0, 'lowest': 1.0, 'highest': 3.0}
    """
    return {
        "p50": round(statistics.median(values), 1),
        "lowest": round(min(values), 1),
        "highest": round(max(values), 1),
    }


def loading(path: str, backends: Sequence[str], repeats: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Time and memory of loading per backend; and why backends are missing."""
    runs: dict[str, list[dict[str, Any]]] = {backend: [] for backend in backends}
    missing: dict[str, str] = {}
    for _ in range(repeats):
        for backend in [name for name in backends if name not in missing]:
            value, took, error = process("load", path, backend)
            if value is None:
                missing[backend] = error
            else:
                runs[backend].append(value | {"process_ms": took})
    found = {}
    for backend, lines in runs.items():
        if not lines:
            continue
        names = ("load_ms", "load_processor_ms", "import_ms", "first_decision_ms", "process_ms")
        found[backend] = {name: median_and_range([line[name] for line in lines]) for name in names}
        found[backend]["import_and_load_ms"] = median_and_range(
            [line["import_ms"] + line["load_ms"] for line in lines]
        )
        found[backend]["memory_mib"] = {
            stage: {
                name: round(statistics.median(line["memory"][stage][name] for line in lines), 1)
                for name in ("rss_mib", "peak_mib")
            }
            for stage in lines[0]["memory"]
        }
        found[backend] |= {
            "imported": lines[0]["imported"],
            "backend": lines[0]["backend"],
            "runs": len(lines),
        }
    return found, missing


def growing(
    path: str, backends: list[str], decisions: int, seconds: float, processes: int
) -> dict[str, dict[str, Any]]:
    """Growth per backend and number of threads; several processes at once, as no time is measured."""
    jobs = [(backend, threads) for backend in backends for threads in THREADS]
    with ThreadPoolExecutor(processes) as pool:
        done = pool.map(lambda job: process("grow", path, job[0], decisions, job[1], seconds), jobs)
    found: dict[str, dict[str, Any]] = {}
    for (backend, threads), (value, _, error) in zip(jobs, done, strict=True):
        if value is None:
            raise RuntimeError(f"{backend} on {threads} threads: {error}")
        value["rss_mib"] = [round(size, 2) for size in value["rss_mib"]]
        found[f"{backend}, {threads} threads"] = value | {
            "seconds": round(value["seconds"], 1),
            "peak_mib": round(value["peak_mib"], 1),
        }
    return found


def directory_bytes(name_or_path: str) -> int:
    """Size of all files of a controller directory, or of a shipped one."""
    shipped = SHIPPED / name_or_path
    path = shipped if shipped.is_dir() else Path(name_or_path)
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def judged(load: dict[str, Any], growth: dict[str, dict[str, Any]], size: int) -> dict[str, Any]:
    """The bars, of the default backend."""
    took = max(load[name]["load_ms"]["p50"] for name in ("default", "first"))
    steepest = max(line["bytes_per_decision"] for name, line in growth.items() if name.startswith("default"))
    heavy = [name for name in load["default"]["imported"] if name in ("torch", "pandas")]
    return {
        "load_ms": {"value": took, "required": LOAD_MS, "met": took <= LOAD_MS},
        "bytes_per_decision": {
            "value": steepest,
            "required": BYTES_PER_DECISION,
            "met": steepest <= BYTES_PER_DECISION,
        },
        "directory_bytes": {"value": size, "required": DIRECTORY_BYTES, "met": size <= DIRECTORY_BYTES},
        "imports_neither_torch_nor_pandas": {"value": heavy, "required": [], "met": not heavy},
    }


def main() -> None:
    """Print the bars and write benchmarks/results/decision_memory.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--controller", default="tiny", help="a directory or a shipped name")
    parser.add_argument("--repeats", type=int, default=11, help="processes that load, per backend")
    parser.add_argument("--decisions", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=110.0, help="at most, per run of growth")
    parser.add_argument("--processes", type=int, default=2, help="runs of growth at once")
    parser.add_argument("--no-result", action="store_true", help="write no result file")
    arguments = parser.parse_args()
    path = arguments.controller
    empty = [child(["-c", "print(0)"])[1] for _ in range(arguments.repeats)]
    load, missing = loading(path, BACKENDS, arguments.repeats)
    # the default, also loaded for the first time, is one of the backends: its growth need not be measured twice
    known = ("default", "first", load["default"]["backend"])
    grown = ["default", *(name for name in load if name not in known)]
    growth = growing(path, grown, arguments.decisions, arguments.seconds, arguments.processes)
    size = directory_bytes(path)
    value = {
        "controller": Path(path).name,
        "fingerprint": Controller.load(path).fingerprint[:16],
        "directory_bytes": size,
        "bars": judged(load, growth, size),
        "interpreter_ms": median_and_range(empty),
        "load": load,
        "growth": growth,
        "missing": missing,
    }
    for name, line in load.items():
        stages = {stage: found["peak_mib"] for stage, found in line["memory_mib"].items()}
        print(
            f"{name}: load {line['load_ms']} ms, import {line['import_ms']} ms, peak MiB {stages}, {line['imported']}"
        )
    for name, line in growth.items():
        print(f"{name}: {line['decisions']:,} decisions in {line['seconds']} s, grew {line['grown_mib']} MiB")
    for name, bar in value["bars"].items():
        print(f"{name}: {bar['value']} (required {bar['required']}): {'met' if bar['met'] else 'NOT met'}")
    if not arguments.no_result:
        write_result("decision_memory", value)


if __name__ == "__main__":
    main()
