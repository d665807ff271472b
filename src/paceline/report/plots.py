"""Plots of results. Each takes the data and a theme and gives a matplotlib figure; `save_*` writes files.

The page draws them in `MARKERS`, README figures in `LIGHT` or `DARK`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paceline.errors import PacelineError
from paceline.evaluation.results import RIVALS
from paceline.report.amounts import amounts_of
from paceline.report.axes import (
    HALF_WIDTH,
    budget_ticks,
    legend_above,
    line_look,
    percent_axis,
    time_axis,
)
from paceline.report.figures import new_figure, save_figure
from paceline.report.reading import (
    MODES,
    Results,
    budgets_of,
    configuration_text,
    contender_label,
    intervals_of,
    milliseconds,
    percent,
    section_of,
    series_of,
)
from paceline.report.theme import Theme, style, theme_named

MAX_HINTS = 500
"""Dots that get a hint of their own; beyond that an SVG grows past what a page should weigh."""


def frontier(
    results: Results, mode: str, theme: Theme, title: str | None = None
) -> tuple[Any, dict[str, str]]:
    """Accuracy against time: every configuration a dot; best static, Paceline and oracle as curves.

    Hard budgets stand at the budget, average budgets at the mean latency that was reached. Returns the figure and a
    hint per dot (gid -> text).
    """
    section = section_of(results, mode)
    if section is None:
        raise PacelineError(f"results: {mode} budgets were not measured; there is no frontier to draw")
    hints: dict[str, str] = {}
    amounts = amounts_of(results)
    with style(theme):
        figure, grid = new_figure(HALF_WIDTH, 400)
        axes = grid[0, 0]
        spans = _dots(axes, results, theme, hints)
        budgets = budgets_of(section)
        for name in ("oracle", "best_static", "paceline"):
            accuracy = series_of(section, "accuracy", name)
            if accuracy is None:
                continue
            times = budgets if mode == "hard" else series_of(section, "mean_latency_ms", name)
            times = budgets if times is None else times
            strong = name == "paceline"
            axes.plot(
                times, accuracy, label=contender_label(name, mode), zorder=5 if strong else 3,
                linewidth=2.8 if strong else 1.9, **line_look(theme, name),
            )  # fmt: skip
            spans.append(times)
            for index in range(len(times)):
                gid = f"{name}-{index}"
                hints[gid] = (
                    f"{contender_label(name, mode)} at {amounts.text(budgets[index])}: {percent(accuracy[index])}"
                )
                _hover_target(axes, times[index], accuracy[index], 11, theme, gid)
        _gain_band(axes, section, mode, theme)
        times = np.concatenate([np.atleast_1d(span) for span in spans])
        times = times[np.isfinite(times) & (times > 0)]
        time_axis(axes, float(times.min()), float(times.max()))
        percent_axis(axes.yaxis)
        axes.set_xlabel(
            f"budget, {amounts.unit}" if mode == "hard" else f"mean {amounts.noun}, {amounts.unit}"
        )
        axes.set_ylabel("accuracy")
        legend_above(axes)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    return figure, hints


def _dots(axes: Any, results: Results, theme: Theme, hints: dict[str, str]) -> list[np.ndarray]:
    static = list(results.get("static") or ())
    if not static:
        return []
    times = np.array([row["latency_ms"] for row in static], dtype=float)
    accuracy = np.array([row["accuracy"] for row in static], dtype=float)
    axes.plot(
        times, accuracy, "o", markersize=5, color=theme["dot"], alpha=0.55, markeredgewidth=0, zorder=2,
        label="One configuration",
    )  # fmt: skip
    for index, row in enumerate(static[:MAX_HINTS]):
        gid = f"configuration-{index}"
        text = configuration_text(row.get("configuration"))
        hints[gid] = f"{text}: {percent(row['accuracy'])} in {amounts_of(results).text(row['latency_ms'])}"
        _hover_target(axes, times[index], accuracy[index], 9, theme, gid)
    return [times]


def _hover_target(axes: Any, x: float, y: float, size: float, theme: Theme, gid: str) -> None:
    dot = axes.plot(
        x, y, "o", markersize=size, color=theme["dot"], markeredgewidth=0, alpha=0, zorder=6, gid=gid
    )
    dot[0].set_in_layout(False)


def _gain_band(axes: Any, section: Mapping[str, Any], mode: str, theme: Theme) -> None:
    base, ends = series_of(section, "accuracy", "best_static"), intervals_of(section, "gain_ci")
    if base is None or ends is None:
        return
    times = budgets_of(section) if mode == "hard" else series_of(section, "mean_latency_ms", "paceline")
    if times is not None:
        axes.fill_between(
            times,
            base + ends[:, 0],
            base + ends[:, 1],
            color=theme["paceline"],
            alpha=0.16,
            linewidth=0,
            zorder=1,
        )


def gains(results: Results, mode: str, theme: Theme) -> Any:
    """What Paceline adds to its rivals at each budget, with 95 % intervals."""
    section = section_of(results, mode)
    if section is None:
        raise PacelineError(f"results: {mode} budgets were not measured; there are no gains to draw")
    rows = [(name, metric) for metric, name in RIVALS.items() if section.get(metric) is not None]
    budgets = budgets_of(section)
    with style(theme):
        figure, grid = new_figure(HALF_WIDTH, 300)
        axes = grid[0, 0]
        axes.axhline(0, color=theme["muted"], linewidth=1.2, zorder=2)
        for place, (name, metric) in enumerate(rows):
            values, ends = series_of(section, metric), intervals_of(section, f"{metric}_ci")
            assert values is not None
            spread = None if ends is None else np.abs(ends.T - values)
            look = line_look(theme, name) | {"linestyle": "none", "markersize": 9 if name == "lookup" else 7}
            axes.errorbar(
                np.arange(len(budgets)) + 0.2 * (place - (len(rows) - 1) / 2), 100 * values,
                yerr=None if spread is None else 100 * spread, elinewidth=2, zorder=3,
                label=f"over {contender_label(name, mode).lower()}", **look,
            )  # fmt: skip
        budget_ticks(axes, budgets, amounts_of(results))
        axes.set_ylabel("gain, points")
        legend_above(axes, columns=2 if len(rows) > 3 else 3)
    return figure


def knob_curves(rows: Sequence[Mapping[str, Any]], path: Path | str, theme: str = "light") -> Path:
    """One plot of accuracy and latency along each knob; returns the path of the PNG or SVG.

    rows: `{"knob", "option", "accuracy" in [0, 1], "latency_ms"}` per option measured, options in the order of the
    space, everything else held at one configuration.
    """
    if not rows:
        raise PacelineError("knob curves: got no rows, expected one per knob and option")
    for number, row in enumerate(rows):
        missing = [key for key in ("knob", "option", "accuracy", "latency_ms") if key not in row]
        if missing:
            raise PacelineError(f"knob curves: row {number} lacks {', '.join(missing)}; got {dict(row)}")
    names = list(dict.fromkeys(str(row["knob"]) for row in rows))
    palette = theme_named(theme)
    with style(palette):
        figure, grid = new_figure(max(360, 340 * len(names)), 420, 2, len(names), sharey="row", sharex="col")
        for column, name in enumerate(names):
            along = [row for row in rows if str(row["knob"]) == name]
            places = np.arange(len(along))
            for line, (key, colour) in enumerate((("accuracy", "paceline"), ("latency_ms", "best-static"))):
                axes = grid[line, column]
                values = np.array([row[key] for row in along], dtype=float)
                axes.plot(places, values, **line_look(palette, colour.replace("-", "_")) | {"linestyle": "-"})
                for end, inner in {0: min(1, len(along) - 1), len(along) - 1: max(0, len(along) - 2)}.items():
                    text = percent(values[end]) if key == "accuracy" else milliseconds(values[end])
                    below = values[end] < values[inner]
                    axes.annotate(
                        text, (places[end], values[end]), xytext=(0, -9 if below else 9), textcoords="offset points",
                        ha="center", va="top" if below else "bottom", fontsize=11, color=palette["ink"],
                    )  # fmt: skip
                axes.margins(x=0.16, y=0.25)
            grid[0, column].set_title(name)
            grid[1, column].set_xticks(places, [str(row["option"]) for row in along])
        percent_axis(grid[0, 0].yaxis)
        grid[0, 0].set_ylabel("accuracy")
        grid[1, 0].set_ylabel("latency, ms")
        grid[1, 0].set_ylim(bottom=0)
    return save_figure(figure, path, palette)


def save_frontier(results: Results, path: Path | str, mode: str = "hard", theme: str = "light") -> Path:
    """The frontier of one kind of budget as a PNG or SVG file for a README; returns its path."""
    if mode not in MODES:
        raise PacelineError(f"frontier: got mode {mode!r}, expected one of {', '.join(MODES)}")
    palette = theme_named(theme)
    figure, _ = frontier(results, mode, palette, title=f"Accuracy under {MODES[mode].lower()}")
    return save_figure(figure, path, palette)
