"""Plots of what a controller does: knobs it turns, latencies it reaches, kinds it helps, how it was trained."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paceline.errors import PacelineError
from paceline.report.amounts import amounts_of
from paceline.report.axes import (
    HALF_WIDTH,
    PANEL_WIDTH,
    budget_ticks,
    legend_above,
    line_look,
    percent_axis,
    time_axis,
)
from paceline.report.figures import new_figure
from paceline.report.reading import MODES, Results, budgets_of, contender_label, section_of, series_of
from paceline.report.theme import Theme, style

MODE_LOOK: Mapping[str, tuple[str, str, str]] = {
    "hard": ("paceline", "-", "o"),
    "average": ("full", "--", "D"),
}
"""Colour, line style and marker of the two kinds of budget where both are in one plot."""
TRAINING_COLOURS = ("paceline", "best_static", "oracle", "supervised")
CURVE_POINTS = 160
"""Points kept of an empirical distribution; more cannot be seen."""


def knob_use(results: Results, knob: str, theme: Theme) -> Any:
    """Mean option of one knob against the budget, for both kinds of budget."""
    with style(theme):
        figure, grid = new_figure(PANEL_WIDTH, 240)
        axes = grid[0, 0]
        spans = []
        for mode, (colour, dash, marker) in MODE_LOOK.items():
            section = section_of(results, mode)
            if section is None or knob not in (section.get("knob_use") or {}):
                continue
            budgets = budgets_of(section)
            look = line_look(theme, colour) | {"linestyle": dash, "marker": marker}
            axes.plot(budgets, series_of(section, "knob_use", knob), label=MODES[mode], **look)
            spans.append(budgets)
        if not spans:
            raise PacelineError(f"results: knob_use of {knob!r} was not measured; there is nothing to draw")
        everything = np.concatenate(spans)
        time_axis(axes, float(everything.min()), float(everything.max()))
        axes.margins(y=0.15)
        axes.set_xlabel(f"budget, {amounts_of(results).unit}")
        axes.set_ylabel("mean option")
    return figure


def latency_ranges(results: Results, mode: str, theme: Theme) -> Any:
    """Median to 95th percentile of latency, the mean and the budget, per budget and contender."""
    section = section_of(results, mode)
    if section is None:
        raise PacelineError(f"results: {mode} budgets were not measured; there are no latencies to draw")
    budgets = budgets_of(section)
    places = np.arange(len(budgets))
    with style(theme):
        figure, grid = new_figure(HALF_WIDTH, 330)
        axes = grid[0, 0]
        axes.hlines(
            budgets, places - 0.38, places + 0.38, color=theme["ink"], linewidth=1.6, zorder=4, label="Budget"
        )
        for offset, name in ((-0.16, "paceline"), (0.16, "best_static")):
            series = [series_of(section, f"{metric}_latency_ms", name) for metric in ("p50", "p95", "mean")]
            p50, p95, mean = series
            if p50 is None or p95 is None:
                continue
            look = line_look(theme, name)
            axes.vlines(places + offset, p50, p95, color=look["color"], linewidth=9, alpha=0.32, zorder=2)
            centre = p50 if mean is None else mean
            axes.plot(
                places + offset, centre, label=contender_label(name, mode), zorder=5,
                **look | {"linestyle": "none", "markersize": 7},
            )  # fmt: skip
        amounts = amounts_of(results)
        budget_ticks(axes, budgets, amounts)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(f"{amounts.noun}, {amounts.unit}")
        legend_above(axes, columns=3)
    return figure


def latency_curve(budget_ms: float, samples: Mapping[str, Any], theme: Theme) -> Any:
    """Share of requests answered within a time, for one budget: what is missing where it is crossed is late.

    samples: contender -> measured latencies in ms, one array each.
    """
    with style(theme):
        figure, grid = new_figure(PANEL_WIDTH, 220)
        axes = grid[0, 0]
        axes.axvline(budget_ms, color=theme["ink"], linewidth=1.6, zorder=2)
        for name, values in samples.items():
            times, shares = _distribution(values)
            axes.plot(times, shares, drawstyle="steps-post", **line_look(theme, name) | {"marker": ""})
        axes.set_ylim(0, 1.03)
        axes.margins(x=0.06)
        percent_axis(axes.yaxis)
        axes.set_xlabel("latency, ms")
    return figure


def _distribution(values: Any) -> tuple[np.ndarray, np.ndarray]:
    times = np.sort(np.asarray(values, dtype=float))
    times = times[np.isfinite(times)]
    if not len(times):
        return times, times
    shares = np.arange(1, len(times) + 1) / len(times)
    if len(times) > CURVE_POINTS:
        keep = np.unique(np.linspace(0, len(times) - 1, CURVE_POINTS).astype(int))
        times, shares = times[keep], shares[keep]
    return np.concatenate([times[:1], times]), np.concatenate([[0.0], shares])


def kinds(names: Sequence[str], accuracy: Mapping[str, np.ndarray], mode: str, theme: Theme) -> Any:
    """Accuracy by kind of question: a row per kind, a mark per contender, a bar from best static to Paceline.

    accuracy: contender -> float (kinds,).
    """
    places = np.arange(len(names))[::-1]
    with style(theme):
        figure, grid = new_figure(HALF_WIDTH, 90 + 34 * len(names))
        axes = grid[0, 0]
        if "paceline" in accuracy and "best_static" in accuracy:
            axes.hlines(
                places, accuracy["best_static"], accuracy["paceline"], color=theme["paceline"], alpha=0.28,
                linewidth=7, zorder=2,
            )  # fmt: skip
        for name in ("oracle", "full", "best_static", "paceline"):
            if name in accuracy:
                look = line_look(theme, name) | {
                    "linestyle": "none",
                    "markersize": 9 if name == "paceline" else 7,
                }
                if name == "full":
                    look |= {
                        "marker": "|",
                        "markeredgecolor": theme["full"],
                        "markeredgewidth": 2,
                        "markersize": 11,
                    }
                axes.plot(accuracy[name], places, label=contender_label(name, mode), zorder=4, **look)
        axes.set_yticks(places, list(names))
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.grid(visible=False, axis="y")
        lowest = min(float(np.nanmin(values)) for values in accuracy.values())
        axes.set_xlim(max(-0.02, np.floor(10 * lowest - 0.5) / 10), 1.03)
        percent_axis(axes.xaxis)
        legend_above(axes, columns=4)
    return figure


def live_requests(budgets: np.ndarray, latencies: np.ndarray, theme: Theme) -> Any:
    """Every live request under its hard budget: latency against budget, above the diagonal is late."""
    late = latencies > budgets
    with style(theme):
        figure, grid = new_figure(HALF_WIDTH, 340)
        axes = grid[0, 0]
        top = float(max(budgets.max(), latencies.max())) * 1.06
        axes.plot([0, top], [0, top], color=theme["ink"], linewidth=1.4, zorder=2, label="Budget")
        dot = {"linestyle": "none", "markeredgewidth": 0, "zorder": 3}
        axes.plot(
            budgets[~late], latencies[~late], "o", color=theme["paceline"], alpha=0.6, markersize=5,
            label=f"In time ({int((~late).sum())})", **dot,
        )  # fmt: skip
        axes.plot(
            budgets[late], latencies[late], "D", color=theme["best-static"], markersize=6,
            label=f"Late ({int(late.sum())})", **dot,
        )  # fmt: skip
        axes.set_xlim(0, float(budgets.max()) * 1.06)
        axes.set_ylim(0, top)
        axes.set_xlabel("budget of the request, ms")
        axes.set_ylabel("latency, ms")
        legend_above(axes)
    return figure


def live_running_mean(latencies: np.ndarray, budget_ms: float, theme: Theme) -> Any:
    """Mean latency of the requests answered so far, beside the average budget."""
    count = np.arange(1, len(latencies) + 1)
    with style(theme):
        figure, grid = new_figure(HALF_WIDTH, 340)
        axes = grid[0, 0]
        axes.plot(
            count,
            latencies,
            "o",
            color=theme["dot"],
            alpha=0.45,
            markersize=4,
            markeredgewidth=0,
            label="One request",
        )
        axes.plot(
            count, np.cumsum(latencies) / count, color=theme["paceline"], linewidth=2.6, label="Mean so far"
        )
        axes.axhline(budget_ms, color=theme["ink"], linewidth=1.4, label="Average budget")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("requests answered")
        axes.set_ylabel("latency, ms")
        legend_above(axes)
    return figure


def training_panel(lines: Mapping[str, tuple[np.ndarray, np.ndarray]], axis_name: str, theme: Theme) -> Any:
    """Training curves of one quantity: name of the line -> (steps, values)."""
    with style(theme):
        figure, grid = new_figure(PANEL_WIDTH, 220)
        axes = grid[0, 0]
        for index, (label, (steps, values)) in enumerate(lines.items()):
            look = line_look(theme, TRAINING_COLOURS[index % len(TRAINING_COLOURS)]) | {"linewidth": 1.8}
            look["marker"] = "o" if len(steps) == 1 else ""
            axes.plot(steps, values, label=label, **look)
        axes.set_xlabel(axis_name)
        axes.margins(y=0.12)
        if len(lines) > 1:
            axes.legend(loc="best", fontsize=10, handlelength=1.6)
    return figure
