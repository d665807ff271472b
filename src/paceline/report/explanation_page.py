"""The page of a controller's global picture: what it chooses, by which inputs, and a tree that imitates it."""

from pathlib import Path

from paceline.report import explanation_plots, page
from paceline.report.amounts import Amounts
from paceline.report.explanation_tables import (
    PERMUTED,
    Picture,
    fidelity_line,
    kinds_in,
    modes_in,
    numeric_knobs,
    sample_line,
    short_configuration,
    signed,
    tree_lines,
)
from paceline.report.figures import inline_svg
from paceline.report.markup import Child, Html, tag
from paceline.report.reading import percent, points, points_interval
from paceline.report.theme import MARKERS, import_matplotlib

TITLE = "What the controller chooses"
LEAD = (
    "For every kind of question and budget the configuration that is chosen most, how much the choices hang on image, "
    "question and budget, and a small tree that imitates them."
)


def write_explanation(picture: Picture, path: Path | str) -> Path:
    """Write the page of what `explain_controller` found and return its path.

    Raises `DependencyError` without matplotlib, `OSError` when the file cannot be written.
    """
    import_matplotlib()
    sections: dict[str, tuple[str, Html]] = {"headline": ("In short", _headline(picture))}
    for mode, title in modes_in(picture).items():
        label = title.capitalize()
        sections[f"use-{mode}"] = (label, _use(picture, mode, label))
        sections[f"importance-{mode}"] = ("Importance", _importance(picture, mode, title))
        sections[f"tree-{mode}"] = ("Tree", _tree(picture, mode, title))
    introduction = [tag("p", LEAD, class_="lead"), tag("p", sample_line(picture), class_="facts")]
    footer = "Made by paceline. This page loads nothing: no scripts, no network."
    return page.write(Path(path), page.document(TITLE, introduction, sections, footer))


def _headline(picture: Picture) -> Html:
    cards = []
    for mode, title in modes_in(picture).items():
        facts = picture[mode]
        used = [row["kinds"]["all"]["used"] for row in facts["use"]]
        cards.append(page.card(f"Configurations used, {title}", f"{min(used)} to {max(used)}", "per budget"))
        read = {name: item for name, item in facts["importance"].items() if "not_read" not in item}
        if read:
            name = max(read, key=lambda group: read[group]["changed"])
            share = percent(read[name]["changed"], 0)
            cards.append(page.card(f"Matters most, {title}", name, f"without it {share} of choices change"))
        found = facts["surrogate"]
        static = "" if found is None else f"most frequent: {percent(found['most_frequent_at_budget'], 0)}"
        right = None if found is None else percent(found["fidelity"], 0)
        cards.append(page.card(f"Tree is right, {title}", right, static))
    return page.section("headline", "In short", tag("div", cards, class_="cards"))


def _use(picture: Picture, mode: str, title: str) -> Html:
    use, amounts = picture[mode]["use"], Amounts(picture["unit"])
    drawings = []
    for number, knob in enumerate(numeric_knobs(use)):
        drawing = explanation_plots.knob_by_kind(use, knob, amounts, MARKERS)
        svg = inline_svg(drawing, f"{mode}-knob-{number}", f"Mean {knob} by budget and kind of question")
        drawings.append(page.figure(svg, None, knob))
    lines = explanation_plots.kind_lines(use)
    key = page.legend([(kind, colour, dash) for kind, (colour, dash, _) in lines.items()])
    header = ["Kind", "Questions", *(amounts.text(row["budget_ms"]) for row in use)]
    rows = []
    for kind in kinds_in(use):
        facts = [row["kinds"][kind] for row in use]
        cells: list[Child] = [
            [short_configuration(item["configuration"]), tag("small", percent(item["share"], 0))]
            for item in facts
        ]
        rows.append(page.row(kind, [f"{facts[0]['count']:,}", *cells]))
    caption = f"{title}: most frequent configuration ({'/'.join(picture['knobs'])}) and its share"
    table = page.table(caption, header, rows)
    shown = "a line and a row" if drawings else "a row"
    note = f"Of {len(use[0]['kinds']) - 1 or 1} kinds of question the most frequent have {shown}."
    pictures = [key, tag("div", drawings, class_="panels")] if drawings else []
    return page.section(f"use-{mode}", title, pictures, table, note=note)


def _importance(picture: Picture, mode: str, title: str) -> Html:
    groups, unit = picture[mode]["importance"], picture["unit"]
    known = {name: facts for name, facts in groups.items() if "not_read" not in facts}
    unread = [
        f"{name.capitalize()}: {facts['not_read']}." for name, facts in groups.items() if name not in known
    ]
    parts: list[Child] = []
    if known:
        svg = inline_svg(
            explanation_plots.group_importance(known, MARKERS), f"importance-{mode}", "Importance of inputs"
        )
        parts.append(page.figure(svg, "Means over budgets and samples; lines are 95 % intervals."))
        rows = []
        for name, facts in known.items():
            more = facts.get("latency_change_ms")
            lost = [points(facts["accuracy_lost"]), tag("small", points_interval(facts["accuracy_lost_ci"]))]
            cells: list[Child] = [percent(facts["changed"]), lost]
            rows.append(page.row(name, [*cells, *([] if more is None else [f"{signed(more)} {unit}"])]))
        header = ["Inputs", "Choices that change", "Accuracy lost, points"]
        header += [f"Mean {Amounts(unit).noun} change"] if picture["known_before"] else []
        parts.append(page.table(None, header, rows))
    note = f"{PERMUTED[0].upper()}{PERMUTED[1:]}; {picture['permutations']} seeded exchanges."
    notes = [tag("p", line, class_="note") for line in unread]
    return page.section(f"importance-{mode}", f"Which inputs matter, {title}", parts, notes, note=note)


def _tree(picture: Picture, mode: str, title: str) -> Html:
    found, heading = picture[mode]["surrogate"], f"A tree that imitates the choices, {title}"
    identity = f"tree-{mode}"
    if found is None:
        what = "All samples are of one scene, so nothing could be held out."
        return page.section(identity, heading, page.not_measured(what, "Explain more samples."))
    svg = inline_svg(explanation_plots.fidelity(found, MARKERS), f"fidelity-{mode}", "Fidelity of the tree")
    rules = "\n".join(tree_lines(found["tree"], Amounts(picture["unit"])))
    note = (
        "Components are the directions in which scaled features differ most. In brackets: how often a rule was right "
        "among the decisions it was fitted on."
    )
    parts = [page.figure(svg, fidelity_line(found)), tag("div", tag("pre", rules), class_="pair")]
    return page.section(identity, heading, parts, note=note)
