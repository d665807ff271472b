"""The clock of one request: wall time by phase, with the device synchronised at every mark."""

import time

import torch

from paceline.models.protocol import Timings


class PhaseClock:
    """Wall time between marks of one request, in milliseconds; the device is synchronised at every mark."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: dict[str, float] = {}
        self._start = self._now()

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def mark(self, phase: str) -> None:
        """The named phase ends now."""
        self._marks[phase] = self._now()

    def timings(self) -> Timings:
        """Phases of a request that marked vision, prefill and decode."""
        vision, prefill, decode = (self._marks[phase] for phase in ("vision", "prefill", "decode"))
        return Timings(
            vision_ms=(vision - self._start) * 1e3,
            prefill_ms=(prefill - vision) * 1e3,
            decode_ms=(decode - prefill) * 1e3,
            total_ms=(decode - self._start) * 1e3,
            first_token_ms=(prefill - self._start) * 1e3,
        )
