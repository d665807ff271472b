"""Sections on what the controller does: knobs, configurations, latencies, kinds of questions, training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paceline.errors import PacelineError
from paceline.report import behaviour_plots, page
from paceline.report.amounts import Amounts, amounts_of
from paceline.report.axes import colour_key
from paceline.report.figures import inline_svg
from paceline.report.history import training_panels
from paceline.report.markup import Child, Html, tag
from paceline.report.reading import (
    DASH,
    MODES,
    Results,
    budgets_of,
    configuration_text,
    contender_label,
    milliseconds,
    modes_of,
    percent,
    section_of,
    series_of,
)
from paceline.report.theme import MARKERS, MONOCHROME_HINTS

TOP_CONFIGURATIONS = 4
"""Configurations listed per budget; the rest is counted."""
HEAT_OPACITY = 0.5
"""Opacity of the strongest cell: text stays readable on it in both themes."""


def knobs(results: Results) -> Html:
    """Knob use against budget, by kind of question, and the configurations chosen most."""
    names = list(
        dict.fromkeys(
            name for mode in MODES for name in (section_of(results, mode) or {}).get("knob_use") or {}
        )
    )
    parts: list[Child] = []
    if names:
        looks = {mode: look for mode, look in behaviour_plots.MODE_LOOK.items() if section_of(results, mode)}
        parts.append(page.legend([(MODES[mode], colour, dash) for mode, (colour, dash, _) in looks.items()]))
        drawings = []
        for index, name in enumerate(names):
            svg = inline_svg(
                behaviour_plots.knob_use(results, name, MARKERS),
                f"knob-{index}",
                f"Mean option of {name} by budget",
            )
            drawings.append(tag("div", tag("h3", name), svg, class_="panel"))
        parts.append(tag("div", drawings, class_="panels"))
    else:
        parts.append(page.not_measured("There is no knob use.", "Run: paceline evaluate"))
    for mode, title in modes_of(results).items():
        section = section_of(results, mode)
        if section is None:
            continue
        parts += [_by_kind(section, title, amounts_of(results)), _configurations(results, section, title)]
    return page.section(
        "knobs",
        "What the controller turns",
        parts,
        note="Mean option chosen for the test questions at each budget.",
    )


def _by_kind(section: Mapping[str, Any], title: str, amounts: Amounts) -> Child:
    use = section.get("knob_use_by_kind")
    if not use:
        return page.not_measured(f"{title}: there is no knob use by kind.", "Run: paceline evaluate")
    budgets = budgets_of(section)
    names = list(dict.fromkeys(name for by_knob in use.values() for name in by_knob))
    tables = []
    for name in names:
        lines = [by_knob.get(name, [np.nan] * len(budgets)) for by_knob in use.values()]
        if any(len(line) != len(budgets) for line in lines):
            raise PacelineError(
                f"results: knob_use_by_kind.*.{name}: expected {len(budgets)} values, one per budget"
            )
        values = np.array(lines, dtype=float)
        low, high = np.nanmin(values), np.nanmax(values)
        rows = [
            page.row(kind, [_heat(value, low, high) for value in line])
            for kind, line in zip(use, values, strict=True)
        ]
        header = ["Kind", *(amounts.number(budget) for budget in budgets)]
        tables.append(page.table(f"{name} by budget in {amounts.unit}", header, rows, compact=True))
    return [
        tag("h3", f"{title}: knobs by kind of question", class_="group"),
        tag("div", tables, class_="panels"),
    ]


def _heat(value: float, low: float, high: float) -> Html:
    if not np.isfinite(value):
        return tag("td", DASH)
    strength = HEAT_OPACITY * 100 * (value - low) / (high - low or 1.0)
    colour = f"background:color-mix(in srgb,var(--paceline) {strength:.0f}%,transparent)"
    return tag("td", f"{value:.1f}", style=colour)


def _configurations(results: Results, section: Mapping[str, Any], title: str) -> Child:
    shares = section.get("configurations")
    if not shares:
        return page.not_measured(
            f"{title}: there is no distribution of configurations.", "Run: paceline evaluate"
        )
    known = {str(row["action"]): row.get("configuration") for row in results.get("static") or ()}
    by_budget = {int(index): by_action for index, by_action in shares.items()}
    blocks = []
    for index, budget in enumerate(budgets_of(section)):
        by_action = by_budget.get(index)
        if not by_action:
            continue
        ranked = sorted(by_action.items(), key=lambda item: -item[1])
        rows = []
        for action, part in ranked[:TOP_CONFIGURATIONS]:
            configuration = known.get(str(action))
            name = configuration_text(configuration) if configuration else f"action {action}"
            bar = tag("span", class_="bar", style=f"width:{4.5 * float(part):.2f}rem")
            rows.append(page.row(name, [tag("td", bar, percent(part, 0), style="text-align:left")]))
        rest = len(ranked) - TOP_CONFIGURATIONS
        if rest > 0:
            left = 1 - sum(part for _, part in ranked[:TOP_CONFIGURATIONS])
            rows.append(
                page.row(f"{rest} others", [tag("td", percent(max(left, 0.0), 0), style="text-align:left")])
            )
        header = [f"At {amounts_of(results).text(budget)}", tag("th", "share", style="text-align:left")]
        blocks.append(page.table(None, header, rows, compact=True))
    grid = tag("div", blocks, class_="panels")
    return tag("details", tag("summary", f"{title}: configurations chosen most"), grid)


def latencies(
    results: Results, samples: Mapping[str, Mapping[str, Sequence[Any]]] | None, shown_live: bool = False
) -> Html:
    """Ranges of latency per budget, and the distributions where measurements are given or, if so, shown live."""
    if "par10" in results:
        notice = "These times are known only afterwards: they are what is judged, under Every learner."
        return page.section("latency", "Latency", tag("p", notice))
    ranges: list[Child] = []
    plural = "costs" if amounts_of(results).noun == "cost" else "latencies"
    for mode, title in modes_of(results).items():
        section = section_of(results, mode)
        if section is None or series_of(section, "p95_latency_ms", "paceline") is None:
            ranges.append(
                page.not_measured(f"There are no {plural} for {title.lower()}.", "Run: paceline evaluate")
            )
            continue
        svg = inline_svg(
            behaviour_plots.latency_ranges(results, mode, MARKERS), f"latency-{mode}",
            f"Median to 95th percentile of {amounts_of(results).noun} by budget, {title.lower()}",
        )  # fmt: skip
        caption = (
            "Bar: median to 95th percentile of the estimates over questions. Mark: mean. Line: the budget."
        )
        ranges.append(page.figure(svg, caption, title))
    parts: list[Child] = [tag("div", ranges, class_="pair")]
    for mode in samples or {}:
        if mode not in MODES:
            raise PacelineError(f"latency_samples: got {mode!r}, expected some of {', '.join(MODES)}")
    if not samples and shown_live:
        parts.append(
            tag("p", tag("a", "Measured times of single requests", href="#live"), " stand further down.")
        )
    elif not samples:
        notice = page.not_measured(
            "No times of single requests were handed to this report.", "Run: paceline demo"
        )
        parts.append(notice)
    for mode, by_contender in (samples or {}).items():
        section = section_of(results, mode)
        if section is None:
            raise PacelineError(f"latency_samples: has {mode} budgets, which the results lack")
        parts += _distributions(section, by_contender, mode)
    return page.section("latency", "Latency", parts)


def _distributions(
    section: Mapping[str, Any], samples: Mapping[str, Sequence[Any]], mode: str
) -> list[Child]:
    budgets = budgets_of(section)
    for name, arrays in samples.items():
        if len(arrays) != len(budgets):
            raise PacelineError(
                f"latency_samples: {mode}.{name} has {len(arrays)} arrays, expected {len(budgets)} (one per budget)"
            )
    drawings = []
    for index, budget in enumerate(budgets):
        drawing = behaviour_plots.latency_curve(
            budget, {name: values[index] for name, values in samples.items()}, MARKERS
        )
        description = f"Distribution of latency at a budget of {milliseconds(budget)}"
        svg = inline_svg(drawing, f"distribution-{mode}-{index}", description)
        drawings.append(tag("div", tag("h3", f"Budget {milliseconds(budget)}"), svg, class_="panel"))
    looks = [(name, colour_key(name)) for name in samples]
    key = [("Budget", "ink", "-")]
    key += [
        (contender_label(name, mode), colour, MONOCHROME_HINTS.get(colour, ("-",))[0])
        for name, colour in looks
    ]
    return [
        tag("h3", f"{MODES[mode]}: share of questions answered within a time", class_="group"),
        page.legend(key),
        tag("div", drawings, class_="panels"),
    ]


def training(history: Any) -> Html:
    """Training curves, one panel per recorded quantity."""
    if not history:
        notice = page.not_measured(
            "No training history was handed to this report.", "Train with: paceline train"
        )
        return page.section("training", "Training", notice)
    axis_name, panels = training_panels(history)
    drawings = []
    for index, (name, lines) in enumerate(panels.items()):
        svg = inline_svg(
            behaviour_plots.training_panel(lines, axis_name, MARKERS),
            f"training-{index}",
            f"{name} in training",
        )
        drawings.append(tag("div", tag("h3", name), svg, class_="panel"))
    return page.section("training", "Training", tag("div", drawings, class_="panels"))
