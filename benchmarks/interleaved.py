"""Contenders that take turns: each once a round, in a random order, so that what else a machine does falls on all."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np


def turns(names: Sequence[str], rounds: int, seed: int) -> Iterator[tuple[int, str]]:
    """(round, contender): every contender once a round, in an order of its own.

    >>> [name for _, name in sorted(turns(["a", "b"], 2, seed=0))]
    ['a', 'b', 'a', 'b']
    """
    rng = np.random.default_rng(seed)
    for number in range(rounds):
        for index in rng.permutation(len(names)):
            yield number, names[int(index)]


def measure(
    contenders: Mapping[str, Callable[[int], object]],
    *,
    rounds: int,
    calls: int,
    warm_up: int,
    seed: int,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, np.ndarray]:
    """Microseconds of every call: {contender: (rounds, calls)}.

    A contender is called with the number of the request; in a round all get the same requests. The first `warm_up`
    calls of a turn are not timed: they find the caches as the contender before left them.
    """
    found = {name: np.empty((rounds, calls)) for name in contenders}
    for number, name in turns(list(contenders), rounds, seed):
        decide, times = contenders[name], found[name][number]
        first = number * (calls + warm_up)
        for request in range(first, first + warm_up):
            decide(request)
        for call in range(calls):
            request = first + warm_up + call
            started = clock()
            decide(request)
            times[call] = clock() - started
        times /= 1000.0
    return found


def summary(times: np.ndarray) -> dict[str, Any]:
    """Percentiles of all calls, and the range of the rounds' medians: times (rounds, calls) in microseconds.

    >>> summary(np.array([[1.0, 2.0, 3.0], [5.0, 4.0, 9.0]]))["p50_us"]
    3.5
    """
    medians = np.median(times, axis=1)
    return {
        "p50_us": round(float(np.median(times)), 2),
        "p99_us": round(float(np.quantile(times, 0.99)), 2),
        "round_p50_us": {
            "lowest": round(float(medians.min()), 2),
            "quartiles": [round(float(value), 2) for value in np.quantile(medians, [0.25, 0.75])],
            "highest": round(float(medians.max()), 2),
        },
    }


def ratio(slower: np.ndarray, faster: np.ndarray) -> dict[str, float]:
    """How many times as long the first took: ratios of a round's medians; their median and range.

    >>> ratio(np.array([[4.0], [9.0], [8.0]]), np.array([[2.0], [3.0], [2.0]]))
    {'median': 3.0, 'lowest': 2.0, 'highest': 4.0}
    """
    ratios = np.median(slower, axis=1) / np.median(faster, axis=1)
    return {
        "median": round(float(np.median(ratios)), 3),
        "lowest": round(float(ratios.min()), 3),
        "highest": round(float(ratios.max()), 3),
    }
