"""Sections on accuracy: headline numbers, frontiers, the table of all contenders, kinds of questions."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from paceline.evaluation.results import RIVALS
from paceline.report import page, plots
from paceline.report.amounts import Amounts, amounts_of
from paceline.report.axes import colour_key
from paceline.report.figures import inline_svg
from paceline.report.markup import Child, Html, tag
from paceline.report.reading import (
    DASH,
    MODES,
    Results,
    budgets_of,
    contender_label,
    contenders_in,
    interval_pair,
    intervals_of,
    modes_of,
    percent,
    points,
    points_interval,
    quantile_index,
    section_of,
    series_of,
    share,
    share_interval,
    single_number,
)
from paceline.report.theme import LIGHT, MARKERS

HEADLINE_QUANTILES = (0.25, 0.5)
"""The budgets of the headline numbers, fixed so that nobody picks the best ones afterwards."""

FRONTIER_CAPTIONS: Mapping[str, str] = {
    "hard": "Curves stand at the budget, dots at the mean latency of one configuration. A hard budget must hold for "
    "nearly every request, so best static lies to the right of the dots.",
    "average": "Everything stands at the mean latency reached. Best static mix is the best random mix of two "
    "configurations.",
}


MOST_IN_SIGHT = 10
"""Contenders up to which a table of times is unfolded."""


def headline(results: Results) -> Html:
    """Cards: gains at the stated quantiles, closed gaps, time for the full accuracy, late answers, overhead."""
    cards = []
    for mode in modes_of(results):
        section = section_of(results, mode)
        rival = contender_label("best_static", mode).lower()
        for quantile in HEADLINE_QUANTILES:
            index = None if section is None else quantile_index(section, quantile)
            name, place = MODES[mode][:-1], f"{100 * quantile:.0f} % quantile"
            if section is None or index is None or section.get("gain") is None:
                cards.append(page.card(f"{name}, {place}", None))
                continue
            gain, ends = series_of(section, "gain"), intervals_of(section, "gain_ci")
            cards.append(
                page.card(
                    f"{name} {amounts_of(results).text(budgets_of(section)[index])}",
                    points(gain[index]) if gain is not None else None,
                    f"{points_interval(None if ends is None else ends[index])} over {rival}; {place}",
                    "points",
                )
            )
    for mode in modes_of(results):
        section = section_of(results, mode) or {}
        value = single_number(section.get("closed_gap_mean"))
        ends = share_interval(interval_pair(section.get("closed_gap_mean_ci")))
        label = f"Closed gap, {MODES[mode].lower()}"
        cards.append(page.card(label, None if np.isnan(value) else share(value), f"{ends} mean over budgets"))
    cards += [_par10_card(results["par10"])] if "par10" in results else [_full_accuracy_card(results)]
    cards.append(_overhead_card(results))
    return page.section(
        "headline", "In short", tag("div", cards, class_="cards"),
        note="Accuracy at equal budget on questions nothing was fitted on; in brackets paired 95\u00a0% intervals.",
    )  # fmt: skip


def _par10_card(section: Mapping[str, Any]) -> Html:
    gap = (section.get("closed_gaps") or {}).get("paceline") or {}
    value = single_number(gap.get("mean"))
    ends = share_interval(interval_pair(gap.get("mean_ci")))
    return page.card(
        "Closed gap, PAR10", None if np.isnan(value) else share(value), f"{ends} without a deadline"
    )


def _full_accuracy_card(results: Results) -> Html:
    label = "Accuracy of full, at"
    if "latency_share_at_full_accuracy" not in results:
        return page.card(label, None)
    value = single_number(results["latency_share_at_full_accuracy"])
    if np.isnan(value):
        return page.card(label, "not reached", "at any price of time")
    ends = interval_pair(results.get("latency_share_at_full_accuracy_ci"))
    interval = "" if ends is None else f"[{percent(ends[0], 0)}, {percent(ends[1], 0)}] "
    return page.card(label, percent(value, 0), f"{interval}smallest share that reaches it", "of its latency")


def _overhead_card(results: Results) -> Html:
    live, decision = (
        single_number(value)
        for value in (results.get("overhead_share"), (results.get("overhead") or {}).get("share"))
    )
    if not np.isnan(live):
        return page.card("Overhead", percent(live, 2), "of the full configuration's latency, live")
    if not np.isnan(decision):
        return page.card(
            "Overhead of the decision", percent(decision, 2), "of full's latency; features not counted"
        )
    return page.card("Overhead", None)


def frontiers(results: Results) -> Html:
    """Both frontiers and the gains under them."""
    curves: list[Child] = []
    differences: list[Child] = []
    for mode, title in modes_of(results).items():
        section = section_of(results, mode)
        if section is None:
            curves.append(
                page.not_measured(f"There are no results for {title.lower()}.", "Run: paceline evaluate")
            )
            continue
        drawing, hints = plots.frontier(results, mode, MARKERS)
        what = (
            f"Accuracy against time under {title.lower()}: configurations, best static, Paceline and oracle"
        )
        svg = inline_svg(drawing, f"frontier-{mode}", what, hints)
        band = " Band: 95\u00a0% interval of the gain over best static." if section.get("gain_ci") else ""
        curves.append(page.figure(svg, FRONTIER_CAPTIONS[mode] + band, title))
        if section.get("gain") is not None:
            svg = inline_svg(
                plots.gains(results, mode, MARKERS), f"gains-{mode}", f"Gains under {title.lower()}"
            )
            caption = "Bars are paired 95\u00a0% intervals; above zero Paceline is ahead."
            differences.append(page.figure(svg, caption, f"Gain of Paceline, {title.lower()}"))
    return page.section(
        "frontier", "Accuracy against time", tag("div", curves, class_="pair"),
        tag("div", differences, class_="pair") if differences else None,
        note="Rest the pointer on a dot or a mark to see what it is.",
    )  # fmt: skip


def all_contenders(results: Results) -> Html:
    """Tables: accuracy with gains and closed gap, then time and late answers, for each kind of budget."""
    parts: list[Child] = []
    amounts = amounts_of(results)
    for mode, title in modes_of(results).items():
        section = section_of(results, mode)
        if section is None:
            parts.append(
                page.not_measured(f"There are no results for {title.lower()}.", "Run: paceline evaluate")
            )
            continue
        parts += [_accuracy_table(section, mode, title, amounts), _time_table(section, mode, title, amounts)]
    return page.section(
        "contenders", "Every contender at every budget", parts,
        note="Accuracy in per cent, gains in percentage points. Best static, mixes and prices are chosen on training "
        "and validation questions and judged on test questions. A dash means: not measured.",
    )  # fmt: skip


def _budget_header(section: Mapping[str, Any], amounts: Amounts) -> list[Child]:
    quantiles = list(section.get("quantiles") or [])
    header: list[Child] = ["Contender"]
    for index, budget in enumerate(budgets_of(section)):
        name = None
        if index < len(quantiles) and quantiles[index] is not None:
            name = (
                "full"
                if quantiles[index] in ("full", 1, 1.0)
                else f"{100 * float(quantiles[index]):.0f} % quantile"
            )
        header.append(
            [amounts.text(budget), tag("br") if name else None, tag("small", name) if name else None]
        )
    return header


def contender_name(name: str, mode: str = "hard") -> list[Child]:
    """A contender with its colour."""
    key = colour_key(name)
    return [page.swatch(key if key in LIGHT else "muted"), contender_label(name, mode)]


def _accuracy_table(section: Mapping[str, Any], mode: str, title: str, amounts: Amounts) -> Html:
    rows = []
    for name in contenders_in(section, "accuracy"):
        values = series_of(section, "accuracy", name)
        assert values is not None
        cells = [percent(value) for value in values]
        rows.append(page.row(contender_name(name, mode), cells, "strong" if name == "paceline" else None))
    for metric, label in (
        *((metric, f"Gain over {contender_label(rival, mode).lower()}") for metric, rival in RIVALS.items()),
        ("gain_at_equal_latency", "Gain over the mix at equal latency"),
        ("closed_gap", "Closed gap"),
    ):
        if metric in ("gain_at_equal_latency", "gain_over_outcome") and metric not in section:
            continue  # hard budgets have no equal latency, and few comparisons train every learner
        values, ends = series_of(section, metric), intervals_of(section, f"{metric}_ci")
        number, interval = (share, share_interval) if metric == "closed_gap" else (points, points_interval)
        cells = [DASH] * len(budgets_of(section))
        if values is not None:
            cells = [
                [
                    number(value),
                    tag("small", interval(None if ends is None else ends[index]))
                    if ends is not None
                    else None,
                ]
                for index, value in enumerate(values)
            ]
        rows.append(page.row(label, cells, "rule" if metric == "gain" else None))
    return page.table(f"{title}: accuracy", _budget_header(section, amounts), rows)


def _time_table(section: Mapping[str, Any], mode: str, title: str, amounts: Amounts) -> Html:
    rows = []
    names = contenders_in(section, "mean_latency_ms")
    for name in names:
        columns = [
            series_of(section, metric, name)
            for metric in ("mean_latency_ms", "p95_latency_ms", "violation_rate")
        ]
        cells = []
        for index in range(len(budgets_of(section))):
            mean, p95, late = (None if values is None else values[index] for values in columns)
            lines = [
                f"p95 {amounts.number(p95)}",
                *([f"late {percent(late)}"] if mode == "hard" else []),
            ]
            cells.append([amounts.number(mean), [tag("small", line) for line in lines]])
        rows.append(page.row(contender_name(name, mode), cells, "strong" if name == "paceline" else None))
    if not rows:
        return page.not_measured(f"There are no means for {title.lower()}.", "Run: paceline evaluate")
    what = (
        f"mean {amounts.noun}, 95th percentile and share of late answers"
        if mode == "hard"
        else f"mean {amounts.noun} and 95th percentile"
    )
    if len(rows) <= MOST_IN_SIGHT:
        return page.table(f"{title}: {what}, {amounts.unit}", _budget_header(section, amounts), rows)
    times = page.table(None, _budget_header(section, amounts), rows)
    return tag("details", tag("summary", f"{title}: {what}, {amounts.unit}"), times)
