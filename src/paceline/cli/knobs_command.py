"""`paceline knobs`: what can be turned on a model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paceline.cli.output import AsJson, emit

if TYPE_CHECKING:
    from paceline.models.facts import ModelFacts

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A shipped model (tiny), a model directory or a name of the Hugging Face hub (owner/model).",
    ),
]
COLUMNS = ("knob", "options", "default", "range", "unit")


def run(model: ModelArgument, as_json: AsJson = False) -> None:
    """List the knobs of MODEL: options, default, range and unit, what always runs and where the overview sits."""
    from paceline.models.facts import TellsFacts
    from paceline.models.registry import load_model

    loaded = load_model(model)
    space, default = loaded.knobs, loaded.default_configuration
    facts = loaded.facts() if isinstance(loaded, TellsFacts) else None
    value: dict[str, Any] = {
        "model": loaded.name,
        "knobs": space.to_json(),
        "configurations": space.size,
        "default": default,
        "cheapest": space.cheapest,
        "full": space.full,
        "facts": None if facts is None else facts.to_json(),
    }
    told = {} if facts is None else {knob.name: knob for knob in facts.knobs}
    rows = [
        (
            knob.name,
            ", ".join(str(option) for option in knob.options),
            str(default[knob.name]),
            f"{told[knob.name].least} to {told[knob.name].most}" if knob.name in told else "",
            told[knob.name].unit if knob.name in told else "",
        )
        for knob in space.knobs
    ]
    more = [] if facts is None else ["", *_facts(facts)]
    emit(value, [*_table([COLUMNS, *rows]), f"{space.size} configurations", *more], as_json=as_json)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows with their columns below each other; columns that say nothing are left out."""
    used = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in used]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*used, strict=True)
    ]


def _facts(facts: "ModelFacts") -> list[str]:
    blocks = ", ".join(str(block) for block in facts.always_kept)
    lines = [
        f"family: {facts.family}",
        f"always runs: {'blocks' if len(facts.always_kept) > 1 else 'block'} {blocks}",
        f"overview: {facts.overview}",
    ]
    if facts.routing is not None:
        lines.append(f"routing: {facts.routing}")
    return [*lines, *(f"no {knob}: {reason}" for knob, reason in facts.refused.items())]
