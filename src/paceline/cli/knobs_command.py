"""`paceline knobs`: what can be turned on a model."""

from typing import Annotated

import typer

from paceline.cli.output import AsJson, emit

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A shipped model (tiny) or a model directory.")
]


def run(model: ModelArgument, as_json: AsJson = False) -> None:
    """List the knobs of MODEL, their options and the number of configurations."""
    from paceline.models.registry import load_model

    loaded = load_model(model)
    space = loaded.knobs
    value = {
        "model": loaded.name,
        "knobs": space.to_json(),
        "configurations": space.size,
        "default": loaded.default_configuration,
        "cheapest": space.cheapest,
        "full": space.full,
    }
    width = max(len(name) for name in space.names)
    lines = [
        f"{knob.name:<{width}}  {', '.join(str(option) for option in knob.options)}" for knob in space.knobs
    ]
    emit(value, [*lines, f"{space.size} configurations"], as_json=as_json)
