"""What a controller knows of its exported files: which there are, what was measured of each, which one decides."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paceline.errors import ControllerError

if TYPE_CHECKING:
    from paceline.runtime.controller import Controller

KEYS = ("opset", "requests", "calibration_requests", "decides", "chosen", "gates", "hardware")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Exports:
    """The record of `paceline export`, and where its files lie. They are read when a session is made."""

    directory: Path
    record: Mapping[str, Any]  # JSON-able, keys KEYS
    files: Mapping[str, Mapping[str, Any]]  # name -> {"sha256", "size_bytes"}

    def __post_init__(self) -> None:
        unknown, missing = sorted(set(self.record) - set(KEYS)), sorted(set(KEYS) - set(self.record))
        if unknown or missing:
            raise ControllerError(
                f"exports: unknown keys {unknown}, missing keys {missing}; export the controller again"
            )
        for name, file in self.files.items():
            if not (
                isinstance(file, Mapping)
                and isinstance(file.get("sha256"), str)
                and isinstance(file.get("size_bytes"), int)
            ):
                raise ControllerError(
                    f"exports: {name} is recorded as {file!r}, expected its sha256 and size_bytes; export the "
                    "controller again"
                )
        names = [gate["file"] for gate in self.record["gates"]]
        if self.record["chosen"] not in names or sorted(names) != sorted(self.files):
            raise ControllerError(
                f"exports: got files {sorted(self.files)}, gates of {names} and {self.record['chosen']!r} chosen, "
                "expected the same files; export the controller again"
            )

    @property
    def gates(self) -> Sequence[Mapping[str, Any]]:
        """What was measured, one entry per file."""
        return self.record["gates"]

    def file_of(self, precision: str | None) -> str:
        """The file of a precision; of None the chosen one.

        Raises:
            ControllerError: an unknown precision, or one that failed its checks.
        """
        if precision is None:
            return self.record["chosen"]
        gates = {gate["precision"]: gate for gate in self.gates}
        if not isinstance(precision, str) or precision not in gates:
            raise ControllerError(f"precision: got {precision!r}, expected one of {sorted(gates)}")
        if not gates[precision]["passed"] and not str(gates[precision]["reason"]).startswith("slower"):
            raise ControllerError(
                f"precision {precision}: its file failed its checks when it was exported "
                f"({gates[precision]['reason']}); "
                f"use {self.record['chosen']}, which passed"
            )
        return gates[precision]["file"]

    def read(self, name: str) -> bytes:
        """The bytes of a file, checked against the record.

        Raises:
            ControllerError: the file is missing, truncated or changed.
        """
        path, expected = self.directory / name, self.files[name]
        if not path.is_file():
            raise ControllerError(f"{path}: the file is missing; export the controller again")
        data = path.read_bytes()
        if len(data) != expected["size_bytes"]:
            raise ControllerError(
                f"{path}: got {len(data)} bytes, expected {expected['size_bytes']}; the file is truncated or of "
                "another export, export the controller again"
            )
        if hashlib.sha256(data).hexdigest() != expected["sha256"]:
            raise ControllerError(
                f"{path}: its contents do not match the hash in controller.json; the file was changed, export the "
                "controller again"
            )
        return data


def decided_digest(controller: "Controller") -> str:
    """Hash of what an exported file holds: the policy and the latency laws, without the scales of a machine."""
    digest = hashlib.sha256(repr(controller.policy.spec).encode())
    if controller.policy.spec.output == "logits":  # files of before let them choose at any price
        digest.update(b"beyond the highest price only time counts")
    for name in sorted(controller.policy.arrays):
        digest.update(name.encode() + np.ascontiguousarray(controller.policy.arrays[name]).tobytes())
    for estimate in (controller.latency, controller.first_token_latency):
        for part in (estimate.actions, estimate.rows, estimate.law, estimate.upper_ratio):
            digest.update(np.ascontiguousarray(part).tobytes())
        digest.update(repr(estimate.floor_ms).encode())
    return digest.hexdigest()
