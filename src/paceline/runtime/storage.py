"""The controller directory: controller.json, policy.safetensors and latency.safetensors. Nothing pickled.

Beside them text_features.safetensors and exported files, where there are some.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy

from paceline.errors import ControllerError, KnobError, PacelineError
from paceline.knobs import KnobSpace
from paceline.latency.estimate import LatencyEstimator
from paceline.policies import text_features
from paceline.policies.numpy_policy import NumpyPolicy
from paceline.policies.spec import PolicySpec
from paceline.policies.text_features import TextFeatures
from paceline.runtime.average import PriceTable
from paceline.runtime.controller import Controller
from paceline.runtime.exports import Exports
from paceline.runtime.guard import Guard

FORMAT = "paceline-controller"
SCHEMA_VERSION = 2
"""The newest controller directory that this version reads, and the one it writes."""
DESCRIPTION, POLICY, LATENCY = "controller.json", "policy.safetensors", "latency.safetensors"
SHIPPED = Path(__file__).parents[1] / "assets" / "controllers"
WHOLE, FIRST = "whole.", "first_token."
KEYS = (
    "format",
    "schema_version",
    "knobs",
    "policy",
    "guard",
    "prices",
    "block_ranking",
    "metrics",
    "provenance",
    "files",
    "exports",
    "digest",
)
"""Of the newest version; the first has no "exports"."""
SUFFIXES = (".safetensors", ".onnx")  # of what lies beside the description
LISTS = ("knobs", "block_ranking")
OBJECTS = ("policy", "guard", "prices", "metrics", "provenance", "files")
ORIGINS = ("model", "profile", "training")
"""Parts of the provenance that are read: objects, or None where they are not known."""


def save_controller(controller: Controller, path: Path) -> None:
    """Write a controller directory. Files take their names when all are written, and the description goes last.

    A kill leaves the directory as it was, or, within the moment of renaming, one that is refused; never a mixture that
    loads. Files of the controller that was there before and that this one lacks are removed afterwards.
    """
    contents = {POLICY: _policy_bytes(controller), LATENCY: _latency_bytes(controller)}
    if controller.text_features is not None:
        contents[text_features.FILE] = controller.text_features.to_bytes()
    if controller.exports is not None:
        contents |= {name: controller.exports.read(name) for name in controller.exports.files}
    description = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "knobs": controller.space.to_json(),
        "policy": controller.policy.spec.to_json(),
        "guard": asdict(controller.guard),
        "prices": {
            "budgets_ms": controller.prices.budgets_ms.tolist(),
            "prices": controller.prices.prices.tolist(),
        },
        "block_ranking": list(controller.block_ranking),
        "metrics": dict(controller.metrics),
        "provenance": dict(controller.provenance),
        "files": {name: {"sha256": sha256(data), "size_bytes": len(data)} for name, data in contents.items()},
        "exports": None if controller.exports is None else dict(controller.exports.record),
    }
    try:
        description["digest"] = _digest(description)
        text = json.dumps(description, indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ControllerError(
            f"controller: metrics or provenance cannot be stored as JSON ({error}); expected plain, finite values"
        ) from error
    path.mkdir(parents=True, exist_ok=True)
    before = _files_of(path)
    write_together({path / name: data for name, data in (*contents.items(), (DESCRIPTION, text.encode()))})
    for name in before - contents.keys():
        with suppress(OSError, ValueError):  # of a damaged description; what is written holds without it
            (path / name).unlink(missing_ok=True)


def _files_of(path: Path) -> set[str]:
    """Names of the files beside it that a description in a directory lists; none where it cannot be read."""
    try:
        listed = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()
    if not isinstance(listed, dict):
        return set()
    return {
        name
        for name in listed
        if isinstance(name, str) and name == Path(name).name and Path(name).suffix in SUFFIXES
    }


def load_controller(path_or_name: str | Path) -> Controller:
    """Read a controller directory, or a shipped controller by name. See `Controller.load`."""
    path = _locate(path_or_name)
    description = _read_description(path / DESCRIPTION)
    arrays = {name: _read_arrays(path / name, description["files"]) for name in (POLICY, LATENCY)}
    where = str(path / DESCRIPTION)
    try:
        space = KnobSpace.from_json(description["knobs"])
        prices = description["prices"]
        controller = Controller(
            space=space,
            policy=NumpyPolicy(PolicySpec.from_json(description["policy"]), arrays[POLICY]),
            latency=LatencyEstimator.from_arrays(_part(arrays[LATENCY], WHOLE)),
            first_token_latency=LatencyEstimator.from_arrays(_part(arrays[LATENCY], FIRST)),
            guard=Guard(**description["guard"]),
            prices=PriceTable(
                np.array(prices["budgets_ms"], dtype=np.float64), np.array(prices["prices"], dtype=np.float64)
            ),
            block_ranking=tuple(int(block) for block in description["block_ranking"]),
            metrics=description["metrics"],
            provenance=description["provenance"],
            exports=_exports(path, description),
            text_features=_text_features(path, description["files"]),
        )
    except (ControllerError, KnobError) as error:
        raise ControllerError(f"{where}: {error}") from error
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise _damaged(path / DESCRIPTION, repr(error)) from error
    return controller


def shipped_controllers() -> list[str]:
    """Names that `Controller.load` accepts besides directories."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{DESCRIPTION}"))


