"""Where the command line writes: results on standard output, everything else on standard error."""

import errno
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from paceline.errors import ControllerError

AsJson = Annotated[
    bool, typer.Option("--json", help="Print exactly one JSON object; progress stays on stderr.")
]


_SHOWN = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
_SHOWN |= {code: 0xFFFD for code in range(0x7F, 0xA0)}


def shown(text: str) -> str:
    """Text of others, such as a kind of question, as a terminal may get it: what would steer it is drawn.

    >>> shown("\x1b[2Jdigits")
    '␛[2Jdigits'
    """
    return text.translate(_SHOWN)


def say(text: str) -> None:
    """A line for people, on standard error."""
    print(shown(text), file=sys.stderr, flush=True)


def emit(value: Mapping[str, Any], parts: Iterable[Any], *, as_json: bool) -> None:
    """The result on standard output: one JSON object, or `parts`, which are text and rich tables."""
    if as_json:
        print(to_json(value), flush=True)
        return
    from paceline.cli.console import SafeConsole

    console = SafeConsole(highlight=False)
    for part in parts:
        if isinstance(part, str):
            print(shown(part), flush=True)
        else:
            console.print(part)


def check_files(*paths: Path | None) -> None:
    """Raise OSError for a file that cannot be written, before any work is done for it; None is no file."""
    for path in paths:
        if path is not None:
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            _check_place(path)


def check_directories(*paths: Path | None) -> None:
    """Raise OSError for a directory that cannot be made or written into; likewise."""
    for path in paths:
        if path is not None:
            if path.exists() and not path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
            _check_place(path)


def check_controller_directory(path: Path | None) -> None:
    """`check_directories`, and ControllerError for a directory of outcomes, which a controller would be mixed with."""
    check_directories(path)
    if path is not None and (path / "manifest.json").exists():
        raise ControllerError(
            f"--out: {path} holds outcomes (manifest.json), expected another directory for the controller"
        )


def _check_place(path: Path) -> None:
    """Raise OSError where neither `path` nor, if it does not exist yet, what is above it can be written."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if there != path and not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    if not os.access(there, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))


def to_json(value: Mapping[str, Any]) -> str:
    """JSON text. NaN and infinity are no JSON and raise: results say None where there is no number."""
    return json.dumps(value, indent=2, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")
