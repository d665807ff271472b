"""The `paceline` command: every error a user can cause becomes one message and an exit code here, and only here."""

import errno
import importlib
import signal
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from paceline import __version__
from paceline.cli.output import say
from paceline.errors import PacelineError

USER_ERROR, INTERRUPTED, TERMINATED = 2, 130, 143

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_USER_ERRNOS = _DISK_FULL | {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
}
"""What the file system may answer because of a path that the user gave; anything else is a bug of ours."""

COMMANDS = (
    "knobs",
    "profile",
    "import",
    "train",
    "reward-model",
    "evaluate",
    "compare",
    "export",
    "calibrate",
    "decide",
    "explain",
    "demo",
)


class Terminated(BaseException):
    """A SIGTERM, raised where it found the command, so that work is kept and child processes are ended."""


class Edge(TyperGroup):
    """Commands whose errors end in an exit code: 2 for what a user can cause, 130 for Ctrl-C, 143 for SIGTERM."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PacelineError as error:
            raise _failure(str(error), USER_ERROR) from error
        except KeyboardInterrupt as error:
            raise _failure("interrupted; finished work is kept", INTERRUPTED) from error
        except Terminated as error:
            raise _failure("terminated; finished work is kept", TERMINATED) from error
        except OSError as error:
            if error.errno not in _USER_ERRNOS:
                raise
            raise _failure(_os_message(error), USER_ERROR) from error


def _failure(message: str, code: int) -> typer.Exit:
    say(f"error: {message}")
    return typer.Exit(code)


def _os_message(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    if error.errno in _DISK_FULL:
        return (
            f"{place}the disk is full; finished work is kept, free some space and run the same command again"
        )
    return f"{place}{error.strerror}; give a path that can be read and written"


def _version(value: bool) -> None:
    if value:
        typer.echo(f"paceline {__version__}")
        raise typer.Exit()


app = typer.Typer(
    cls=Edge,
    name="paceline",
    help="Latency budgets for vision-language models: a learned choice of configuration per request.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Latency budgets for vision-language models: a learned choice of configuration per request."""


for _name in COMMANDS:
    _module = importlib.import_module(f"paceline.cli.{_name.replace('-', '_')}_command")
    app.command(_name)(_module.run)


def main() -> None:
    """Entry point of the installed command."""

    def terminated(*_: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminated)
    app()
