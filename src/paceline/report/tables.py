"""Results as terminal tables: rich renderables, which the command line prints."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from paceline.report.amounts import amounts_of
from paceline.report.fitting import NARROW_CELL, Fitted, empty_table
from paceline.report.learner_tables import learner_tables
from paceline.report.reading import (
    DASH,
    MODES,
    Results,
    budget_text,
    budgets_of,
    configuration_text,
    contender_label,
    contenders_in,
    intervals_of,
    milliseconds,
    percent,
    points,
    points_interval,
    section_of,
    series_of,
    share,
    share_interval,
    single_number,
)

DIFFERENCES: Mapping[str, str] = {
    "gain": "Gain over best static",
    "gain_over_lookup": "Gain over lookup",
    "gain_over_supervised": "Gain over supervised",
    "gain_over_outcome": "Gain over outcome pred.",
}


def result_tables(
    results: Results, live: Mapping[str, Mapping[str, Any]] | None = None
) -> list[RenderableType]:
    """Every table there is something for: both kinds of budget, learners, kinds of questions, live requests."""
    tables: list[RenderableType] = [
        Fitted(partial(budget_table, results, mode))
        for mode in MODES
        if section_of(results, mode) is not None
    ]
    tables += learner_tables(results)
    tables += [
        Fitted(partial(kinds_table, results, mode)) for mode in MODES if _kinds_measured(results, mode)
    ]
    if live:
        tables.append(live_table(live))
    return tables


def budget_table(results: Results, mode: str, narrow: bool = False) -> Table:
    """Accuracy of every contender per budget, then gains with 95 % intervals, closed gap, latency and late answers."""
    section, amounts = section_of(results, mode), amounts_of(results)
    table = empty_table(f"{MODES[mode]} in {amounts.unit}: accuracy in %, gains in points", "contender")
    if section is None:
        table.caption = "not measured"
        return table
    budgets = budgets_of(section)
    for budget in budgets:
        width = NARROW_CELL if narrow else None
        table.add_column(amounts.number(budget), justify="right", max_width=width)
    for name in contenders_in(section, "accuracy"):
        values = series_of(section, "accuracy", name)
        cells = [DASH if values is None else _hundredths(value) for value in _or_nan(values, budgets)]
        table.add_row(contender_label(name, mode), *cells, style="bold" if name == "paceline" else None)
    table.add_section()
    for metric, label in DIFFERENCES.items():
        values, ends = series_of(section, metric), intervals_of(section, f"{metric}_ci")
        if values is not None:
            table.add_row(label, *_with_intervals(values, ends, points, points_interval))
    gaps = series_of(section, "closed_gap")
    if gaps is not None:
        table.add_row(
            "Closed gap",
            *_with_intervals(gaps, intervals_of(section, "closed_gap_ci"), share, share_interval),
        )
    table.add_section()
    for label, metric in ((f"Mean {amounts.noun}", "mean_latency_ms"), ("95th percentile", "p95_latency_ms")):
        times = series_of(section, metric, "paceline")
        if times is None:
            continue  # known only afterwards, or without a policy of ours
        table.add_row(f"{label}, {amounts.unit}", *(amounts.number(time) for time in times))
    late = series_of(section, "violation_rate", "paceline")
    if mode == "hard" and late is not None:
        table.add_row("Late, %", *(_hundredths(rate) for rate in late))
    mean = single_number(section.get("closed_gap_mean"))
    if not np.isnan(mean):
        ends = section.get("closed_gap_mean_ci")
        table.caption = f"closed gap, mean over budgets: {share(mean)} {share_interval(ends)}"
    return table


def kinds_table(results: Results, mode: str, narrow: bool = False) -> Table:
    """Accuracy of Paceline less that of best static by kind of question and budget, in points."""
    amounts = amounts_of(results)
    table = empty_table(
        f"{MODES[mode]} in {amounts.unit}: accuracy of Paceline in %, in brackets the gain over best static",
        "kind",
    )
    section = section_of(results, mode)
    if section is None or not _kinds_measured(results, mode):
        table.caption = "not measured"
        return table
    table.add_column("count", justify="right")
    budgets = budgets_of(section)
    for budget in budgets:
        width = NARROW_CELL if narrow else None
        table.add_column(amounts.number(budget), justify="right", max_width=width)
    for kind, facts in results["kinds"].items():
        accuracy = facts["accuracy"][mode]
        ours = np.asarray(accuracy["paceline"], dtype=float)
        static = np.asarray(accuracy.get("best_static", [np.nan] * len(ours)), dtype=float)
        cells = [f"{_hundredths(a)} ({points(a - b)})" for a, b in zip(ours, static, strict=True)]
        table.add_row(Text(str(kind)), str(facts.get("count", DASH)), *cells)
    return table


def live_table(live: Mapping[str, Mapping[str, Any]]) -> Table:
    """Live requests: accuracy beside best static, late answers, mean latency beside the budget."""
    table = empty_table("Live requests: measured, times in ms", "budget")
    for name in ("count", "accuracy", "best static", "gain", "late", "mean", "allowed"):
        table.add_column(name, justify="right")
    for mode in MODES:
        numbers, title = live.get(mode), mode.capitalize()
        if not numbers:
            table.add_row(title, *["not measured"], *[DASH] * 6)
            continue
        ours, static, late, mean = (
            single_number(numbers.get(key))
            for key in ("accuracy", "best_static_accuracy", "violation_rate", "mean_latency_ms")
        )
        table.add_row(
            title, str(numbers.get("requests", DASH)), percent(ours), percent(static), points(ours - static),
            percent(late) if mode == "hard" else "no limit", milliseconds(mean, unit=False),
            budget_text(numbers.get("budget_ms")).removesuffix(" ms"),
        )  # fmt: skip
    return table


def static_table(results: Results, limit: int = 12) -> Table:
    """The configurations with the highest accuracy, and what each costs."""
    table = empty_table("Configurations by accuracy", "configuration")
    table.add_column("accuracy", justify="right")
    amounts = amounts_of(results)
    table.add_column(f"mean {amounts.noun}", justify="right")
    rows = sorted(results.get("static") or (), key=lambda row: -row["accuracy"])
    for row in rows[:limit]:
        name = Text(configuration_text(row.get("configuration")))
        table.add_row(name, percent(row["accuracy"]), amounts.text(row["latency_ms"]))
    if len(rows) > limit:
        table.caption = f"{len(rows) - limit} more"
    elif not rows:
        table.caption = "not measured"
    return table


def _kinds_measured(results: Results, mode: str) -> bool:
    kinds = results.get("kinds") or {}
    return bool(kinds) and all(
        "paceline" in ((facts.get("accuracy") or {}).get(mode) or {}) for facts in kinds.values()
    )


def _or_nan(values: np.ndarray | None, budgets: np.ndarray) -> np.ndarray:
    return np.full(len(budgets), np.nan) if values is None else values


def _hundredths(value: float) -> str:
    return percent(value).removesuffix(" %")


def _with_intervals(values: np.ndarray, ends: np.ndarray | None, number: Any, interval: Any) -> list[Text]:
    cells = []
    for index, value in enumerate(values):
        text = number(value) if ends is None else f"{number(value)}\n{interval(ends[index])}"
        cells.append(Text(text.strip(), justify="right"))
    return cells
