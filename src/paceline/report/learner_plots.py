"""Plots of many learners: ranked closed gaps, accuracy by budget with a few of them in front, spread over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paceline.errors import PacelineError
from paceline.report.amounts import amounts_of
from paceline.report.axes import HALF_WIDTH, PANEL_WIDTH, budget_ticks, legend_above, line_look
from paceline.report.figures import new_figure, save_figure
from paceline.report.reading import (
    Results,
    budgets_of,
    contender_label,
    contenders_in,
    points,
    section_of,
    series_of,
    share,
    share_interval,
)
from paceline.report.standings import Standing, gap_modes, rival_of, standings
from paceline.report.theme import Theme, style, theme_named

FRONT = ("oracle", "lightgbm", "stacking", "grpo_teacher", "paceline")
"""Contenders with a line of their own, drawn in this order; all others are grey."""
LOWEST_GAP = -0.5
"""Closed gaps below this stand at the edge with their number: one bad contender must not squeeze the others."""
ROOM = 0.42
"""Width on the right for numbers, as a share of the axis."""
DEPTH = 0.6
"""How far below best static accuracies are shown, as a share of what the highest is above it."""


def ranked_gaps(results: Results, mode: str, theme: Theme) -> Any:
    """Mean closed gap of every contender with its interval, the highest on top."""
    rows = standings(results, mode)
    if not rows:
        raise PacelineError(f"results: no closed gaps under {mode}; there is nothing to rank")
    ends = [end for row in rows for end in row.gap_ci or ()]
    high = max(1.0, *(row.gap for row in rows), *ends)
    low = min(0.0, max(LOWEST_GAP, min([row.gap for row in rows] + ends)))
    margin = 0.04 * (high - low)
    with style(theme):
        figure, grid = new_figure(HALF_WIDTH, 76 + 25 * len(rows))
        axes = grid[0, 0]
        for place, line_style in ((0.0, "-"), (1.0, ":")):
            axes.axvline(place, color=theme["muted"], linewidth=1.2, linestyle=line_style, zorder=1)
        rival = next((row for row in rows if row.name == rival_of(results, mode)), None)
        if rival is not None:
            axes.axvline(rival.gap, color=theme["lightgbm"], linewidth=1, linestyle="--", alpha=0.7, zorder=1)
        for place, row in enumerate(rows):
            _ranked_row(axes, place, row, low - margin, theme)
        axes.set_yticks(np.arange(len(rows)), [row.label for row in rows])
        for label, row in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_color(theme["ink"] if row.learned else theme["muted"])
            label.set_fontweight("bold" if row.name == "paceline" else "normal")
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(low - margin, high + ROOM * (high - low))
        axes.set_xticks([tick for tick in np.arange(-0.5, 1.01, 0.25) if low - margin <= tick])
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("closed gap: 0 is best static, 1 the oracle")
    return figure


def _ranked_row(axes: Any, place: int, row: Standing, edge: float, theme: Theme) -> None:
    look = line_look(theme, row.name) | {"linestyle": "none"}
    if not row.learned:
        look |= {"color": theme["dot"]}
    inside = row.gap >= edge
    if inside and row.gap_ci is not None:
        axes.plot(
            np.clip(row.gap_ci, edge, None), [place, place], color=look["color"], linewidth=2.4, alpha=0.55, zorder=2
        )  # fmt: skip
    shown = look if inside else look | {"marker": "<", "markersize": 8}
    axes.plot([max(row.gap, edge)], [place], zorder=3, clip_on=False, **shown)
    axes.annotate(
        f"{share(row.gap)}  {share_interval(row.gap_ci)}", (1.0, place), xycoords=("axes fraction", "data"),
        ha="right", va="center", fontsize=10, color=theme["ink"] if row.learned else theme["muted"],
    )  # fmt: skip


def accuracy_by_budget(results: Results, mode: str, theme: Theme) -> tuple[Any, dict[str, str]]:
    """Accuracy above best static's at each budget, `FRONT` in colour and the others grey, and a hint per mark."""
    section = section_of(results, mode)
    base = None if section is None else series_of(section, "accuracy", "best_static")
    if section is None or base is None:
        raise PacelineError(
            f"results: {mode} has no accuracy of best static; there is nothing to compare with"
        )
    lines = {}
    for name in contenders_in(section, "accuracy"):
        values = series_of(section, "accuracy", name)
        if values is not None and name not in ("best_static", "full", "cheapest", "random"):
            lines[name] = 100 * (values - base)
    budgets, hints = budgets_of(section), {}
    with style(theme):
        figure, grid = new_figure(HALF_WIDTH, 440)
        axes = grid[0, 0]
        axes.axhline(0, color=theme["muted"], linewidth=1.2, zorder=1)
        places = np.arange(len(budgets))
        behind = [name for name in lines if name not in FRONT]
        for name in (*behind, *(name for name in FRONT if name in lines)):
            label = contender_label(name, mode)
            if name in behind:
                look = {
                    "color": theme["dot"],
                    "linewidth": 1.2,
                    "alpha": 0.55,
                    "marker": "o",
                    "markersize": 3.5,
                }
                axes.plot(places, lines[name], zorder=2, **look)
            else:
                strong = name == "paceline"
                axes.plot(
                    places, lines[name], label=label, zorder=4 if strong else 3,
                    linewidth=2.8 if strong else 1.9, **line_look(theme, name),
                )  # fmt: skip
            for index, value in enumerate(lines[name]):
                if np.isfinite(value):
                    gid = f"{name}-{index}"
                    hints[gid] = (
                        f"{label} at {amounts_of(results).text(budgets[index])}: {points(value / 100)} points"
                    )
                    _target(axes, places[index], value, theme, gid)
        top = max(1.0, *(np.nanmax(line) for line in lines.values()))
        bottom = min(np.nanmin(line) for line in lines.values())
        axes.set_ylim(max(bottom, -DEPTH * top) - 0.05 * top, 1.06 * top)
        if behind:
            axes.plot([], [], color=theme["dot"], linewidth=1.2, marker="o", markersize=3.5, label="Others")
        budget_ticks(axes, budgets, amounts_of(results))
        axes.set_ylabel("accuracy over best static, points")
        legend_above(axes, columns=3)
    return figure, hints


