"""Training state on disk: one safetensors file, replaced atomically, that resumes bit for bit."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from paceline.errors import TrainError
from paceline.outcomes.files import write_atomically

FILE_NAME = "training.safetensors"
SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Checkpoint:
    """Everything that the rest of a run depends on."""

    tensors: Mapping[str, torch.Tensor]
    state: Mapping[str, Any]  # JSON
    fingerprint: str  # JSON of options and data; another run's checkpoint is refused


def write_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Write to a temporary name, flush to disk, rename: a kill leaves the old or the new state, never half."""
    directory.mkdir(parents=True, exist_ok=True)
    header = {
        "schema_version": str(SCHEMA_VERSION),
        "fingerprint": checkpoint.fingerprint,
        "state": json.dumps(checkpoint.state),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    write_atomically(directory / FILE_NAME, lambda temporary: save_file(tensors, temporary, metadata=header))


def read_checkpoint(directory: Path, fingerprint: str) -> Checkpoint | None:
    """The checkpoint in a directory, None if there is none; TrainError if damaged or of another run."""
    path = directory / FILE_NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        version, found, state = header["schema_version"], header["fingerprint"], json.loads(header["state"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise TrainError(
            f"{path}: damaged checkpoint ({error}); delete it to train from the start"
        ) from error
    if int(version) > SCHEMA_VERSION:
        raise TrainError(f"{path}: schema version {version} is newer than {SCHEMA_VERSION}; upgrade paceline")
    if found != fingerprint:
        changed = _differences(json.loads(found), json.loads(fingerprint))
        raise TrainError(
            f"{path}: belongs to another run, {changed} changed; "
            "use the same options and outcomes, or another directory"
        )
    return Checkpoint(tensors=tensors, state=state, fingerprint=found)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    old, new = _flat(old), _flat(new)
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return ", ".join(f"{name} ({_short(old.get(name))} -> {_short(new.get(name))})" for name in names)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options within options by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
        flat |= inner
    return flat


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:12] + "..."


def with_prefix(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors renamed `prefix/name`."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors that `with_prefix` renamed, under their own names."""
    start = prefix + "/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
