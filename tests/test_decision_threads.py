"""One controller serves any number of threads: every thread gets the decisions of a serial run."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import controllers
from paceline.runtime.average import AverageBudget
from paceline.runtime.controller import Controller
from paceline.runtime.decision import Decision

THREADS, REQUESTS, TURNS = 8, 60, 4


@pytest.fixture
def restless():
    """The interpreter changes threads as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def decide(controller: Controller, index: int) -> Decision:
    """One of many kinds of request, which `index` says."""
    context = controllers.context(index % REQUESTS)
    full_ms = controller.policy.spec.full_latency_ms
    if index % 3 == 0:
        return controller.decide(context, budget_ms=full_ms * (0.2 + 0.8 * index / REQUESTS), slowdown=1.1)
    average = AverageBudget(full_ms * (0.4 + 0.5 * index / REQUESTS))
    if index % 3 == 1:
        return controller.decide(context, average=average)
    return controller.decide(context, budget="90%", average=average, elapsed_ms=0.5 * (index % 7))


def summary(decision: Decision) -> dict:
    return {name: value for name, value in decision.to_json().items() if name != "decision_ms"}


def test_threads_get_what_a_serial_run_gets(tmp_path, restless):
    controllers.controller().save(tmp_path)
    alone, shared = Controller.load(tmp_path), Controller.load(tmp_path)
    serial = [decide(alone, index) for index in range(REQUESTS)]
    assert len({decision.action for decision in serial}) > 3  # else equal decisions would say little

    def run(thread: int) -> list[tuple[int, Decision]]:
        order = np.random.default_rng(thread).permutation(np.repeat(np.arange(REQUESTS), TURNS))
        return [(int(index), decide(shared, int(index))) for index in order]

    with ThreadPoolExecutor(THREADS) as pool:
        found = [pair for pairs in pool.map(run, range(THREADS)) for pair in pairs]
    assert len(found) == THREADS * TURNS * REQUESTS
    for index, decision in found:  # after all of them: a decision keeps what was its own
        assert summary(decision) == summary(serial[index])
        for name in ("scores", "values", "mean_ms", "upper_ms", "first_upper_ms", "feasible"):
            kept, expected = getattr(decision.candidates, name), getattr(serial[index].candidates, name)
            np.testing.assert_array_equal(kept, expected, err_msg=f"request {index}: {name}")