def _target(axes: Any, x: float, y: float, theme: Theme, gid: str) -> None:
    dot = axes.plot(
        x, y, "o", markersize=10, color=theme["dot"], markeredgewidth=0, alpha=0, zorder=6, gid=gid
    )
    dot[0].set_in_layout(False)


def seed_spread(results: Results, mode: str, theme: Theme) -> Any:
    """Mean closed gap of every learner by seed, a dot each, and their mean, the steadiest of equals on top."""
    spread = _spread(results, mode)
    everything = [gap for _, one in spread for gap in one["closed_gap"]]
    low, high = max(LOWEST_GAP, min(everything)), max(everything)
    margin = 0.06 * (high - low) or 0.05
    with style(theme):
        figure, grid = new_figure(HALF_WIDTH, 76 + 25 * len(spread))
        axes = grid[0, 0]
        for place, (name, one) in enumerate(spread):
            colour = line_look(theme, name)["color"]
            gaps = np.clip(one["closed_gap"], low - margin, None)
            axes.plot(
                [gaps.min(), gaps.max()], [place, place], color=colour, linewidth=2.4, alpha=0.35, zorder=2
            )
            axes.plot(
                gaps, np.full(len(gaps), place), "o", color=colour, markersize=6, alpha=0.7, markeredgewidth=0, zorder=3
            )  # fmt: skip
            axes.plot(
                max(one["mean"], low - margin), place, "|", color=colour, markersize=15, markeredgewidth=2.5
            )
            axes.annotate(
                f"{share(one['mean'])} ± {share(one['std'])}", (1.0, place), xycoords=("axes fraction", "data"),
                ha="right", va="center", fontsize=10, color=theme["ink"],
            )  # fmt: skip
        axes.set_yticks(np.arange(len(spread)), [contender_label(name) for name, _ in spread])
        axes.tick_params(axis="y", labelcolor=theme["ink"])
        axes.set_ylim(len(spread) - 0.4, -0.6)
        axes.set_xlim(low - margin, high + ROOM * (high - low + 2 * margin))
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("mean closed gap of one seed")
    return figure


def _spread(results: Results, mode: str) -> list[tuple[str, Mapping[str, Any]]]:
    spread = (results.get("stability") or {}).get(mode)
    if not spread:
        raise PacelineError(f"results: no stability under {mode}; run: paceline compare --seeds 5")
    return sorted(spread.items(), key=lambda item: (-round(item[1]["mean"], 4), item[1]["std"]))


def seed_curves(curves: Sequence[Sequence[float]], name: str, theme: Theme) -> Any:
    """Validation reward of one learner over its epochs, a line per seed."""
    with style(theme):
        figure, grid = new_figure(PANEL_WIDTH, 220)
        axes = grid[0, 0]
        for curve in curves:
            axes.plot(
                np.arange(1, len(curve) + 1),
                curve,
                color=line_look(theme, name)["color"],
                linewidth=1.6,
                alpha=0.7,
            )
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("epoch")
        axes.set_ylabel("validation reward")
    return figure


def save_learner_plots(results: Results, directory: Path | str, theme: str = "light") -> list[Path]:
    """Write every plot that there is something for as SVG files; returns their paths."""
    directory, palette = Path(directory), theme_named(theme)
    figures: dict[str, Any] = {}
    for mode in gap_modes(results):
        figures[f"closed_gap_{mode}"] = ranked_gaps(results, mode, palette)
        if section_of_mode(results, mode) is not None:
            figures[f"accuracy_{mode}"], _ = accuracy_by_budget(results, mode, palette)
        if (results.get("stability") or {}).get(mode):
            figures[f"seeds_{mode}"] = seed_spread(results, mode, palette)
    for name, curves in curves_of(results).items():
        figures[f"curves_{name}"] = seed_curves(curves, name, palette)
    return [save_figure(figure, directory / f"{name}.svg", palette) for name, figure in figures.items()]


def section_of_mode(results: Results, mode: str) -> Mapping[str, Any] | None:
    """The part of one kind of budget; None for PAR10, which has no budgets."""
    return None if mode == "par10" else section_of(results, mode)


def curves_of(results: Results) -> dict[str, list[list[float]]]:
    """Validation rewards by learner and seed, of learners that keep some."""
    curves = (results.get("stability") or {}).get("curves") or {}
    return {name: [line for line in lines if line] for name, lines in curves.items() if any(lines)}
