"""Budgets: what a request may take. Parsing, checking, and the encoding that the policy sees."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from typing import SupportsFloat, cast

import numpy as np

from paceline.errors import BudgetError

POSITION_RANGE = (-0.25, 1.25)
"""Log positions are clipped here: a little beyond the cheapest (0) and the full configuration (1)."""

_UNITS_MS = {"": 1.0, "ms": 1.0, "s": 1000.0}
_AMOUNT = re.compile(r"\s*([-+]?[\d.]+(?:e[-+]?\d+)?|[-+]?nan|[-+]?inf)\s*(\S*)\s*", re.IGNORECASE)
_EXPECTED = "expected a positive, finite time in milliseconds"


@dataclass(frozen=True, kw_only=True, slots=True)
class HardBudget:
    """What one request may take; None leaves that side unlimited.

    >>> HardBudget(budget_ms=60.0).remaining_ms(elapsed_ms=12.5)
    47.5
    """

    budget_ms: float | None = None  # for the whole call, overview included
    first_token_budget_ms: float | None = None  # to the first token, overview included

    def __post_init__(self) -> None:
        if self.budget_ms is not None:
            checked_ms("budget_ms", self.budget_ms)
        if self.first_token_budget_ms is not None:
            checked_ms("first_token_budget_ms", self.first_token_budget_ms)

    @property
    def unlimited(self) -> bool:
        """True when neither side is limited."""
        return self.budget_ms is None and self.first_token_budget_ms is None

    def remaining_ms(self, elapsed_ms: float) -> float | None:
        """What is left of `budget_ms` after `elapsed_ms`; may be negative, None when unlimited."""
        return None if self.budget_ms is None else self.budget_ms - elapsed_ms

    def first_token_remaining_ms(self, elapsed_ms: float) -> float | None:
        """What is left of `first_token_budget_ms` after `elapsed_ms`; may be negative, None when unlimited."""
        return None if self.first_token_budget_ms is None else self.first_token_budget_ms - elapsed_ms


def checked_ms(name: str, value: SupportsFloat | str | None, unit: str = "ms") -> float:
    """`value` as a float when it is a positive, finite number of milliseconds (of `unit`); BudgetError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise BudgetError(f"{name}: got {value!r}, {_expected(unit)}")
    try:
        number = float(value)
    except OverflowError as error:
        raise BudgetError(f"{name}: got a number beyond the largest float, {_expected(unit)}") from error
    if not math.isfinite(number) or number <= 0:
        raise BudgetError(f"{name}: got {number:g} {unit}, {_expected(unit)}")
    return number


def _expected(unit: str) -> str:
    return _EXPECTED if unit == "ms" else f"expected a positive, finite amount in {unit}"


def parse_budget(
    value: SupportsFloat | str,
    *,
    full_ms: float | None,
    classes: Mapping[str, float] | None = None,
    unit: str = "ms",
    name: str = "budget",
) -> float:
    """A budget in milliseconds, or in the `unit` of costs, from what a user writes.

    `value` is a number of milliseconds (60, "60", "60ms"), seconds ("0.06s"), a share of the full
    configuration's latency `full_ms` ("80%"), or a name in `classes` (name -> milliseconds: "low", "medium",
    "high"). Where budgets are costs, numbers and what `full_ms` and `classes` hold are in `unit`, which may be
    said ("0.002usd"), and times are refused. Where `full_ms` is None there are no shares. Anything else, zero,
    negative, NaN and infinity raise BudgetError.

    >>> parse_budget("0.06s", full_ms=200), parse_budget("80%", full_ms=200)
    (60.0, 160.0)
    >>> parse_budget("low", full_ms=200, classes={"low": 40.0})
    40.0
    >>> parse_budget("0.002usd", full_ms=0.01, unit="usd"), parse_budget("80%", full_ms=0.01, unit="usd")
    (0.002, 0.008)
    """
    if not isinstance(value, str):
        return checked_ms(name, value, unit)
    named = {known.lower(): amount for known, amount in classes.items()} if classes else {}
    key = value.strip().lower()
    if key in named:
        return checked_ms(f"{name} {key!r}", named[key], unit)
    number, said = _number_and_unit(value)
    units = _UNITS_MS if unit == "ms" else {"": 1.0, unit.lower(): 1.0}
    share = said == "%" and full_ms is not None
    if number is None or not (share or said in units):
        raise BudgetError(f"{name}: got {value!r}, expected {_ways(unit, full_ms is not None, list(named))}")
    amount = number / 100 * checked_ms("full_ms", full_ms, unit) if share else number * units[said]
    if not 0 < amount < math.inf:
        expected = "expected a positive, finite share" if share else _expected(unit)
        raise BudgetError(f"{name}: got {value!r}, {expected}")
    return amount


