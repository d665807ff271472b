"""How training tells how far it is: a progress callback and TensorBoard scalars."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from paceline.errors import DependencyError


@runtime_checkable
class Progress(Protocol):
    """What the command line shows; any object with these three methods."""

    def start(self, total: int, description: str) -> None: ...

    def advance(self, steps: int = 1, /) -> None: ...

    def message(self, text: str) -> None: ...


class SilentProgress:
    """Shows nothing."""

    def start(self, total: int, description: str) -> None: ...

    def advance(self, steps: int = 1, /) -> None: ...

    def message(self, text: str) -> None: ...


class ScalarWriter:
    """Training curves for TensorBoard; without a directory it writes nothing and imports nothing."""

    def __init__(self, directory: Path | None) -> None:
        self._writer: Any = None
        if directory is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise DependencyError(
                "TensorBoard logging: tensorboard is not installed; pip install 'paceline[tensorboard]'"
            ) from error
        self._writer = SummaryWriter(str(directory))

    def write(self, epoch: int, scalars: Mapping[str, Any]) -> None:
        """One epoch's numbers; anything that is not a number is left out."""
        if self._writer is None:
            return
        for name, value in scalars.items():
            if isinstance(value, int | float) and name != "epoch":
                self._writer.add_scalar(f"{scalars['phase']}/{name}", value, epoch)

    def close(self) -> None:
        """Flush to disk."""
        if self._writer is not None:
            self._writer.close()
