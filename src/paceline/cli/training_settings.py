"""`--set NAME=VALUE`: any option of training by its name."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from paceline.errors import TrainError

if TYPE_CHECKING:
    from paceline.learning.options import TrainOptions

SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other option of training, such as kl_weight=0.1; repeatable (docs/learners.md).",
    ),
]


def with_settings(options: "TrainOptions", settings: list[str]) -> "TrainOptions":
    """Options with NAME=VALUE words applied: numbers, true, false and null as in JSON, anything else as text.

    Weights of the published rewards are named `reward_params.alpha` and so on.

    Raises:
        TrainError: a word without "=", an unknown name, or a value that the option cannot have.
    """
    if not settings:
        return options
    values = options.to_json()
    weights = values.pop("reward_params")
    places = dict.fromkeys(values, values) | {f"reward_params.{name}": weights for name in weights}
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
    return type(options).from_json(values | {"reward_params": weights})
