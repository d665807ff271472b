"""What is timed, in which order, and which times are spikes."""

import dataclasses
import itertools

import numpy as np
import pytest
from PIL import Image

from fakes import FAKE_SPACE, OVERVIEW_MS, FakeModel, FakeTask
from paceline.errors import ProfileError
from paceline.models.protocol import Generation
from paceline.outcomes.spikes import relative_times
from paceline.profiling.threads import torch_threads
from paceline.profiling.timing import CLOCK_CALLS, clock_facts, interleaved, measure


def test_a_measurement_is_the_overview_and_the_answer():
    model, task = FakeModel(), FakeTask()
    sample = task.samples("train", 1)[0]
    result = measure(model, task.image(sample), sample.question, FAKE_SPACE.full, 4)
    phases = result.vision_ms + result.prefill_ms + result.decode_ms
    assert result.overview_ms == OVERVIEW_MS
    assert result.latency_ms == pytest.approx(OVERVIEW_MS + phases)
    assert result.first_token_ms == pytest.approx(OVERVIEW_MS + result.vision_ms + result.prefill_ms)
    assert result.output_tokens == 2


@pytest.mark.parametrize("value", [0.0, -5.0, float("nan"), float("inf")])
def test_times_that_cannot_be_are_refused(value: float):
    class Broken(FakeModel):
        def generate(self, *args, **kwargs) -> Generation:
            generation = super().generate(*args, **kwargs)
            timings = dataclasses.replace(generation.timings, total_ms=value - OVERVIEW_MS)
            return dataclasses.replace(generation, timings=timings)

    with pytest.raises(ProfileError, match="latency under .* expected a positive, finite time"):
        measure(Broken(), Image.new("RGB", (64, 32)), "plain question", FAKE_SPACE.full, 4)


def test_every_repeat_is_a_fresh_order_of_all_pairs():
    calls = list(interleaved([3, 5], 10, 2, np.random.default_rng(0)))
    pairs = [(i, j) for i in (3, 5) for j in range(10)]
    first, second = calls[:20], calls[20:]
    assert sorted(call[1:] for call in first) == pairs
    assert sorted(call[1:] for call in second) == pairs
    assert [call[0] for call in calls] == [0] * 20 + [1] * 20
    assert [call[1:] for call in first] != [call[1:] for call in second]
    assert [call[1:] for call in first] != pairs
    assert sum(a[1] != b[1] for a, b in itertools.pairwise(first)) > 4  # samples alternate as well


def test_the_cost_of_a_clock_is_measured():
    ticks = iter(np.arange(CLOCK_CALLS) * 2e-6)
    facts = clock_facts(lambda: next(ticks))
    assert facts["clock_cost_ms"] == pytest.approx(2e-3)
    assert facts["clock_step_ms"] == pytest.approx(2e-3)
    assert clock_facts(lambda: 1.0) == {"clock_cost_ms": 0.0, "clock_step_ms": 0.0}


def test_relative_times_find_a_spike_among_unequal_samples_and_configurations():
    rng = np.random.default_rng(0)
    sample, configuration = (index.ravel() for index in np.indices((20, 9)))
    times = rng.uniform(1, 4, 20)[sample] * rng.uniform(1, 8, 9)[configuration]
    times *= np.exp(0.04 * rng.standard_normal(len(times)))
    times[[17, 90]] *= 5
    ratio = relative_times(sample, configuration, times)
    assert np.flatnonzero(ratio > 3).tolist() == [17, 90]
    assert ratio[[17, 90]] == pytest.approx(5, rel=0.15)
    assert relative_times(sample[:0], configuration[:0], times[:0]).size == 0


def test_relative_times_need_no_complete_design():
    rng = np.random.default_rng(0)
    sample, configuration = (index.ravel() for index in np.indices((30, 9)))
    times = rng.uniform(1, 4, 30)[sample] * rng.uniform(1, 8, 9)[configuration]
    timed = rng.random(len(times)) < 0.5
    np.testing.assert_allclose(
        relative_times(sample[timed], configuration[timed], times[timed]), 1, atol=0.05
    )


def test_threads_are_put_back_also_after_an_error():
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()

    def fail_inside() -> None:
        with torch_threads(before + 1):
            assert torch.get_num_threads() == before + 1
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail_inside()
    assert torch.get_num_threads() == before
    with torch_threads(None):
        assert torch.get_num_threads() == before
