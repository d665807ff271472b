"""Terminal tables that fit: frames without lines, cells that break where the terminal is narrow."""

from collections.abc import Callable
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

WIDE_ENOUGH = 112
"""Columns of a terminal from which on an interval stays on one line."""
NARROW_CELL = 7
"""Columns of a budget on narrower ones: room for one end of an interval."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A table that breaks its cells where the terminal is narrow, so that no number is cut."""

    build: Callable[[bool], Table]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.build(options.max_width < WIDE_ENOUGH)


def empty_table(title: str, first: str) -> Table:
    """A table with a title and its first column."""
    table = Table(
        title=title, title_justify="left", title_style="bold", caption_justify="left", box=SIMPLE_HEAD
    )
    table.add_column(first)
    return table
