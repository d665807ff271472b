"""Decisions for many requests at once: contexts per second of every contender, and what multiplying alone allows.

No code that runs the controller's network in float32 decides faster than its matrices are multiplied. That is measured
in the same turns: the products alone, for as many requests, by the matrix libraries at hand.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.decision_backends import DEFAULT
from benchmarks.decision_job import Batch, Requests
from benchmarks.interleaved import ratio, turns
from paceline.runtime.controller import Controller

SIZES = (1, 8, 64, 512, 4096)
TURN_SECONDS, MOST_CALLS = 0.4, 200
"""A contender's turn at a batch size ends after this long, or after so many calls."""
MULTIPLY = "multiply: "
ROWS_AT_ONCE = 512
"""Rows that the products alone take at once: more leave the cache and take longer for each."""


def products(controller: Controller) -> dict[str, Callable[[Batch], object]]:
    """The products of the network's matrices with as many rows as a batch has, and nothing else, by library.

    The policy must be linear layers of members side by side, as the shipped one's are.
    """
    import torch

    arrays = controller.policy.arrays
    weights = [arrays[f"{name}.weight"] for name in ("input", "fusion", "head")]
    rng = np.random.default_rng(0)
    rows = [
        rng.random((weight.shape[0], ROWS_AT_ONCE, weight.shape[1])).astype(np.float32) for weight in weights
    ]
    pairs = list(zip(rows, weights, strict=True))
    tensors = [(torch.from_numpy(left), torch.from_numpy(right.copy())) for left, right in pairs]

    def by_numpy(count: int) -> None:
        for left, right in pairs:
            np.matmul(left[:, :count], right)

    def by_torch(count: int) -> None:
        with torch.inference_mode():
            for left, right in tensors:
                torch.bmm(left[:, :count], right)

    def in_parts(multiply: Callable[[int], None]) -> Callable[[Batch], object]:
        def call(batch: Batch) -> None:
            for start in range(0, len(batch.contexts), ROWS_AT_ONCE):
                multiply(min(ROWS_AT_ONCE, len(batch.contexts) - start))

        return call

    return {f"{MULTIPLY}numpy": in_parts(by_numpy), f"{MULTIPLY}torch": in_parts(by_torch)}


def operations(controller: Controller) -> int:
    """Multiplications and additions of the network for one request."""
    return 2 * sum(array.size for name, array in controller.policy.arrays.items() if name.endswith(".weight"))


def measure_batches(
    contenders: Mapping[str, Callable[[Batch], object]], requests: Requests, rounds: int, seed: int
) -> dict[int, dict[str, np.ndarray]]:
    """Medians of a contender's turns in microseconds per request, by batch size: {size: {contender: (rounds, 1)}}."""
    found = {}
    for size in SIZES:
        batch = requests.batch(size)
        medians = {name: np.empty((rounds, 1)) for name in contenders}
        for number, name in turns(list(contenders), rounds, seed):
            spent: list[float] = []
            while sum(spent) < TURN_SECONDS and len(spent) < MOST_CALLS:
                started = time.perf_counter()
                contenders[name](batch)
                spent.append(time.perf_counter() - started)
            medians[name][number] = 1e6 * float(np.median(spent)) / size
        found[size] = medians
    return found


def judged_batches(
    times: Mapping[int, Mapping[str, np.ndarray]],
    rivals: list[str],
    *,
    to_limit: float,
    to_rival: float,
) -> dict[str, dict[str, Any]]:
    """By batch size: the default beside the products alone, and beside every rival of `rivals`.

    A ratio above 1 says that the default takes longer than the products, or that a rival takes longer than it.
    """
    value = {}
    for size, found in times.items():
        ours = found[DEFAULT]
        multiplied = {name: found[name] for name in found if name.startswith(MULTIPLY)}
        limit = min(multiplied, key=lambda name: float(np.median(multiplied[name])))
        over = ratio(ours, multiplied[limit])
        beside = {name: ratio(found[name], ours) for name in rivals}
        fastest = min(beside, key=lambda name: beside[name]["median"])
        value[str(size)] = {
            "to_limit": {
                "limit": limit,
                "ratio": over,
                "required": to_limit,
                "met": over["median"] <= to_limit,
            },
            "to_fastest_rival": {
                "rival": fastest,
                "ratio": beside[fastest],
                "required": to_rival,
                "met": beside[fastest]["median"] >= to_rival,
            },
            "rivals": beside,
        }
    return value


def per_second(times: Mapping[int, Mapping[str, np.ndarray]]) -> dict[str, dict[str, float]]:
    """Contexts per second by contender and batch size, in the median round."""
    names = list(next(iter(times.values())))
    return {
        name: {str(size): round(1e6 / float(np.median(found[name])), 1) for size, found in times.items()}
        for name in names
    }
