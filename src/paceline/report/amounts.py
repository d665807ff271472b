"""How what a choice takes is written: milliseconds, or a cost in its unit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from paceline.latency.quantity import MILLISECONDS
from paceline.report.reading import DASH, milliseconds

SMALL = 1e-3
"""Costs below are written by their power of ten, so that they fit into a column."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """Numbers in one unit.

    >>> Amounts().text(41.26), Amounts("usd").text(0.0012345), Amounts("usd").number(24.7)
    ('41.3 ms', '0.00123 usd', '24.7')
    >>> Amounts("usd").text(0.000025341)
    '2.53e-5 usd'
    """

    unit: str = MILLISECONDS

    @property
    def noun(self) -> str:
        """What the numbers are: "latency" or "cost"."""
        return "latency" if self.unit == MILLISECONDS else "cost"

    def number(self, value: float | None) -> str:
        """Without the unit, as where it stands above: costs with three digits that count."""
        if value is None or not np.isfinite(value):
            return DASH
        if self.unit == MILLISECONDS:
            return milliseconds(value, unit=False)
        if 0 < abs(value) < SMALL:
            return np.format_float_scientific(value, precision=2, trim="-", exp_digits=1)
        return np.format_float_positional(value, precision=3, fractional=False, trim="-")

    def text(self, value: float | None) -> str:
        """With the unit."""
        number = self.number(value)
        return number if number == DASH else f"{number} {self.unit}"


def amounts_of(results: Mapping[str, Any]) -> Amounts:
    """The unit of results: that of their provenance, milliseconds where it names none."""
    return Amounts((results.get("provenance") or {}).get("unit", MILLISECONDS))
