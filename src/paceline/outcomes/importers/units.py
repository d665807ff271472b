"""Units of measures: recognised where stated, refused where not."""

import re
from dataclasses import dataclass

from paceline.budgets import parse_budget
from paceline.errors import BudgetError, OutcomesError

TIME_UNITS = {"milliseconds": 1.0, "ms": 1.0, "seconds": 1000.0, "s": 1000.0, "sec": 1000.0}
"""What a value is multiplied by to be milliseconds."""
SHARE_UNITS = {"fraction": 1.0, "percent": 0.01, "pct": 0.01}
"""What a value is multiplied by to be in [0, 1]."""
TAKEN = ("%", "ms", "s")
"""What `paceline.budgets` reads as something else than a unit of costs."""
_NAME_TIMES = {
    "ms": "ms",
    "milliseconds": "ms",
    "msec": "ms",
    "s": "s",
    "sec": "s",
    "secs": "s",
    "seconds": "s",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A column and what its values are multiplied by."""

    column: str
    factor: float
    unit: str  # as stated


def time_measure(text: str, option: str = "--latency") -> Measure:
    """The column of a time, from UNIT:COLUMN or from a column whose name ends in its unit.

    >>> time_measure("seconds:runtime").factor, time_measure("latency_ms").factor
    (1000.0, 1.0)

    Raises:
        OutcomesError: an unknown unit, or none.
    """
    unit, _, column = text.rpartition(":")
    if unit:
        if unit not in TIME_UNITS or not column:
            raise OutcomesError(
                f"{option}: got {text!r}, expected UNIT:COLUMN with a unit among {sorted(TIME_UNITS)}"
            )
        return Measure(column=column, factor=TIME_UNITS[unit], unit="ms" if TIME_UNITS[unit] == 1 else "s")
    stated = unit_in_name(column)
    if stated is None:
        raise OutcomesError(
            f"{option}: column {column!r} does not say whether it is milliseconds or seconds; "
            f"use {option} milliseconds:{column} or {option} seconds:{column}"
        )
    return Measure(column=column, factor=TIME_UNITS[stated], unit=stated)


def unit_in_name(column: str) -> str | None:
    """ "ms" or "s" where the last word of a name is a unit of time.

    >>> unit_in_name("runtime_s"), unit_in_name("latency (ms)"), unit_in_name("latency")
    ('s', 'ms', None)
    """
    words = re.findall(r"[a-z]+", column.lower())
    return _NAME_TIMES.get(words[-1]) if len(words) > 1 else None


def share_measure(text: str, option: str = "--quality") -> Measure:
    """The column of a score, from percent:COLUMN, fraction:COLUMN or COLUMN.

    A bare column is in percent where its name says so, else in fractions: values above 1 are then refused by
    `refuse_percentages`.

    >>> share_measure("percent:score").factor, share_measure("accuracy_pct").factor, share_measure("correct").factor
    (0.01, 0.01, 1.0)
    """
    unit, _, column = text.rpartition(":")
    if unit:
        if unit not in SHARE_UNITS or not column:
            raise OutcomesError(f"{option}: got {text!r}, expected fraction:COLUMN, percent:COLUMN or COLUMN")
        return Measure(
            column=column, factor=SHARE_UNITS[unit], unit="fraction" if unit == "fraction" else "percent"
        )
    percent = "%" in column or bool({"percent", "pct"} & set(re.findall(r"[a-z]+", column.lower())))
    return Measure(column=column, factor=0.01 if percent else 1.0, unit="percent" if percent else "fraction")


def refuse_percentages(place: str, low: float, high: float, factor: float, advice: str) -> None:
    """Refuse scores outside [0, 1] (or [0, 100] where percent is stated); low and high are as in the file."""
    top = 1.0 if factor == 1.0 else 100.0
    if low < 0 or high > top:
        settle = advice if factor == 1.0 and low >= 0 and high <= 100 else "repair the scores"
        raise OutcomesError(f"{place}: scores run from {low:g} to {high:g}, expected 0 to {top:g}; {settle}")


def check_cost_unit(unit: str) -> None:
    """OutcomesError for a unit of costs in which budgets could not be said, as in 0.5usd, or mean something else."""
    try:
        understood = parse_budget(f"0.5{unit}", full_ms=None, unit=unit) == 0.5
    except BudgetError:
        understood = False
    if not understood or unit.lower() in TAKEN:
        raise OutcomesError(
            f"--cost: got the unit {unit!r}, expected one that can stand behind a number, as in 0.5usd, and none of "
            f"{', '.join(TAKEN)}, in which budgets are said already"
        )
