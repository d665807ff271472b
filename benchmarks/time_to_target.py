"""How long learners take to the same reward: their curves, clocks and ratios."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(slots=True)
class Curve:
    """Validation reward over training time."""

    processor: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)

    def first(self, target: float, clock: str) -> float | None:
        """Seconds until a judgement is at the target or above."""
        times = getattr(self, clock)
        return next((t for t, reward in zip(times, self.reward, strict=True) if reward >= target), None)


class Stopwatch:
    """Processor and wall seconds, without what happens while it is stopped."""

    def __init__(self) -> None:
        self.spent = np.zeros(2)
        self.started = self._now()

    @staticmethod
    def _now() -> np.ndarray:
        return np.array([time.process_time(), time.perf_counter()])

    def note(self, curve: Curve, judge: Callable[[], float]) -> None:
        """Judge with the clock stopped."""
        self.spent += self._now() - self.started
        curve.processor.append(float(self.spent[0]))
        curve.wall.append(float(self.spent[1]))
        curve.reward.append(judge())
        self.started = self._now()


def compared(ours: list[Curve], theirs: list[Curve], target: float, clock: str) -> dict[str, Any]:
    """Seconds to a target, by seed, and theirs over ours: of the medians, and the smallest over seeds.

    No ratio where a run never gets there.
    """
    reached = {
        name: [curve.first(target, clock) for curve in curves]
        for name, curves in (("paceline", ours), ("ppo", theirs))
    }
    line: dict[str, Any] = {"target": round(target, 5)} | {
        name: [None if seconds is None else round(seconds, 3) for seconds in found]
        for name, found in reached.items()
    }
    mine, other = ([second for second in found if second is not None] for found in reached.values())
    if len(mine) < len(ours) or len(other) < len(theirs):
        return line | {"ratio": None, "lowest_ratio": None}
    lowest = min(b / a for a, b in zip(mine, other, strict=True))
    return line | {
        "ratio": round(statistics.median(other) / statistics.median(mine), 1),
        "lowest_ratio": round(lowest, 1),
    }
