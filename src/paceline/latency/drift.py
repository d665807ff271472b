"""Slow-downs of the machine, tracked while serving: one multiplicative factor. Standard library only."""

import math
from threading import Lock

from paceline.errors import OutcomesError


class DriftTracker:
    """Exponential filter of log(measured / predicted), bounded.

    Feed it each finished call with the prediction made WITHOUT the factor; multiply new predictions by
    `factor`. One stall moves the factor little (each step is bounded), a busy machine moves it within a few
    calls.

    >>> tracker = DriftTracker()
    >>> for _ in range(40):
    ...     _ = tracker.update(measured_ms=60.0, predicted_ms=40.0)
    >>> round(tracker.factor, 2)
    1.5
    """

    def __init__(
        self,
        *,
        gain: float = 0.15,
        largest_step: float = math.log(2.0),
        bounds: tuple[float, float] = (0.5, 8.0),
    ) -> None:
        if not 0 < gain <= 1 or not largest_step > 0 or not 0 < bounds[0] <= 1 <= bounds[1]:
            raise OutcomesError(
                f"drift: got gain {gain}, largest_step {largest_step}, bounds {bounds}; expected "
                "0 < gain <= 1, a positive step and bounds around 1"
            )
        self.gain = gain  # share of a new observation
        self.largest_step = largest_step  # bound on one observation's surprise, in log units
        self.bounds = bounds  # of the factor
        self._log_bounds = math.log(bounds[0]), math.log(bounds[1])
        self.observations = 0
        self._log_factor = 0.0
        self._lock = Lock()

    @property
    def factor(self) -> float:
        """Measured over predicted, now; 1 before anything was seen."""
        return math.exp(self._log_factor)

    def update(self, *, measured_ms: float, predicted_ms: float) -> float:
        """Take one finished call into account and return the new factor."""
        if not (0 < measured_ms < math.inf and 0 < predicted_ms < math.inf):
            raise OutcomesError(
                f"drift: got measured {measured_ms} ms, predicted {predicted_ms} ms; "
                "expected positive, finite times"
            )
        with self._lock:
            surprise = math.log(measured_ms / predicted_ms) - self._log_factor
            surprise = min(max(surprise, -self.largest_step), self.largest_step)
            low, high = self._log_bounds
            self._log_factor = min(max(self._log_factor + self.gain * surprise, low), high)
            self.observations += 1
            return self.factor

    def reset(self) -> None:
        """Forget everything: the factor is 1 again."""
        with self._lock:
            self._log_factor = 0.0
            self.observations = 0
