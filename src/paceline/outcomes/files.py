"""Files that are either complete or absent, whatever happens while they are written."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from paceline.errors import OutcomesError


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to the disk, then rename it.

    A kill leaves at most the temporary file, which the next write of the same path replaces. Any
    exception, a full disk included, removes it and passes on. Who may read the file is what the system says of new
    files, also where `write` makes one for its owner alone, as safetensors does.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        temporary.unlink()
        write(temporary)
        temporary.chmod(mode)
        sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """`write_atomically` for a UTF-8 text."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """`write_atomically` for what is in memory."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_atomically(path, write)


def sync(path: Path) -> None:
    """Wait until a file, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold a directory against other processes; the lock ends with this process, however that ends.

    Raises:
        OutcomesError: another process holds it.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutcomesError(
                f"{directory}: another process is writing here; wait for it or choose another directory"
            ) from error
        yield
    finally:
        os.close(descriptor)
