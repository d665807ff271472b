"""How work on outcomes shows how far it is. The library prints nothing itself."""

from typing import Protocol


class Progress(Protocol):
    """Where progress is shown, such as a bar of the command line."""

    def start(self, total: int, description: str) -> None:
        """A stage of `total` steps begins; the one before it, if any, is over."""
        ...

    def advance(self, steps: int = 1, /) -> None:
        """`steps` more are done."""
        ...

    def message(self, text: str) -> None:
        """One line worth showing, such as the rate and the time left."""
        ...


class Silence:
    """Progress that nobody watches."""

    def start(self, total: int, description: str) -> None:
        """Show nothing."""

    def advance(self, steps: int = 1, /) -> None:
        """Show nothing."""

    def message(self, text: str) -> None:
        """Show nothing."""
