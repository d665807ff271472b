"""How long it takes to read some bytes once, on one thread: no decision that reads its weights can be faster."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
REPEATS = 7
"""The least time of this many blocks counts: what else the machine does can only make a reading slower."""
BLOCK_BYTES = 100_000_000
"""Read per block, so that the clock costs nothing."""
AROUND = (1.0, 1.5, 2.0, 4.0)
"""Sizes whose bandwidth is measured, as multiples of the weights'; those that leave the weights' level do not count."""
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True, slots=True, order=True)
class Cache:
    """One level as a processor core sees it."""

    size_bytes: int
    name: str  # "L2"


def caches(directory: Path = CACHES) -> list[Cache]:
    """Levels that hold data, the smallest first; none where the system does not tell."""
    found = []
    for index in sorted(directory.glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            number, unit = int(size.rstrip("KMG")), size[-1]
            found.append(Cache(number * _UNITS.get(unit, 1), f"L{level}"))
    return sorted(found)


def level_of(size_bytes: int, levels: Sequence[Cache]) -> str:
    """The smallest level that holds so many bytes.

    >>> level_of(1_200_000, [Cache(2**15, "L1"), Cache(2**20, "L2"), Cache(2**25, "L3")])
    'L3'
    """
    return next((level.name for level in sorted(levels) if size_bytes <= level.size_bytes), "memory")


def readers(size_bytes: int) -> dict[str, Callable[[], object]]:
    """Ways to go through a buffer of this size once; `copyto` also writes as much."""
    import torch

    values = np.ones(size_bytes // 4, dtype=np.float32)
    copy, tensor, half = np.empty_like(values), torch.from_numpy(values), len(values) // 2
    first, second = values[:half], values[half : 2 * half]
    columns = min(256, max(1, len(values)))
    matrix = values[: len(values) // columns * columns].reshape(-1, columns)
    ones, out = np.ones(len(matrix), dtype=np.float32), np.empty(columns, dtype=np.float32)
    return {
        "numpy copyto": lambda: np.copyto(copy, values),
        "numpy add.reduce": lambda: np.add.reduce(values),
        "numpy maximum.reduce": lambda: np.maximum.reduce(values),
        "numpy dot of both halves": lambda: np.dot(first, second),
        "numpy vector x matrix": lambda: np.dot(ones, matrix, out=out),
        "torch sum": tensor.sum,
    }


def bandwidth(read: Callable[[], object], size_bytes: int) -> float:
    """Bytes per second, warm."""
    calls = max(1, BLOCK_BYTES // size_bytes)
    seconds = []
    for _ in range(REPEATS + 1):  # the first warms up
        started = time.perf_counter()
        for _ in range(calls):
            read()
        seconds.append(time.perf_counter() - started)
    return calls * size_bytes / min(seconds[1:])


def bandwidths(weight_bytes: int, levels: Sequence[Cache]) -> dict[str, Any]:
    """Gigabytes per second of every reader at sizes around the weights', and the best within their level."""
    level, lines = level_of(weight_bytes, levels), []
    for factor in AROUND:
        size = 4 * round(factor * weight_bytes / 4)
        found = {name: bandwidth(read, size) for name, read in readers(size).items()}
        lines.append((size, level_of(size, levels), found))
    within = [found for _, where, found in lines if where == level]
    best = max(speed for found in within for speed in found.values())
    return {
        "level": level,
        "best_gb_per_s": round(best / 1e9, 1),
        "computed_us": round(1e6 * weight_bytes / best, 2),
        "gb_per_s": [
            {"bytes": size, "level": where} | {name: round(speed / 1e9, 1) for name, speed in found.items()}
            for size, where, found in lines
        ],
    }
