"""Plots of the global picture of a controller. Each takes the data and a theme and gives a matplotlib figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paceline.report.amounts import Amounts
from paceline.report.axes import HALF_WIDTH, PANEL_WIDTH, percent_axis, time_axis
from paceline.report.figures import new_figure
from paceline.report.theme import Theme, style

KIND_LOOKS = (
    ("paceline", "-", "o"),
    ("best-static", "--", "s"),
    ("oracle", ":", "^"),
    ("supervised", "-.", "D"),
    ("outcome", ":", "P"),
    ("lookup", "-.", "v"),
)
"""Colour, line style and marker of the kinds of question that have a line; one per kind, most frequent first."""


def kind_lines(use: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str, str]]:
    """Kinds that have a line in `knob_by_kind` and their looks; "all" where there is one kind only."""
    kinds = list(use[0]["kinds"])
    return dict(zip(kinds[1:] or kinds, KIND_LOOKS, strict=False))


def knob_by_kind(use: Sequence[Mapping[str, Any]], knob: str, amounts: Amounts, theme: Theme) -> Any:
    """Mean option of one knob against the budget, a line per kind of question."""
    budgets = np.array([row["budget_ms"] for row in use])
    with style(theme):
        figure, grid = new_figure(PANEL_WIDTH, 240)
        axes = grid[0, 0]
        for kind, (colour, dash, marker) in kind_lines(use).items():
            means = [row["kinds"][kind]["knobs"][knob] for row in use]
            axes.plot(
                budgets, means, color=theme[colour], linestyle=dash, marker=marker, markersize=6,
                markeredgecolor=theme["surface"], markeredgewidth=1.0,
            )  # fmt: skip
        time_axis(axes, float(budgets.min()), float(budgets.max()))
        axes.margins(y=0.15)
        axes.set_xlabel(f"budget, {amounts.unit}")
        axes.set_ylabel("mean option")
    return figure


def group_importance(groups: Mapping[str, Mapping[str, Any]], theme: Theme) -> Any:
    """Share of choices that change, and accuracy lost, without each group of inputs; 95 % intervals."""
    known = {name: facts for name, facts in groups.items() if "not_read" not in facts}
    places = np.arange(len(known))[::-1]
    with style(theme):
        figure, grid = new_figure(HALF_WIDTH, 90 + 55 * max(1, len(known)), 1, 2, sharey=True)
        looks = (
            ("changed", "paceline", "choices that change"),
            ("accuracy_lost", "best-static", "accuracy lost"),
        )
        for axes, (metric, colour, title) in zip(grid[0], looks, strict=True):
            values = np.array([facts[metric] for facts in known.values()])
            ends = np.array([facts[f"{metric}_ci"] for facts in known.values()]).reshape(-1, 2)
            axes.barh(places, values, height=0.5, color=theme[colour], zorder=3)
            axes.hlines(places, ends[:, 0], ends[:, 1], color=theme["ink"], linewidth=1.6, zorder=4)
            axes.axvline(0, color=theme["muted"], linewidth=1.0, zorder=2)
            axes.grid(visible=False, axis="y")
            percent_axis(axes.xaxis)
            axes.locator_params(axis="x", nbins=5)
            axes.set_title(title)
        grid[0, 0].set_yticks(places, list(known))
        grid[0, 0].set_ylim(-0.6, len(known) - 0.4)
    return figure


def fidelity(found: Mapping[str, Any], theme: Theme) -> Any:
    """How often the tree is right on held-out scenes, beside saying always the same."""
    rows = {
        "tree": ("fidelity", "paceline"),
        "most frequent\nof each budget": ("most_frequent_at_budget", "dot"),
        "most frequent": ("most_frequent", "dot"),
    }
    places = np.arange(len(rows))[::-1]
    with style(theme):
        figure, grid = new_figure(HALF_WIDTH, 220)
        axes = grid[0, 0]
        values = [found[key] for key, _ in rows.values()]
        axes.barh(places, values, height=0.5, color=[theme[colour] for _, colour in rows.values()], zorder=3)
        axes.set_yticks(places, list(rows))
        axes.set_xlim(0, 1)
        axes.grid(visible=False, axis="y")
        percent_axis(axes.xaxis)
        axes.set_xlabel("decisions said right")
    return figure
