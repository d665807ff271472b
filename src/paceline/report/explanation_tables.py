"""The global picture of a controller as terminal tables and text."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from paceline.evaluation.usage import ALL_KINDS
from paceline.report.amounts import Amounts
from paceline.report.fitting import empty_table
from paceline.report.reading import DASH, MINUS, configuration_text, percent, points, points_interval

Picture = Mapping[str, Any]
"""The value of `explain_controller`."""
TITLES = {"hard": "hard budgets", "average": "average budgets"}
MOST_KINDS = 12
"""Kinds of question shown, the most frequent ones; JSON has all of them."""
ROUNDING = 1e-12
"""Differences of sums that exchanging samples changes by no more."""
PERMUTED = (
    "image and question: features exchanged among samples; budget: hidden from the policy, the guard stays"
)


def modes_in(picture: Picture) -> dict[str, str]:
    """The kinds of budget that a picture has, and their titles."""
    titles = {"hard": "deadlines"} if not picture["known_before"] else TITLES
    return {mode: title for mode, title in titles.items() if mode in picture}


def explanation_parts(picture: Picture) -> list[RenderableType]:
    """Everything, for a terminal."""
    parts: list[RenderableType] = [sample_line(picture)]
    for mode, title in modes_in(picture).items():
        knobs = [_knobs(picture, mode, title)] if numeric_knobs(picture[mode]["use"]) else []
        parts += [_use(picture, mode, title), *knobs, _importance(picture, mode, title)]
        parts += surrogate_lines(picture, mode, title)
    return parts


def sample_line(picture: Picture) -> str:
    """What the picture is of."""
    samples, policy = picture["samples"], picture["policy"]
    left_out = samples["incomplete"]
    return (
        f"{samples['explained']:,} of {samples['of']:,} {samples['split']} samples, {samples['scenes']:,} scenes; "
        f"{policy['configurations']} configurations"
        + (f"; {left_out:,} samples without all outcomes left out" if left_out else "")
    )


def short_configuration(configuration: Mapping[str, Any]) -> str:
    """Options alone, in the order of the knobs.

    >>> short_configuration({"max_crops": 4, "top_k": 8})
    '4/8'
    """
    return "/".join(str(option) for option in configuration.values())


def kinds_in(use: Sequence[Mapping[str, Any]]) -> list[str]:
    """The kinds that are shown, "all" first."""
    return list(use[0]["kinds"])[: 1 + MOST_KINDS]


def numeric_knobs(use: Sequence[Mapping[str, Any]]) -> list[str]:
    """Knobs whose options have a mean."""
    return list(use[0]["kinds"][ALL_KINDS]["knobs"])


def signed(change: float) -> str:
    """A mean change with three digits that count; what is only rounding is 0.

    >>> signed(-0.0123), signed(-2.2e-20)
    ('−0.0123', '0')
    """
    return f"{change:+.3g}".replace("-", MINUS) if abs(change) > ROUNDING else "0"


def _use(picture: Picture, mode: str, title: str) -> Table:
    use, amounts = picture[mode]["use"], Amounts(picture["unit"])
    table = empty_table(
        f"Most frequent configuration ({'/'.join(picture['knobs'])}) and its share, {title} in {amounts.unit}",
        "kind",
    )
    for row in use:
        table.add_column(amounts.number(row["budget_ms"]), justify="right")
    for kind in kinds_in(use):
        facts = [row["kinds"][kind] for row in use]
        cells = [
            f"{short_configuration(item['configuration'])}\n{percent(item['share'], 0)}" for item in facts
        ]
        table.add_row(Text(kind), *(Text(cell, justify="right") for cell in cells))
    used = [str(row["kinds"]["all"]["used"]) for row in use]
    table.add_section()
    table.add_row("configurations used", *used)
    if picture["known_before"]:
        table.add_row("something fits", *(percent(row["fits"], 0) for row in use))
    hidden = len(use[0]["kinds"]) - len(kinds_in(use))
    if hidden:
        table.caption = f"{hidden} more kinds, see --json"
    return table


def _knobs(picture: Picture, mode: str, title: str) -> Table:
    use, amounts = picture[mode]["use"], Amounts(picture["unit"])
    table = empty_table(f"Mean option of every knob, {title} in {amounts.unit}", "knob")
    for row in use:
        table.add_column(amounts.number(row["budget_ms"]), justify="right")
    for knob in numeric_knobs(use):
        table.add_row(Text(knob), *(f"{row['kinds']['all']['knobs'][knob]:.1f}" for row in use))
    return table


def _importance(picture: Picture, mode: str, title: str) -> Table:
    table = empty_table(f"Importance of inputs, {title}: mean over the budgets", "inputs")
    for name in (
        "choices that change",
        "accuracy lost, points",
        f"mean {Amounts(picture['unit']).noun} change, {picture['unit']}",
    ):
        table.add_column(name, justify="right")
    for group, facts in picture[mode]["importance"].items():
        if "not_read" in facts:
            table.add_row(group, DASH, DASH, DASH)
            continue
        lost = f"{points(facts['accuracy_lost'])} {points_interval(facts['accuracy_lost_ci'])}"
        more = facts.get("latency_change_ms")
        table.add_row(
            group,
            percent(facts["changed"]),
            lost,
            DASH if more is None else signed(more),
        )
    unread = [facts["not_read"] for facts in picture[mode]["importance"].values() if "not_read" in facts]
    table.caption = "\n".join([PERMUTED, *unread])
    return table


def surrogate_lines(picture: Picture, mode: str, title: str) -> list[str]:
    """The tree and how far it can be trusted."""
    found = picture[mode]["surrogate"]
    if found is None:
        return [f"No tree imitates the choices under {title}: all samples are of one scene."]
    return [
        f"A tree of depth {found['depth']} that imitates the choices under {title}",
        fidelity_line(found),
        *tree_lines(found["tree"], Amounts(picture["unit"])),
        "",
    ]


def fidelity_line(found: Mapping[str, Any]) -> str:
    """How often the tree is right, beside saying always the same."""
    return (
        f"It is right for {percent(found['fidelity'])} of {found['held_out_decisions']:,} decisions on held-out "
        "scenes; "
        f"always saying the most frequent configuration is for {percent(found['most_frequent'])}, that of each budget "
        f"for {percent(found['most_frequent_at_budget'])}."
    )


def tree_lines(node: Mapping[str, Any], amounts: Amounts, depth: int = 0) -> list[str]:
    """The tree as indented rules."""
    indent = "  " * (depth + 1)
    if "configuration" in node:
        share = percent(node["share"], 0)
        return [f"{indent}{configuration_text(node['configuration'])} ({share} of {node['decisions']:,})"]
    low, high = _conditions(node["input"], node["threshold"], amounts)
    return [
        f"{indent}{low}:",
        *tree_lines(node["low"], amounts, depth + 1),
        f"{indent}{high}:",
        *tree_lines(node["high"], amounts, depth + 1),
    ]


def _conditions(name: str, threshold: float, amounts: Amounts) -> tuple[str, str]:
    """Both sides of a split in words."""
    if name.startswith("kind is "):
        return name.replace("kind is ", "kind is not ", 1), name
    value = amounts.text(threshold) if name == "budget" else f"{threshold:.3g}"
    return f"{name} up to {value}", f"{name} above {value}"
