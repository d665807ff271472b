"""How time per epoch and memory of training grow with the number of samples, under 432 configurations each.

    python -m benchmarks.training_scale

Tables are made up (`benchmarks.generated_table`), every outcome timed, and written once under --work. Every run is a
process of its own that reads the directory, fits the latency estimate, trains and builds the controller; sizes take
turns, so that what else the machine does falls on all of them. Memory is the largest resident size of the process,
mapped files included. Time per epoch includes the validation after it; the first epoch of a stage is left out.

The algorithm is `grpo_warm`, which trains one network. The default `grpo` keeps the predictions of its reference in
memory and is for tables of up to 5 million outcomes of train samples; it is not measured here.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.generated_table import SPACE, write_generated
from benchmarks.record import write_result
from paceline.outcomes.mapped import DIRECTORY

SIZES = (12_500, 25_000, 50_000, 100_000)
STAGE_EPOCHS = 3
MEMORY_LIMIT_GIB = 8.0
ALGORITHM = "grpo_warm"
STAGES = ("outcome", "grpo")


class EpochTimes:
    """Progress that notes when each epoch ended, in seconds of the clock and of the processor."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def start(self, total: int, description: str) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))

    def advance(self, steps: int = 1, /) -> None:
        if steps == 1:
            self.marks.append((time.perf_counter(), time.process_time()))

    def message(self, text: str) -> None: ...

    def seconds(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each epoch: wall clock and processor."""
        wall, processor = np.diff(np.array(self.marks), axis=0).T
        return wall, processor


def train_once(path: Path) -> dict[str, Any]:
    """One run in this process: seconds per epoch and stage, and memory."""
    from paceline.cli.threads import one_thread
    from paceline.learning.options import TrainOptions
    from paceline.outcomes.store import read_table
    from paceline.workflows.training import train_controller

    one_thread()
    clock, times = time.perf_counter(), EpochTimes()
    table = read_table(path)
    read = time.perf_counter() - clock
    options = TrainOptions(algorithm=ALGORITHM, warm_epochs=STAGE_EPOCHS, epochs=STAGE_EPOCHS)
    trained = train_controller(table, options, progress=times)
    wall, processor = times.seconds()
    epochs = {stage: slice(i * STAGE_EPOCHS + 1, (i + 1) * STAGE_EPOCHS) for i, stage in enumerate(STAGES)}
    return {
        "samples": table.samples,
        "outcomes": int(table.accuracy.size),
        "train_samples": trained.policy.facts["samples"]["train"],
        "read_seconds": read,
        "total_seconds": time.perf_counter() - clock,
        "epoch_seconds": {stage: wall[part].tolist() for stage, part in epochs.items()},
        "epoch_processor_seconds": {stage: processor[part].tolist() for stage, part in epochs.items()},
        "memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "validation_reward": trained.policy.facts["validation_reward"],
    }


def in_process(words: list[str]) -> str:
    """Standard output of this module with `words`, in a process of its own."""
    environment = os.environ | dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
    )
    command = [sys.executable, "-m", "benchmarks.training_scale", *words]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of one size: medians over epochs and runs, the largest memory."""
    first = runs[0]
    line: dict[str, Any] = {name: first[name] for name in ("samples", "outcomes", "train_samples")}
    for stage in STAGES:
        for kind in ("epoch_seconds", "epoch_processor_seconds"):
            value = statistics.median(second for run in runs for second in run[kind][stage])
            line[f"{stage}_{kind}"] = round(value, 3)
        line[f"{stage}_microseconds_per_sample"] = round(
            1e6 * line[f"{stage}_epoch_processor_seconds"] / line["train_samples"], 1
        )
    return line | {
        "memory_gib": round(max(run["memory_gib"] for run in runs), 3),
        "read_seconds": [round(run["read_seconds"], 1) for run in runs],
        "total_seconds": [round(run["total_seconds"], 1) for run in runs],
        "validation_reward": round(statistics.median(run["validation_reward"] for run in runs), 4),
        "runs": len(runs),
    }


def growth(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Exponents of time over samples (1: linear) by least squares of logarithms, and whether memory held.

    Seconds of the processor are what training takes; the wall clock also holds what else the machine did.
    """
    samples = np.log([line["samples"] for line in lines])
    found: dict[str, Any] = {
        "within_memory_limit": all(line["memory_gib"] <= MEMORY_LIMIT_GIB for line in lines)
    }
    if len(lines) > 1:
        for clock, kind in (("processor", "epoch_processor_seconds"), ("wall", "epoch_seconds")):
            for stage in STAGES:
                seconds = np.log([line[f"{stage}_{kind}"] for line in lines])
                found[f"{stage}_{clock}_exponent"] = round(float(np.polyfit(samples, seconds, 1)[0]), 3)
    return found


def main() -> None:
    """Write benchmarks/results/training_scale.json; after each run, so that what is done is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="samples, separated by commas")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument(
        "--work", type=Path, default=Path("runs/training_scale"), help="for the made-up tables"
    )
    parser.add_argument("--write", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        write_generated(arguments.work / str(arguments.write), arguments.write)
        return
    if arguments.train:
        print(json.dumps(train_once(arguments.train)))
        return
    sizes = [int(size) for size in arguments.sizes.split(",")]
    runs: dict[int, list[dict[str, Any]]] = {size: [] for size in sizes}
    for repeat in range(arguments.repeats):
        for size in sizes:
            path = arguments.work / str(size)
            if repeat == 0:  # the first run of a size makes the mapped files too
                shutil.rmtree(path / DIRECTORY, ignore_errors=True)
            if not (path / "manifest.json").exists():
                in_process(["--work", str(arguments.work), "--write", str(size)])
            runs[size].append(json.loads(in_process(["--train", str(path)])))
            lines = [summary(done) for done in runs.values() if done]
            print(lines[sizes.index(size)], flush=True)
            write_result(
                "training_scale",
                {
                    "algorithm": ALGORITHM,
                    "configurations": SPACE.size,
                    "memory_limit_gib": MEMORY_LIMIT_GIB,
                    "sizes": lines,
                    "growth": growth(lines),
                },
            )
    print(growth(lines))


if __name__ == "__main__":
    main()
