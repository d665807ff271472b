"""Latency as a share of the budget, and accuracy, per budget and reward."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paceline.report.amounts import Amounts
from paceline.report.axes import HALF_WIDTH, budget_ticks, percent_axis
from paceline.report.figures import new_figure, save_figure
from paceline.report.theme import style, theme_named

LOOKS = {
    # reward: (name in the legend, colour of the theme, line style, marker)
    "masked": ("masked (default)", "paceline", "-", "o"),
    "v1": ("v1", "lookup", "-.", "v"),
    "v1_seconds": ("v1 if full took 1 s", "supervised", "-.", "D"),
    "v2": ("v2", "outcome", ":", "P"),
    "best_static": ("best static", "best-static", "--", "s"),
}
PANELS = {
    "latency_share": "What the choices take, share of the budget",
    "accuracy": "How often they are right",
}


def save_plot(result: Mapping[str, Any], path: Path, theme: str) -> Path:
    """Two panels over budgets; bars are standard deviations over seeds. `result` as from `slide`."""
    palette = theme_named(theme)
    budgets = np.array(result["budgets_ms"])
    lines = {**result["rewards"], "best_static": result["best_static"]}
    with style(palette):
        figure, grid = new_figure(2 * HALF_WIDTH, 400, 1, 2)
        for axes, (measure, title) in zip(grid[0], PANELS.items(), strict=True):
            for offset, (name, (label, colour, dash, marker)) in enumerate(LOOKS.items()):
                line = lines[name]
                axes.errorbar(
                    np.arange(len(budgets)) + 0.05 * (offset - 2), line[measure],
                    yerr=line.get(f"{measure}_deviation"), label=label, color=palette[colour], linestyle=dash,
                    marker=marker, markersize=7, markeredgecolor=palette["surface"], elinewidth=1.2, zorder=3,
                )  # fmt: skip
            percent_axis(axes.yaxis)
            budget_ticks(axes, budgets, Amounts())
            axes.set_title(title)
        figure.legend(
            *grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False
        )
    return save_figure(figure, path, palette)