def controller_fingerprint(controller: Controller) -> str:
    """Hash of policy, estimates, guard and prices (not of metrics and provenance)."""
    facts = {
        "knobs": controller.space.to_json(),
        "policy": controller.policy.spec.to_json(),
        "guard": asdict(controller.guard),
        "prices": [controller.prices.budgets_ms.tolist(), controller.prices.prices.tolist()],
        "ranking": list(controller.block_ranking),
        "files": [sha256(_policy_bytes(controller)), sha256(_latency_bytes(controller))],
    }
    return sha256(json.dumps(facts, sort_keys=True).encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, flush it to disk and rename it."""
    write_together({path: data})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write files under temporary names, flush them to disk and rename them one after the other, in their order."""
    written: dict[str, Path] = {}
    try:
        for path, data in files.items():
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            written[temporary] = path
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
        for temporary, path in written.items():
            os.replace(temporary, path)
    except BaseException:
        for temporary in written:
            Path(temporary).unlink(missing_ok=True)
        raise


def _locate(path_or_name: str | Path) -> Path:
    """The directory of a shipped name or a path; shipped names win, "./tiny" is always a path."""
    shipped = shipped_controllers()
    if isinstance(path_or_name, str) and path_or_name in shipped:
        return SHIPPED / path_or_name
    if not isinstance(path_or_name, str | os.PathLike):
        raise ControllerError(
            f"controller: got {path_or_name!r}, expected the path of a directory or the name of a shipped "
            f"controller, one of {shipped}"
        )
    path = Path(path_or_name)
    if not path.exists():
        raise ControllerError(
            f"controller {str(path_or_name)!r}: no such directory, and the shipped controllers are {shipped}; "
            "train one with paceline train"
        )
    if not (path / DESCRIPTION).is_file():
        raise ControllerError(
            f"controller {str(path)!r}: {DESCRIPTION} is missing; expected a directory written by paceline train"
        )
    return path


def _read_description(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ControllerError(
            f"{path}: not JSON ({error}); the file is damaged, train or copy the controller again"
        ) from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ControllerError(f"{path}: not a controller; expected a JSON object with format {FORMAT!r}")
    version = value.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ControllerError(f"{path}: schema_version is {version!r}, expected an integer from 1 on")
    if version > SCHEMA_VERSION:
        raise ControllerError(
            f"{path}: schema version {version} is newer than {SCHEMA_VERSION}, the newest this version of Paceline "
            "reads; upgrade Paceline or train the controller again"
        )
    keys = set(KEYS) - {"exports"} if version == 1 else set(KEYS)
    unknown, missing = sorted(set(value) - keys), sorted(keys - set(value))
    if unknown or missing:
        raise ControllerError(
            f"{path}: unknown keys {unknown}, missing keys {missing}; expected {sorted(keys)}"
        )
    digest = value.pop("digest")
    if digest != _digest(value):
        raise ControllerError(
            f"{path}: its contents do not match their digest; the file was changed or damaged after it was written, "
            "train or copy the controller again"
        )
    _check_kinds(value, path)
    return value


def _check_kinds(description: Mapping[str, Any], path: Path) -> None:
    """Raise ControllerError for parts of a description that are no lists or objects, and for an incomplete guard."""

    def check(parts: Mapping[str, Any], names: Iterable[str], kind: Any, expected: str) -> None:
        for name in names:
            if not isinstance(parts.get(name), kind):
                raise _damaged(path, f"{name} is {parts.get(name)!r}, expected {expected}")

    check(description, LISTS, list, "a list")
    check(description, OBJECTS, dict, "an object")
    check(description, ["exports"], dict | None, "an object or null")
    check(description["provenance"], ORIGINS, dict | None, "an object or null")
    names = sorted(item.name for item in fields(Guard))
    if sorted(description["guard"]) != names:
        raise _damaged(path, f"guard has {sorted(description['guard'])}, expected exactly {names}")


def _damaged(path: Path, what: str) -> ControllerError:
    return ControllerError(
        f"{path}: not a controller ({what}); the file is damaged, train or copy the controller again"
    )


def _exports(path: Path, description: Mapping[str, Any]) -> Exports | None:
    """The record of the exported files, if there is one."""
    record = description.get("exports")
    if record is None:
        return None
    own = (POLICY, LATENCY, text_features.FILE)
    files = {name: file for name, file in description["files"].items() if name not in own}
    return Exports(directory=path, record=record, files=files)


def _text_features(path: Path, files: Mapping[str, Any]) -> TextFeatures | None:
    if text_features.FILE not in files:
        return None
    file = path / text_features.FILE
    try:
        return TextFeatures.from_bytes(_read_checked(file, files), str(file))
    except PacelineError as error:
        raise ControllerError(str(error)) from error


def _read_arrays(path: Path, files: Mapping[str, Any]) -> dict[str, np.ndarray]:
    data = _read_checked(path, files)
    try:
        return safetensors_numpy.load(data)
    except SafetensorError as error:
        raise ControllerError(
            f"{path}: not a safetensors file ({error}); train the controller again"
        ) from error


def _read_checked(path: Path, files: Mapping[str, Any]) -> bytes:
    """The contents of a file, which are those that the description was written with."""
    if not path.is_file():
        raise ControllerError(f"{path}: the file is missing; train or copy the controller again")
    data = path.read_bytes()
    try:
        expected, digest = files[path.name]["size_bytes"], files[path.name]["sha256"]
    except (KeyError, TypeError) as error:
        raise ControllerError(
            f"{path.parent / DESCRIPTION}: not a controller (files: {error!r}); train or copy it again"
        ) from error
    if len(data) != expected:
        raise ControllerError(
            f"{path}: got {len(data)} bytes, expected {expected}; the file is truncated or of another "
            "controller, train or copy the controller again"
        )
    if sha256(data) != digest:
        raise ControllerError(
            f"{path}: its contents do not match the hash in {DESCRIPTION}; the file was changed or belongs to "
            "another controller, train or copy the controller again"
        )
    return data


def _part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _policy_bytes(controller: Controller) -> bytes:
    return _array_bytes(controller.policy.arrays)


def _latency_bytes(controller: Controller) -> bytes:
    whole, first = controller.latency.to_arrays(), controller.first_token_latency.to_arrays()
    return _array_bytes({WHOLE + k: v for k, v in whole.items()} | {FIRST + k: v for k, v in first.items()})


def _array_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    return safetensors_numpy.save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)})


def _digest(description: Mapping[str, Any]) -> str:
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(text.encode())


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()
