"""Section on requests answered live."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from paceline.errors import PacelineError
from paceline.report import behaviour_plots, page
from paceline.report.figures import inline_svg
from paceline.report.markup import Child, Html, tag
from paceline.report.reading import (
    DASH,
    MODES,
    budget_text,
    milliseconds,
    percent,
    points,
    single_number,
)
from paceline.report.theme import MARKERS

HEADER = (
    "Budget",
    "Requests",
    "Accuracy",
    "Best static",
    "Difference, points",
    "Late",
    "Mean latency",
    "Budgets",
)


def live(measured: Mapping[str, Mapping[str, Any]] | None) -> Html:
    """Requests answered live: accuracy beside best static, late answers, mean latency beside the budget."""
    title = "Live requests"
    present = {mode: measured[mode] for mode in MODES if measured and measured.get(mode)}
    if not present:
        notice = page.not_measured("No live requests were answered for this report.", "Run: paceline demo")
        return page.section("live", title, notice)
    rows = [_row(mode, numbers) for mode, numbers in present.items()]
    plots = [plot for mode, numbers in present.items() for plot in _live_plot(mode, numbers)]
    missing = [
        page.not_measured(f"There were no live requests under {MODES[mode].lower()}.", "Run: paceline demo")
        for mode in MODES
        if mode not in present
    ]
    return page.section(
        "live", title, page.table(None, HEADER, rows), missing, tag("div", plots, class_="pair") if plots else None,
        note="Fresh questions, answered one after the other on this machine; times are measured, not estimated.",
    )  # fmt: skip


def _row(mode: str, numbers: Mapping[str, Any]) -> Html:
    accuracy, static = (single_number(numbers.get(key)) for key in ("accuracy", "best_static_accuracy"))
    late: Child = "no limit"  # an average budget promises nothing for a single request
    if mode == "hard":
        late = _beside(numbers, "violation_rate", percent)
    cells: list[Child] = [
        _count(numbers.get("requests")), percent(accuracy), percent(static), points(accuracy - static), late,
        _beside(numbers, "mean_latency_ms", milliseconds), budget_text(numbers.get("budget_ms")),
    ]  # fmt: skip
    return page.row(MODES[mode], cells)


def _beside(numbers: Mapping[str, Any], key: str, text: Any) -> Child:
    """A number of Paceline, below it that of best static where it is known."""
    static = numbers.get(f"best_static_{key}")
    below = None if static is None else tag("small", f"static {text(single_number(static))}")
    return [text(single_number(numbers.get(key))), below]


def _live_plot(mode: str, numbers: Mapping[str, Any]) -> list[Html]:
    if numbers.get("request_latency_ms") is None:
        return []
    latencies = np.asarray(numbers["request_latency_ms"], dtype=float)
    if mode == "average":
        drawing = behaviour_plots.live_running_mean(
            latencies, single_number(numbers.get("budget_ms")), MARKERS
        )
        svg = inline_svg(
            drawing, "live-average", "Mean latency of the live requests so far, beside the average budget"
        )
        return [
            page.figure(svg, "The price of time is steered so that the mean meets the budget.", MODES[mode])
        ]
    budgets = np.asarray(numbers.get("request_budget_ms"), dtype=float)
    if budgets.shape != latencies.shape:
        raise PacelineError(
            f"live: hard.request_budget_ms has shape {budgets.shape}, request_latency_ms {latencies.shape}; "
            "expected one budget per latency"
        )
    svg = inline_svg(
        behaviour_plots.live_requests(budgets, latencies, MARKERS), "live-hard",
        "Latency of each live request against its budget",
    )  # fmt: skip
    return [page.figure(svg, "Every request under its own budget; above the line is late.", MODES[mode])]


def _count(value: Any) -> str:
    number = single_number(value)
    return DASH if np.isnan(number) else f"{number:,.0f}"
