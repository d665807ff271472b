"""The drift factor follows slow-downs and shrugs off stalls."""

import math

import pytest

from paceline.errors import OutcomesError
from paceline.latency.drift import DriftTracker


def test_one_step_by_hand() -> None:
    tracker = DriftTracker(gain=0.5)
    assert tracker.factor == 1.0
    assert tracker.update(measured_ms=44.0, predicted_ms=40.0) == pytest.approx(math.sqrt(1.1))
    assert tracker.observations == 1


@pytest.mark.parametrize(("ratio", "expected"), [(2.0, 2.0), (0.7, 0.7), (100.0, 8.0), (0.01, 0.5)])
def test_converges_within_bounds(ratio: float, expected: float) -> None:
    tracker = DriftTracker()
    for _ in range(100):
        tracker.update(measured_ms=ratio * 30.0, predicted_ms=30.0)
    assert tracker.factor == pytest.approx(expected, rel=1e-3)


def test_one_stall_moves_little_and_is_forgotten() -> None:
    tracker = DriftTracker()
    assert tracker.update(measured_ms=4000.0, predicted_ms=40.0) < 1.12
    for _ in range(20):
        tracker.update(measured_ms=40.0, predicted_ms=40.0)
    assert tracker.factor < 1.01


def test_a_doubling_is_followed_within_a_dozen_calls() -> None:
    tracker = DriftTracker()
    for _ in range(12):
        tracker.update(measured_ms=80.0, predicted_ms=40.0)
    assert tracker.factor > 1.7
    tracker.reset()
    assert (tracker.factor, tracker.observations) == (1.0, 0)


@pytest.mark.parametrize("measured", [0.0, -1.0, math.nan, math.inf])
def test_bad_measurements(measured: float) -> None:
    with pytest.raises(OutcomesError, match="positive, finite times"):
        DriftTracker().update(measured_ms=measured, predicted_ms=10.0)


def test_bad_options() -> None:
    with pytest.raises(OutcomesError, match="gain 0"):
        DriftTracker(gain=0.0)
