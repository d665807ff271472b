"""Section on accuracy by kind of question."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from paceline.errors import PacelineError
from paceline.report import behaviour_plots, page
from paceline.report.amounts import amounts_of
from paceline.report.figures import inline_svg
from paceline.report.markup import Child, Html, tag
from paceline.report.reading import (
    CONTENDERS,
    MODES,
    Results,
    budgets_of,
    contender_label,
    modes_of,
    percent,
    quantile_index,
    section_of,
    single_number,
)
from paceline.report.theme import MARKERS


def accuracy_by_kind(results: Results, mode: str) -> tuple[list[str], dict[str, np.ndarray]]:
    """Kinds, and contender -> accuracy (kinds, budgets) with NaN where not measured."""
    section = section_of(results, mode)
    kinds: Mapping[str, Any] = results.get("kinds") or {}
    found = {kind: (facts.get("accuracy") or {}).get(mode) or {} for kind, facts in kinds.items()}
    present = {name for by_contender in found.values() for name in by_contender}
    if section is None or not present:
        return [], {}
    width = len(budgets_of(section))
    accuracy = {}
    for name in [name for name in CONTENDERS if name in present] + sorted(present - set(CONTENDERS)):
        lines = [by_contender.get(name, [np.nan] * width) for by_contender in found.values()]
        if any(len(line) != width for line in lines):
            raise PacelineError(
                f"results: kinds.*.accuracy.{mode}.{name}: expected {width} values, one per budget"
            )
        accuracy[name] = np.array(lines, dtype=np.float64)
    return list(kinds), accuracy


def by_kind(results: Results) -> Html:
    """For each kind of budget a plot at its middle budget and a table of all budgets."""
    drawings: list[Child] = []
    tables: list[Child] = []
    for mode, title in modes_of(results).items():
        names, accuracy = accuracy_by_kind(results, mode)
        section = section_of(results, mode)
        if not names or section is None:
            what = f"There is no accuracy by kind under {title.lower()}."
            drawings.append(page.not_measured(what, "Run: paceline evaluate"))
            continue
        budgets = budgets_of(section)
        middle = quantile_index(section, 0.5)
        middle = len(budgets) // 2 if middle is None else middle
        at_middle = {name: values[:, middle] for name, values in accuracy.items()}
        drawing = behaviour_plots.kinds(names, at_middle, mode, MARKERS)
        svg = inline_svg(drawing, f"kinds-{mode}", f"Accuracy by kind of question, {title.lower()}")
        frame = f"{title}, at {amounts_of(results).text(budgets[middle])}"
        drawings.append(page.figure(svg, "Bar: from best static to Paceline.", frame))
        tables.append(_table(results, names, accuracy, budgets, mode))
    return page.section("kinds", "Accuracy by kind of question", tag("div", drawings, class_="pair"), tables)


def _table(
    results: Results, names: list[str], accuracy: dict[str, np.ndarray], budgets: np.ndarray, mode: str
) -> Child:
    if "paceline" not in accuracy:
        return None
    rival = accuracy.get("best_static")
    rows = []
    for index, name in enumerate(names):
        count = single_number(results["kinds"][name].get("count"))
        cells: list[Child] = ["" if np.isnan(count) else f"{count:,.0f}"]
        for place, value in enumerate(accuracy["paceline"][index]):
            static = None if rival is None else f"static {percent(rival[index, place])}"
            cells.append([percent(value), tag("small", static) if static else None])
        rows.append(page.row(name, cells))
    header = ["Kind", "Questions", *(amounts_of(results).text(budget) for budget in budgets)]
    what = f"{MODES[mode]}: accuracy of Paceline, below it {contender_label('best_static', mode).lower()}"
    return tag(
        "details",
        tag("summary", f"{MODES[mode]}: every kind at every budget"),
        page.table(what, header, rows),
    )
