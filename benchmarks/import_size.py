"""How time and memory of `paceline import` grow with the number of outcomes.

    python -m benchmarks.import_size

Files are made up, of 100 configurations each and as many samples as are needed; every import is a process of its own.
Seconds of the processor are the measure, as they do not depend on what else the machine does. Memory is the largest
resident size of the process. exp5 and exp6 list every outcome once each: twice as many entries as outcomes.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from benchmarks.record import RESULTS, write_result

CONFIGURATIONS = [
    (crops, top_k, blocks)
    for crops in (2, 4, 6, 8, 10)
    for top_k in (4, 8, 12, 16)
    for blocks in range(12, 17)
]
KINDS = ("parquet", "csv", "exp6", "exp5+exp6")
SIZES = (100_000, 1_000_000, 10_000_000)
MEMORY_LIMIT_GIB = 4.0
COLUMNS = [
    "--sample", "id", "--knobs", "max_crops,top_k,num_active_blocks", "--quality", "correct", "--latency", "latency_ms",
    "--question", "question", "--kind", "kind", "--image", "image",
]  # fmt: skip


class World:
    """Made-up samples, and their outcomes under one configuration at a time."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.rng = np.random.default_rng(0)
        things = ("cats", "red cars", "people on the street", "words on the sign", "colours of the flag")
        self.question = [f"How many {things[i % 5]} are there in picture {i // 2}?" for i in range(samples)]
        self.kind = [("number", "other", "yes/no")[i % 3] for i in range(samples)]
        self.image = [i // 2 for i in range(samples)]

    def outcomes(self, configuration: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Scores and times in ms, (samples,) each."""
        crops, top_k, blocks = configuration
        usual = 20 + 6 * crops + 0.125 * top_k * blocks + 2 * blocks
        return self.rng.integers(0, 2, self.samples), usual * self.rng.lognormal(0, 0.05, self.samples).round(
            3
        )


def write_table(world: World, path: Path) -> list[str]:
    """A CSV or Parquet table, written a configuration at a time; the words of its import."""
    shared = {
        "id": [f"q{i:07d}" for i in range(world.samples)],
        "question": world.question,
        "kind": world.kind,
        "image": world.image,
    }
    writer: Any = None
    for configuration in CONFIGURATIONS:
        knobs = dict(zip(("max_crops", "top_k", "num_active_blocks"), configuration, strict=True))
        correct, latency = world.outcomes(configuration)
        columns = {name: np.full(world.samples, option) for name, option in knobs.items()}
        part = pa.table({**shared, **columns, "correct": correct, "latency_ms": latency})
        if writer is None:
            csv = path.suffix == ".csv"
            writer = pyarrow.csv.CSVWriter(path, part.schema) if csv else pq.ParquetWriter(path, part.schema)
        writer.write_table(part)
    writer.close()
    return [str(path), *COLUMNS]


def write_results(world: World, folder: Path, families: list[str]) -> list[str]:
    """exp5 and exp6 files in the public layout, a configuration each; the words of their import."""
    metadata = [
        json.dumps({"image_id": image, "question": question, "question_id": i, "question_type": kind})
        for i, (image, question, kind) in enumerate(zip(world.image, world.question, world.kind, strict=True))
    ]
    for configuration in CONFIGURATIONS:
        crops, top_k, blocks = configuration
        scores, times = (values.tolist() for values in world.outcomes(configuration))
        config = json.dumps(
            {
                "dataset_name": "made_up", "split": "validation", "max_new_tokens": 16, "max_crops": crops,
                "top_k": top_k, "num_active_blocks": blocks, "num_total_blocks": 16, "world_size": 1,
                "active_block_indices": sorted([0, 15, *range(1, blocks - 1)]),
            }
        )  # fmt: skip
        ending = f"crops{crops}_topk{top_k}_blocks{blocks}.json"
        said = ",".join(
            f'{{"sample_id": {i % 32}, "score": {score}, "pred": "2", "metadata": {told}}}'
            for i, (score, told) in enumerate(zip(scores, metadata, strict=True))
        )
        if "exp5" in families:
            path = folder / "exp5_accuracy_made-up" / f"exp5_accuracy_results_{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'{{"summary": [], "all_samples": [{said}], "config": {config}}}')
        if "exp6" in families:
            timed = ",".join(
                f'{{"sample_id": {i}, "max_crops": {crops}, "top_k": {top_k}, "num_active_blocks": {blocks}, '
                f'"T_total_ms": {total}, "T_prefill_ms": 0.0, "T_decode_ms": {0.25 * total}, "num_vision_tokens": '
                f'{144 * crops}, "num_language_tokens": {144 * crops + 20}, "num_output_tokens": 3, '
                f'"accuracy": {score}}}'
                for i, (score, total) in enumerate(zip(scores, times, strict=True))
            )
            path = folder / "exp6_latency_made-up" / f"exp6_latency_{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                f'{{"per_sample_latencies": [{timed}], "per_sample_predictions": [{said}], "config": {config}}}'
            )
    return [str(folder)]


def run_import(words: list[str], out: Path) -> dict[str, float]:
    """Import in a process of its own: processor seconds, and its largest resident size."""
    command = [sys.executable, "-m", "paceline", "import", *words, "--out", str(out), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"paceline import ended with exit code {process.returncode}")
    return {
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "memory_gib": round(usage.ru_maxrss / 2**20, 3),
    }


def measure(kind: str, outcomes: int, folder: Path) -> dict[str, Any]:
    """One line of the result."""
    world = World(outcomes // len(CONFIGURATIONS))
    if kind in ("parquet", "csv"):
        words = write_table(world, folder / f"table.{kind}")
    else:
        words = write_results(world, folder / "results", kind.split("+"))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    line = {"kind": kind, "outcomes": outcomes, "samples": world.samples, "input_bytes": size}
    return line | run_import(words, folder / "out")


def growth(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Per kind: by how much time and memory grow with each step of size, beside the growth of the size itself."""
    found: dict[str, Any] = {}
    for kind in dict.fromkeys(line["kind"] for line in lines):
        part = sorted((line for line in lines if line["kind"] == kind), key=lambda line: line["outcomes"])
        steps = [
            {
                "outcomes": b["outcomes"] / a["outcomes"],
                "processor_seconds": round(b["processor_seconds"] / a["processor_seconds"], 2),
                "memory": round(b["memory_gib"] / a["memory_gib"], 2),
            }
            for a, b in itertools.pairwise(part)
        ]
        last = part[-1]
        found[kind] = {
            "steps": steps,
            "outcomes_per_processor_second": round(last["outcomes"] / last["processor_seconds"]),
            "within_memory_limit": all(line["memory_gib"] <= MEMORY_LIMIT_GIB for line in part),
        }
    return found


def main() -> None:
    """Measure all kinds and sizes; the result is written after each, so that what is done is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", default=",".join(KINDS), help="of files, separated by commas")
    parser.add_argument(
        "--sizes", default=",".join(map(str, SIZES)), help="numbers of outcomes, separated by commas"
    )
    parser.add_argument(
        "--folder", type=Path, default=None, help="for the made-up files; by default the system's"
    )
    arguments = parser.parse_args()
    lines: list[dict[str, Any]] = []
    for kind in arguments.kinds.split(","):
        for outcomes in map(int, arguments.sizes.split(",")):
            folder = Path(tempfile.mkdtemp(dir=arguments.folder))
            try:
                lines.append(measure(kind, outcomes, folder))
            finally:
                shutil.rmtree(folder)
            print(lines[-1], flush=True)
            write_result(
                "import_size",
                {
                    "configurations": len(CONFIGURATIONS),
                    "memory_limit_gib": MEMORY_LIMIT_GIB,
                    "lines": lines,
                    "growth": growth(lines),
                },
            )
    print(f"wrote {RESULTS / 'import_size.json'}")


if __name__ == "__main__":
    main()
