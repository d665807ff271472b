"""What the plots share: sizes, axes of time and accuracy, legends, the look of a contender."""

from typing import Any

import numpy as np

from paceline.report.amounts import Amounts
from paceline.report.reading import percent
from paceline.report.theme import MONOCHROME_HINTS, Theme

HALF_WIDTH, PANEL_WIDTH = 540, 360
"""Widths in CSS pixels of a plot that shares a row with one other and with two others."""


def colour_key(contender: str) -> str:
    """Name of a contender's colour in a theme."""
    return contender.replace("_", "-")


def line_look(theme: Theme, contender: str) -> dict[str, Any]:
    """Colour, line style and marker of a contender."""
    key = colour_key(contender)
    dash, marker = MONOCHROME_HINTS.get(key, ("-", "o"))
    return {
        "color": theme.get(key, theme["muted"]), "linestyle": dash, "marker": marker,
        "markersize": 8 if marker in "^v" else 6.5, "markeredgecolor": theme["surface"], "markeredgewidth": 1.0,
    }  # fmt: skip


def time_axis(axes: Any, low: float, high: float) -> None:
    """Milliseconds along x: logarithmic with 1-2-5 ticks when the range spans more than a factor of 8."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    if high / low > 8:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.12, high * 1.12)
        decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
        axes.set_xticks([tick for tick in ticks if low / 1.12 <= tick <= high * 1.12])
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        margin = 0.05 * (high - low) or 1.0
        axes.set_xlim(max(0.0, low - margin), high + margin)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def percent_axis(axis: Any, digits: int = 0) -> None:
    """Fractions as percentages."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: percent(value, digits)))


def legend_above(axes: Any, columns: int = 4, **options: Any) -> None:
    """One row of legend over the plot."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, borderaxespad=0.2, handlelength=2.1,
        columnspacing=1.3, handletextpad=0.5, **options,
    )  # fmt: skip


def budget_ticks(axes: Any, budgets: np.ndarray, amounts: Amounts) -> None:
    """One place per budget along x."""
    axes.set_xticks(np.arange(len(budgets)), [amounts.number(budget) for budget in budgets])
    axes.set_xlim(-0.5, len(budgets) - 0.5)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel(f"budget, {amounts.unit}")
