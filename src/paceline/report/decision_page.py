"""The page of one decision: what was chosen, whose share it is, which budgets choose otherwise, who lost and why."""

from pathlib import Path
from typing import Any

from paceline.report import page
from paceline.report.amounts import Amounts
from paceline.report.axes import HALF_WIDTH, legend_above
from paceline.report.figures import inline_svg, new_figure
from paceline.report.markup import Child, Html, tag
from paceline.report.reading import DASH, MINUS, configuration_text, percent
from paceline.report.theme import MARKERS, Theme, import_matplotlib, style
from paceline.runtime.attribution import Attribution
from paceline.runtime.explanation import BUDGETS, Considered, Explanation

TITLE = "Why this configuration"
METHODS = {
    "occlusion": "Exact Shapley values of hiding image, question and budget, alone and together.",
    "integrated_gradients": "Shapley values of small steps on the straight way from everything hidden to the request.",
}


def write_decision(explanation: Explanation, path: Path | str) -> Path:
    """Write the page of one decision and return its path.

    Raises `DependencyError` without matplotlib, `OSError` when the file cannot be written.
    """
    import_matplotlib()
    sections = {
        "shares": ("Shares", _shares(explanation)),
        "budgets": ("Other budgets", _budgets(explanation)),
        "configurations": ("Configurations", _configurations(explanation)),
    }
    introduction = [
        tag("p", explanation.headline, class_="lead"),
        [tag("p", line, class_="facts") for line in explanation.limits],
    ]
    footer = "Made by paceline. This page loads nothing: no scripts, no network."
    return page.write(Path(path), page.document(TITLE, introduction, sections, footer))


def _shares(explanation: Explanation) -> Html:
    shares, title = explanation.shares, "Share of image, question and budget"
    notes = [tag("p", note, class_="note") for note in explanation.notes]
    if shares is None:
        return page.section("shares", title, page.not_measured("There are no shares.", ""), notes)
    if shares.nothing:
        none = tag("p", "None of image, question and budget moves this choice.")
        return page.section("shares", title, none, notes)
    what = (
        f"{METHODS[shares.method]} Of the log-probability of the choice among what fits (softmax of value / "
        f"temperature): {_signed(shares.hidden)} with everything hidden, {_signed(shares.shown)} with the request."
    )
    return page.section("shares", title, _bars(shares), notes, note=what)


def _bars(shares: Attribution) -> Html:
    rows = []
    for item in shares.contributions:
        width = tag("span", class_="bar", style=f"width:{16 * (item.share or 0.0):.2f}rem")
        cells: list[Child] = [percent(item.share, 0), _signed(item.value), tag("td", width, class_="text")]
        rows.append(page.row(item.part, cells))
    return page.table(None, ["Part", "Share", "Contribution", ""], rows)


def _budgets(explanation: Explanation) -> Html:
    amounts, rows = Amounts(explanation.quantity.unit), []
    for item in explanation.budgets:
        where, _, what = explanation.change(item).partition(": ")
        if item.configuration is not None:
            what = configuration_text(item.configuration)
        score = DASH if item.score is None else f"{item.score:.3f}"
        label = f"{item.direction} {BUDGETS[item.kind]}"
        text = [tag("td", where, class_="text"), tag("td", what or DASH, class_="text")]
        rows.append(page.row(label, [*text, score, amounts.text(item.predicted_ms)]))
    header = ["", *(tag("th", name, class_="text") for name in ("Where", "What is chosen then"))]
    table = page.table(None, [*header, "Score", "Expected"], rows)
    return page.section("budgets", "Where the choice changes", table if rows else None)


def _configurations(explanation: Explanation) -> Html:
    amounts, known = Amounts(explanation.quantity.unit), explanation.quantity.known_before
    drawing = None
    if known:
        svg = inline_svg(scores(explanation, MARKERS), "scores", "Score against upper time")
        drawing = page.figure(svg, "One dot per configuration; what lies too far right does not fit.")
    rows = [_row(row, amounts, known) for row in explanation.shown]
    times = ["Expected", "Upper"] if known else []
    header = ["Configuration", "Score", "Value", *times, tag("th", "Verdict", class_="text")]
    others = len(explanation.configurations) - len(rows)
    more = tag("p", f"And {others} configurations of lower value.", class_="note") if others else None
    return page.section(
        "configurations",
        "Best configurations",
        drawing,
        page.table(None, header, rows),
        more,
        note=f"{explanation.meaning()}.",
    )


def _row(row: Considered, amounts: Amounts, known: bool) -> Html:
    times = [amounts.text(row.predicted_ms), amounts.text(row.upper_ms)] if known else []
    numbers = [f"{row.score:.3f}", f"{row.value:.3f}".replace("-", MINUS), *times]
    return page.row(
        configuration_text(row.configuration),
        [*numbers, tag("td", row.verdict, class_="text")],
        class_="strong" if row.chosen else None,
    )


def scores(explanation: Explanation, theme: Theme) -> Any:
    """Score of every configuration against its upper time; what fits, what does not, the choice."""
    amounts = Amounts(explanation.quantity.unit)
    groups = {
        "fits": ([row for row in explanation.configurations if row.feasible], "paceline", "o", 6.0),
        "does not fit": ([row for row in explanation.configurations if not row.feasible], "dot", "x", 6.0),
        "chosen": ([row for row in explanation.configurations if row.chosen], "best-static", "D", 10.0),
    }
    with style(theme):
        figure, grid = new_figure(HALF_WIDTH, 300)
        axes = grid[0, 0]
        for label, (rows, colour, marker, size) in groups.items():
            if rows:
                axes.plot(
                    [row.upper_ms for row in rows], [row.score for row in rows], marker, label=label,
                    color=theme[colour], markersize=size, zorder=4 if label == "chosen" else 3,
                )  # fmt: skip
        axes.set_xlabel(f"upper {amounts.noun}, {amounts.unit}")
        axes.set_ylabel("score")
        legend_above(axes)
    return figure


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", MINUS)
