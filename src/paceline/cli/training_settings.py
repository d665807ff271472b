"""`--set NAME=VALUE`: any option of training by its name."""

import json
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from paceline.errors import TrainError

if TYPE_CHECKING:
    from paceline.learning.adaptation import AdaptOptions
    from paceline.learning.options import TrainOptions

Options = TypeVar("Options", "TrainOptions", "AdaptOptions")

SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other option of training, such as reference.student.hidden=64; repeatable (docs/learners.md).",
    ),
]


def with_settings(options: Options, settings: list[str]) -> Options:
    """Options with NAME=VALUE words applied: numbers, true, false and null as in JSON, anything else as text.

    Options within options are named with dots: `reward_params.alpha`, `reference.student.hidden`.

    Raises:
        TrainError: a word without "=", an unknown name, or a value that the option cannot have.
    """
    if not settings:
        return options
    values = options.to_json()
    places = _places(values)
    for setting in settings:
        name, separator, word = setting.partition("=")
        if not separator or name not in places:
            raise TrainError(
                f"--set: got {setting!r}, expected NAME=VALUE with a name of {', '.join(sorted(places))}"
            )
        try:
            value = json.loads(word)
        except json.JSONDecodeError:
            value = word
        places[name][name.rpartition(".")[2]] = value
    return type(options).from_json(values)


def _places(values: dict[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    """Dotted name of every option -> the dictionary that holds it."""
    places: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            places |= _places(value, f"{prefix}{name}.")
        else:
            places[prefix + name] = values
    return places
