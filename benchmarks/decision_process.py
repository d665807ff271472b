"""What a fresh process needs to load a controller and to decide: run by `decision_memory`, and by tests.

    python -m benchmarks.decision_process load CONTROLLER BACKEND
    python -m benchmarks.decision_process grow CONTROLLER BACKEND DECISIONS THREADS SECONDS

Prints one JSON object. BACKEND "default" is what `Controller.load` picks, "first" the same where nothing was kept of an
earlier load. It imports nothing that a user's process
would not have, as its memory is what is measured; requests are made up, of more workloads than a controller keeps.
"""

import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paceline.runtime.controller import Controller
    from paceline.runtime.decision import Context

WATCHED = ("torch", "onnxruntime", "pandas", "pyarrow", "scipy", "sklearn")
WORKLOADS = 300
"""Distinct workloads of the made-up requests, more than `controller.KEPT_WORKLOADS`: some are dropped and remade."""
CHECKS = 50
"""How often memory is read while deciding."""
WARM_UP = 0.2
"""Share of the decisions after which growth counts: until then what is kept once fills up."""


def memory() -> dict[str, float]:
    """Resident memory of this process now, exactly, and the most it ever was, in MiB. Linux only."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    exact = dict(line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    kib = {"rss_mib": exact["Rss"], "peak_mib": status["VmHWM"]}
    return {name: int(value.split()[0]) / 1024 for name, value in kib.items()}


def load(path: str, backend: str) -> "Controller":
    """The controller under a backend; "default" and "first" ask for none."""
    from paceline.runtime.controller import Controller

    if backend == "first":
        with tempfile.TemporaryDirectory() as empty:
            return Controller.load(path, cache_dir=empty)
    options: dict[str, Any] = {} if backend == "default" else {"backend": backend}
    return Controller.load(path, **options)


def requests(controller: "Controller") -> "list[Context]":
    """Made-up requests: features about as far from the mean as those of training, workloads that all differ."""
    import numpy as np

    from paceline.runtime.decision import Context

    rng, spec, m = np.random.default_rng(0), controller.policy.spec, len(controller.actions)
    mean = controller.policy.arrays["feature_mean"]
    scale = controller.policy.arrays["feature_scale"]
    made = []
    for number in range(WORKLOADS):
        steps = rng.normal(size=len(mean)) / np.maximum(scale, 1e-6)
        features = (mean + np.where(scale > 0, steps, 0.0)).astype(np.float32)
        tiles = rng.integers(1, 12, m).astype(np.int32)
        made.append(
            Context(
                image_features=features[: spec.image_width].copy(),
                question_features=features[spec.image_width :].copy(),
                tiles=tiles,
                vision_tokens=16 * tiles,
                prompt_tokens=16 * tiles + number,
            )
        )
    return made


def load_once(path: str, backend: str) -> dict[str, Any]:
    """Times in milliseconds and memory of importing, loading and a first decision in this process."""
    before, started = memory(), time.perf_counter()
    from paceline.runtime.controller import Controller

    del Controller
    imported, after_import = time.perf_counter(), memory()
    loading, worked = time.perf_counter(), time.process_time()
    controller = load(path, backend)
    worked, loaded, after_load = time.process_time() - worked, time.perf_counter(), memory()
    context = requests(controller)[0]
    deciding = time.perf_counter()
    controller.decide(context, budget_ms=controller.policy.spec.full_latency_ms)
    decided, after_decision = time.perf_counter(), memory()
    return {
        "import_ms": 1000 * (imported - started),
        "load_ms": 1000 * (loaded - loading),
        "load_processor_ms": 1000 * worked,
        "first_decision_ms": 1000 * (decided - deciding),
        "memory": {
            "start": before, "import": after_import, "load": after_load, "first_decision": after_decision,
        },
        "imported": [name for name in WATCHED if name in sys.modules],
        "backend": controller.backend,
    }  # fmt: skip


def grow(path: str, backend: str, decisions: int, threads: int, seconds: float) -> dict[str, Any]:
    """Memory while many decisions are made, hard and average budgets in turn; ends early after `seconds`."""
    from paceline.runtime.average import AverageBudget

    controller = load(path, backend)
    contexts, full_ms = requests(controller), controller.policy.spec.full_latency_ms
    stream = AverageBudget(controller.scale * float(controller.prices.budgets_ms.mean()))
    each = max(1, decisions // (CHECKS * threads))

    def decide(first: int) -> None:
        for number in range(first, first + each):
            context = contexts[number % WORKLOADS]
            if number % 2:
                controller.decide(context, average=stream)
            else:
                controller.decide(context, budget_ms=full_ms * (0.3 + 0.7 * (number % 101) / 100))

    read, counts, started = [], [], time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for check in range(CHECKS):
            first = check * threads * each
            list(pool.map(decide, range(first, first + threads * each, each)))
            read.append(memory()["rss_mib"])
            counts.append((check + 1) * threads * each)
            if time.perf_counter() - started > seconds:
                break
    return {
        "decisions": counts[-1],
        "threads": threads,
        "seconds": time.perf_counter() - started,
        "rss_mib": read,
        "peak_mib": memory()["peak_mib"],
        **growth(counts, read),
    }


def growth(decisions: list[int], rss_mib: list[float]) -> dict[str, float]:
    """How much memory grew after the warm-up, and its slope per decision by least squares.

    >>> growth([1000 * i for i in range(1, 11)], [50.0 + 100 * 1000 * i / 2**20 for i in range(1, 11)])
    {'grown_mib': 0.668, 'bytes_per_decision': 100.0}
    """
    kept = [
        (count, 2**20 * size)
        for count, size in zip(decisions, rss_mib, strict=True)
        if count > WARM_UP * decisions[-1]
    ]
    count_mean, size_mean = (sum(column) / len(kept) for column in zip(*kept, strict=True))
    spread = sum((count - count_mean) ** 2 for count, _ in kept)
    slope = sum((count - count_mean) * (size - size_mean) for count, size in kept) / spread if spread else 0.0
    return {
        "grown_mib": round((kept[-1][1] - kept[0][1]) / 2**20, 3),
        "bytes_per_decision": round(slope, 3),
    }


def main() -> None:
    """Do what the arguments say and print it."""
    mode, path, backend, *rest = sys.argv[1:]
    if mode == "load":
        value = load_once(path, backend)
    else:
        value = grow(path, backend, int(rest[0]), int(rest[1]), float(rest[2]))
    print(json.dumps(value))


if __name__ == "__main__":
    main()
