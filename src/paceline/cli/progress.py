"""A progress bar on standard error, for every stage of every command."""

from types import TracebackType

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from paceline.cli.console import SafeConsole


class RateColumn(ProgressColumn):
    """Finished steps per second."""

    def render(self, task: Task) -> Text:
        """The rate, or a dash while there is none."""
        speed = task.finished_speed or task.speed
        return Text("- /s" if speed is None else f"{speed:.1f} /s", style="cyan")


class Bar:
    """Shows stages one after the other; off a terminal only a line per stage. Use it in a `with` statement."""

    def __init__(self) -> None:
        console = SafeConsole(stderr=True)
        self._live = console.is_terminal
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            RateColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._live,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def start(self, total: int, description: str) -> None:
        """A stage of `total` steps begins; the one before it is over."""
        if self._task is not None:
            self._progress.stop_task(self._task)
        self._task = self._progress.add_task(description, total=total)
        if not self._live:
            self.message(f"{description} ({total})")

    def advance(self, steps: int = 1) -> None:
        """`steps` more are done."""
        if self._task is not None:
            self._progress.advance(self._task, steps)

    def message(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
