"""Closed gap over the share of outcomes profiled, a line per plan, for README and docs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paceline.report.axes import PANEL_WIDTH, percent_axis
from paceline.report.figures import new_figure, save_figure
from paceline.report.theme import style, theme_named

LOOKS = {
    # plan: (colour of the theme, line style, marker)
    "lhs": ("full", "-", "o"),
    "balanced": ("cheapest", "--", "s"),
    "stratified": ("best-static", "-.", "D"),
    "boundary": ("oracle", ":", "^"),
    "successive": ("paceline", "-", "P"),
}
TITLES = {"hard": "Hard budgets", "average": "Average budgets"}


def save_plot(plans: Mapping[str, Mapping[str, Any]], path: Path, theme: str) -> Path:
    """One panel per kind of budget; bars are standard errors over seeds of the difference to lhs.

    plans: "PLAN NUMBER" or "full" -> the summaries of `sampling_plans`.
    """
    palette = theme_named(theme)
    with style(palette):
        figure, grid = new_figure(2 * PANEL_WIDTH, 380, 1, 2, sharey=True)
        for axes, (mode, title) in zip(grid[0], TITLES.items(), strict=True):
            full = plans["full"][f"closed_gap_{mode}"]["mean"]
            axes.axhline(full, color=palette["muted"], linewidth=1.2, linestyle=(0, (2, 3)), zorder=2)
            axes.annotate(
                "all configurations", (1.0, full), xycoords=("axes fraction", "data"), xytext=(-2, 5),
                textcoords="offset points", ha="right", fontsize=10.5, color=palette["muted"],
            )  # fmt: skip
            for plan, (colour, dash, marker) in LOOKS.items():
                rows = [row for name, row in plans.items() if name.split()[0] == plan]
                rows.sort(key=lambda row: row["share_of_outcomes"]["mean"])
                axes.errorbar(
                    [row["share_of_outcomes"]["mean"] for row in rows],
                    [row[f"closed_gap_{mode}"]["mean"] for row in rows],
                    yerr=np.array([row[f"over_lhs_{mode}"]["standard_error"] for row in rows]),
                    label=plan, color=palette[colour], linestyle=dash, marker=marker, markersize=7,
                    markeredgecolor=palette["surface"], elinewidth=1.2, zorder=3,
                )  # fmt: skip
            percent_axis(axes.xaxis)
            percent_axis(axes.yaxis)
            axes.set_xlabel("outcomes profiled, share of all")
            axes.set_title(title)
        grid[0, 0].set_ylabel("closed gap")
        figure.legend(
            *grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False
        )
    return save_figure(figure, path, palette)
