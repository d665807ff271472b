"""Section that compares learners: ranked closed gaps, accuracy by budget, costs, seeds, folds."""

from collections.abc import Mapping
from typing import Any

from paceline.report import learner_plots, page
from paceline.report.axes import colour_key
from paceline.report.figures import inline_svg
from paceline.report.markup import Child, Html, tag
from paceline.report.reading import (
    CONTENDERS,
    Results,
    contender_label,
    microseconds,
    percent,
    seconds,
    share,
    share_interval,
    signed_share,
    signed_share_interval,
)
from paceline.report.standings import GAP_MODES, gap_modes, rival_of, standings
from paceline.report.theme import LIGHT, MARKERS

RANKED = (
    "Mean over budgets, with paired 95\u00a0% intervals. Lines: best static, the oracle (dotted) and {rival} (dashed). "
    "Grey contenders learn nothing from features."
)
LINES = "Rest the pointer on a mark to see whose it is. Lines that leave the plot below are far behind best static."


def learners(results: Results) -> Html:
    """All that a comparison of learners has beyond an evaluation; a notice where the oracle gains nothing."""
    parts: list[Child] = []
    modes = gap_modes(results)
    if not modes:
        parts.append(page.not_measured("The oracle gains nothing over best static at any budget.", ""))
    for mode, title in modes.items():
        parts.append(tag("div", _drawings(results, mode, title), class_="pair"))
    parts += [_standings_table(results, mode, title) for mode, title in modes.items()]
    if results.get("par10"):
        parts.append(_par10_table(results["par10"]))
    parts += [_folds_table(results, mode, title) for mode, title in modes.items() if results.get("folds")]
    parts += _stability(results)
    return page.section(
        "learners", "Every learner", parts,
        note="Closed gap: the share of what the oracle has over the best static configuration. Same features, splits "
        "and budgets for all.",
    )  # fmt: skip


def _drawings(results: Results, mode: str, title: str) -> list[Child]:
    rival = rival_of(results, mode)
    caption = RANKED.format(rival="no learner" if rival is None else contender_label(rival))
    svg = inline_svg(
        learner_plots.ranked_gaps(results, mode, MARKERS), f"ranked-{mode}", f"Closed gaps ranked, {title}"
    )
    drawings: list[Child] = [page.figure(svg, caption, f"Closed gap, {_inside(title)}")]
    if learner_plots.section_of_mode(results, mode) is not None:
        drawing, hints = learner_plots.accuracy_by_budget(results, mode, MARKERS)
        svg = inline_svg(drawing, f"learners-{mode}", f"Accuracy over best static by budget, {title}", hints)
        drawings.append(page.figure(svg, LINES, f"Accuracy over best static, {_inside(title)}"))
    return drawings


def _inside(title: str) -> str:
    """A title within a sentence; abbreviations stay."""
    return title if title.isupper() else title.lower()


def _named(name: str, mode: str = "hard") -> list[Child]:
    key = colour_key(name)
    return [page.swatch(key if key in LIGHT else "muted"), contender_label(name, mode)]


def _with_interval(number: str, interval: str) -> list[Child]:
    return [number, tag("small", interval) if interval else None]


def _standings_table(results: Results, mode: str, title: str) -> Html:
    rival = rival_of(results, mode)
    header = ["Contender", "Closed gap", *([] if rival is None else [f"Over {contender_label(rival)}"])]
    rows = []
    for row in standings(results, mode):
        cells: list[Child] = [_with_interval(share(row.gap), share_interval(row.gap_ci))]
        if rival is not None:
            cells.append(_with_interval(signed_share(row.over), signed_share_interval(row.over_ci)))
        cells += [seconds(row.training_s), microseconds(row.decision_us)]
        rows.append(page.row(_named(row.name, mode), cells, "strong" if row.name == "paceline" else None))
    header += ["Training, s", "Decision, µs"]
    return page.table(f"{title}: closed gap, mean over budgets, and costs", header, rows)


def _par10_table(section: Mapping[str, Any]) -> Html:
    times, solved = section.get("par10_s") or {}, section.get("solved") or {}
    rows = []
    for name in sorted(times, key=lambda name: times[name]):
        ends = (section.get("par10_s_ci") or {}).get(name)
        between = "" if ends is None else f"[{ends[0]:,.1f}, {ends[1]:,.1f}]"
        label = [*_named(name)[:1], "Single best"] if name == "best_static" else _named(name)
        cells = [_with_interval(f"{times[name]:,.1f}", between), percent(solved.get(name))]
        rows.append(page.row(label, cells, "strong" if name == "paceline" else None))
    return page.table("Without a deadline: PAR10 in seconds", ["Contender", "PAR10", "Solved"], rows)


def _folds_table(results: Results, mode: str, title: str) -> Html:
    folds = results["folds"]
    header: list[Child] = ["Learner"]
    header += [[fold["fold"], tag("br"), tag("small", f"{fold['samples']} samples")] for fold in folds]
    rows = []
    for name in (name for name in CONTENDERS if name in results["learners"]):
        gaps = [((fold["closed_gaps"].get(mode) or {}).get(name) or {}).get("mean") for fold in folds]
        cells = [share(gap) for gap in gaps]
        rows.append(page.row(_named(name, mode), cells, "strong" if name == "paceline" else None))
    return page.table(f"{title}: closed gap by fold", header, rows, compact=len(folds) > 5)


def _stability(results: Results) -> list[Child]:
    stability = results.get("stability") or {}
    modes = {mode: title for mode, title in GAP_MODES.items() if stability.get(mode)}
    if not modes:
        return []
    figures = []
    for mode, title in modes.items():
        svg = inline_svg(
            learner_plots.seed_spread(results, mode, MARKERS), f"seeds-{mode}", f"Closed gap by seed, {title}"
        )
        figures.append(page.figure(svg, "A dot per seed; the upright mark is their mean.", title))
    parts: list[Child] = [tag("h3", "Over seeds", class_="group"), tag("div", figures, class_="pair")]
    panels = []
    for index, (name, curves) in enumerate(learner_plots.curves_of(results).items()):
        label = contender_label("paceline" if name == "grpo" else name)
        svg = inline_svg(
            learner_plots.seed_curves(curves, name, MARKERS),
            f"curves-{index}",
            f"Validation reward of {label}",
        )
        panels.append(tag("div", tag("h3", label), svg, class_="panel"))
    if panels:
        parts += [
            tag("h3", "Validation reward over epochs, a line per seed", class_="group"),
            tag("div", panels, class_="panels"),
        ]
    return parts
