"""Knob space: named knobs with ordered options, and the bijection between configurations and action ids."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from paceline.errors import KnobError

Option: TypeAlias = int | float | str
Configuration: TypeAlias = dict[str, Option]


@dataclass(frozen=True, kw_only=True, slots=True)
class Knob:
    """One thing that can be turned. `options` are ordered from the cheapest to the most expensive."""

    name: str
    options: tuple[Option, ...]

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise KnobError(f"knob name: got {self.name!r}, expected a non-empty string")
        if not self.options:
            raise KnobError(f"knob {self.name}: got no options, expected at least one")
        if len(set(self.options)) != len(self.options):
            raise KnobError(f"knob {self.name}: options {list(self.options)} repeat; list each once")


@dataclass(frozen=True, slots=True)
class KnobSpace:
    """All configurations of a list of knobs. The last knob varies fastest in the action id.

    >>> space = KnobSpace((Knob(name="crops", options=(2, 4)), Knob(name="top_k", options=(4, 8, 16))))
    >>> space.size, space.action({"crops": 4, "top_k": 8}), space.configuration(4)
    (6, 4, {'crops': 4, 'top_k': 8})
    """

    knobs: tuple[Knob, ...]

    def __post_init__(self) -> None:
        names = [knob.name for knob in self.knobs]
        if not names:
            raise KnobError("knob space: got no knobs, expected at least one")
        if len(set(names)) != len(names):
            raise KnobError(f"knob space: names {names} repeat; give each knob its own")

    @property
    def names(self) -> tuple[str, ...]:
        """Knob names in order."""
        return tuple(knob.name for knob in self.knobs)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of options per knob."""
        return tuple(len(knob.options) for knob in self.knobs)

    @property
    def size(self) -> int:
        """Number of configurations."""
        return int(np.prod(self.shape))

    def action(self, configuration: Mapping[str, Option]) -> int:
        """The action id of a configuration, in [0, size)."""
        if len(configuration) != len(self.knobs) or any(
            knob.name not in configuration for knob in self.knobs
        ):
            self._refuse_names(configuration)
        action = 0
        for knob in self.knobs:
            option = configuration[knob.name]
            if option not in knob.options:
                raise KnobError(
                    f"knob {knob.name}: got option {option!r}, expected one of {list(knob.options)}"
                )
            action = action * len(knob.options) + knob.options.index(option)
        return action

    def _refuse_names(self, configuration: Mapping[str, Option]) -> None:
        unknown = sorted(set(configuration) - set(self.names))
        missing = sorted(set(self.names) - set(configuration))
        raise KnobError(
            f"configuration {dict(configuration)}: unknown knobs {unknown}, missing knobs {missing}; "
            f"expected exactly {list(self.names)}"
        )

    def configuration(self, action: int) -> Configuration:
        """The configuration of an action id."""
        if not 0 <= action < self.size:
            raise KnobError(f"action {action}: outside the knob space, expected 0 to {self.size - 1}")
        indices = self.option_indices(np.array([action]))[0]
        return {knob.name: knob.options[index] for knob, index in zip(self.knobs, indices, strict=True)}

    def option_indices(self, actions: np.ndarray) -> np.ndarray:
        """Option index per knob: integer array (actions,) -> (actions, knobs)."""
        return np.stack(np.unravel_index(np.asarray(actions, dtype=np.int64), self.shape), axis=-1)

    def actions(self, configurations: Iterable[Mapping[str, Option]]) -> np.ndarray:
        """Action ids of configurations, as int64 (configurations,)."""
        return np.array([self.action(configuration) for configuration in configurations], dtype=np.int64)

    @property
    def cheapest(self) -> Configuration:
        """The first option of every knob."""
        return {knob.name: knob.options[0] for knob in self.knobs}

    @property
    def full(self) -> Configuration:
        """The last option of every knob."""
        return {knob.name: knob.options[-1] for knob in self.knobs}

    def to_json(self) -> list[dict[str, Any]]:
        """A JSON value from which `from_json` makes an equal space."""
        return [{"name": knob.name, "options": list(knob.options)} for knob in self.knobs]

    @classmethod
    def from_json(cls, value: Any) -> "KnobSpace":
        """The space written by `to_json`."""
        try:
            return cls(tuple(Knob(name=item["name"], options=tuple(item["options"])) for item in value))
        except (TypeError, KeyError) as error:
            raise KnobError(
                f"knob space: got {value!r}, expected a list of {{name, options}} objects"
            ) from error


SEED_SPACE = KnobSpace(
    (
        Knob(name="max_crops", options=(2, 4, 6, 8, 10, 12)),
        Knob(name="top_k", options=(4, 8, 12, 16, 20, 24, 28, 32)),
        Knob(name="num_active_blocks", options=(8, 9, 10, 11, 12, 13, 14, 15, 16)),
    )
)
"""The 6 x 8 x 9 = 432 configurations of MolmoE-1B's published profiles."""