@lru_cache(maxsize=256)
def _number_and_unit(text: str) -> tuple[float | None, str]:
    """The number and the lower-case unit that a text says; None where it says no number. Servers hear few texts."""
    match = _AMOUNT.fullmatch(text)
    try:
        return (float(match.group(1)), match.group(2).lower()) if match else (None, "")
    except ValueError:  # "1.2.3" has the letters of a number only
        return None, match.group(2).lower() if match else ""


def _ways(unit: str, shares: bool, classes: list[str]) -> str:
    """How a budget can be said."""
    if unit == "ms":
        ways, what = ["milliseconds (60 or '60ms')", "seconds ('0.06s')"], "latency"
    else:
        ways, what = [f"an amount in {unit} (0.002 or '0.002{unit}')"], "cost"
    if shares:
        listed = ", ".join(repr(name) for name in classes) or "none defined here"
        ways += [f"a share of the full configuration's {what} ('80%')", f"a class ({listed})"]
    return " or ".join([", ".join(ways[:-1]), ways[-1]]) if len(ways) > 1 else ways[0]


@lru_cache(maxsize=8)
def budget_frequencies(count: int) -> np.ndarray:
    """The `count` angular frequencies of `encode_budget`, float64 ascending; read-only."""
    frequencies = np.geomspace(math.pi / 2, 8 * math.pi, count)
    frequencies.setflags(write=False)
    return frequencies


def encode_budget(
    budget_ms: float | None | np.ndarray, *, low_ms: float, high_ms: float, dimensions: int = 32
) -> np.ndarray:
    """A budget's log position between `low_ms` and `high_ms`, or sines and cosines of it: float32 (..., dimensions).

    position p = log(budget / low) / log(high / low), clipped to [-0.25, 1.25]. One dimension is p itself (the linear
    encoding); an even number are pairs sin(w p), cos(w p) for dimensions / 2 frequencies w spaced geometrically from
    pi / 2 (monotone over the range) to 8 pi (a wave per quarter). None and infinity stand for no limit and take the
    highest position; a budget already spent (zero or negative remainder) takes the lowest. NaN raises BudgetError.
    """
    if dimensions <= 0 or (dimensions % 2 and dimensions > 1):
        raise BudgetError(f"dimensions: got {dimensions}, expected 1 or a positive even number")
    if not 0 < low_ms < high_ms < math.inf:
        raise BudgetError(
            f"budget range: got {low_ms:g} to {high_ms:g} ms, expected 0 < low < high < infinity"
        )
    budgets = np.asarray(math.inf if budget_ms is None else budget_ms, dtype=np.float64)
    if np.isnan(budgets).any():
        raise BudgetError(f"budget: got NaN, {_EXPECTED}, or None for no limit")
    bounds = [low_ms * (high_ms / low_ms) ** position for position in POSITION_RANGE]
    position = np.log(np.clip(budgets, *bounds) / low_ms) / math.log(high_ms / low_ms)
    if dimensions == 1:
        return position[..., None].astype(np.float32)
    angles = position[..., None] * budget_frequencies(dimensions // 2)
    return cast(np.ndarray, np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32))
