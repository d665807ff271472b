"""The manifest of an outcomes directory: what was measured, on what, and how."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from paceline.errors import KnobError, OutcomesError
from paceline.knobs import KnobSpace

SCHEMA_VERSION = 1
"""The newest manifest that this version of Paceline reads, and the one it writes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Where outcomes come from.

    >>> from paceline.knobs import Knob
    >>> manifest = Manifest(space=KnobSpace((Knob(name="top_k", options=(4, 8)),)), task="digits")
    >>> Manifest.from_json(manifest.to_json()) == manifest
    True
    """

    space: KnobSpace
    schema_version: int = SCHEMA_VERSION
    block_ranking: list[int] = field(default_factory=list)  # blocks, most important first; empty: not ranked
    task: str = ""
    model: dict[str, Any] = field(default_factory=dict)  # name, revision or weight hash, sizes, dtype, device
    hardware: dict[str, Any] = field(default_factory=dict)
    software: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)  # of the sweep
    image_width: int = 0  # how many of the feature columns are image features; the rest describe the question
    audit: dict[str, Any] = field(default_factory=dict)  # what a reader must know: timed samples, spikes, ...

    def to_json(self) -> dict[str, Any]:
        """A JSON value from which `from_json` makes an equal manifest."""
        value = {item.name: getattr(self, item.name) for item in fields(self)}
        return value | {"space": self.space.to_json()}

    @classmethod
    def from_json(cls, value: Any, *, source: str = "manifest.json") -> "Manifest":
        """The manifest written by `to_json`; `source` names it in errors.

        Raises:
            OutcomesError: a newer schema version, unknown or missing keys, or values of the wrong type.
        """
        if not isinstance(value, Mapping):
            raise OutcomesError(f"{source}: got {type(value).__name__}, expected a JSON object")
        version = value.get("schema_version")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise OutcomesError(f"{source}: schema_version is {version!r}, expected an integer from 1 on")
        if version > SCHEMA_VERSION:
            raise OutcomesError(
                f"{source}: schema version {version} is newer than {SCHEMA_VERSION}, the newest this version "
                "of Paceline reads; upgrade Paceline or write the outcomes again"
            )
        expected = {item.name for item in fields(cls)}
        unknown, missing = sorted(set(value) - expected), sorted(expected - set(value))
        if unknown or missing:
            raise OutcomesError(
                f"{source}: unknown keys {unknown}, missing keys {missing}; "
                f"expected exactly {sorted(expected)}"
            )
        types = {name: dict for name in ("model", "hardware", "software", "options", "audit")}
        for name, kind in (types | {"task": str, "image_width": int, "block_ranking": list}).items():
            if not isinstance(value[name], kind):
                raise OutcomesError(f"{source}: {name} is {value[name]!r}, expected {kind.__name__}")
        try:
            space = KnobSpace.from_json(value["space"])
        except KnobError as error:
            raise OutcomesError(f"{source}: {error}") from error
        return cls(**{**value, "space": space})


def parse_manifest(text: str, *, source: str = "manifest.json") -> Manifest:
    """The manifest in a JSON text."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise OutcomesError(
            f"{source}: not JSON ({error}); the file is damaged, profile or import the outcomes again"
        ) from error
    return Manifest.from_json(value, source=source)
