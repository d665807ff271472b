"""Checks of the numbers in options."""

import math
from typing import Any

from paceline.errors import PacelineError, TrainError

LARGEST_SEED = 2**31 - 1


def check_whole(name: str, value: Any, least: int, error: type[PacelineError] = TrainError) -> None:
    """`error` unless `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise error(f"{name}: got {value!r}, expected a whole number of at least {least}")


def check_seed(value: Any) -> None:
    """TrainError unless `value` is a seed that every library takes, with room for those of folds and members."""
    check_whole("seed", value, 0)
    if value > LARGEST_SEED:
        raise TrainError(f"seed: got {value}, expected at most {LARGEST_SEED}")


def check_number(
    name: str, value: Any, *, above: float | None = None, below: float = math.inf, at_most: float = math.inf
) -> None:
    """TrainError unless `value` is finite, at least 0 (or above `above`), below `below` and at most `at_most`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    low = number and (value > above if above is not None else value >= 0)
    if not (low and math.isfinite(value) and value < below and value <= at_most):
        bound = f"below {below:g}" if below < math.inf else f"at most {at_most:g}"
        bound = "finite" if math.isinf(min(below, at_most)) else bound
        least = f"above {above:g}" if above is not None else "at least 0"
        raise TrainError(f"{name}: got {value!r}, expected a number {least} and {bound}")
