"""Sample x configuration arrays a few rows at a time, on disk where they are large."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from paceline.errors import OutcomesError

CHUNK_CELLS = 1 << 22
"""Cells worked on at once: temporary arrays of float64 stay below 32 MiB each, and a small table is one chunk."""

MEMORY_CELLS = 1 << 22
"""Arrays of more cells than this are made in files."""


def row_chunks(rows: int, columns: int) -> Iterator[slice]:
    """Consecutive slices of `rows` that hold about CHUNK_CELLS cells each.

    >>> list(row_chunks(3, 4 * CHUNK_CELLS))
    [slice(0, 1, None), slice(1, 2, None), slice(2, 3, None)]
    """
    step = max(1, CHUNK_CELLS // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def cell_array(shape: tuple[int, int], kind: type[np.generic]) -> np.ndarray:
    """An array to be filled: in memory, or mapped from a file without a name in TMPDIR where it is large.

    The file's space is given back when the array is, also when the process is killed.

    Raises:
        OutcomesError: the disk is full.
    """
    if shape[0] * shape[1] <= MEMORY_CELLS:
        return np.empty(shape, kind)
    with tempfile.NamedTemporaryFile(prefix="paceline-") as file:
        array = np.memmap(file, dtype=kind, mode="w+", shape=shape)
        reserve(Path(file.name))
        return np.asarray(array)


def reserve(path: Path) -> None:
    """Give a file the space of its whole length: writing to a mapped file on a full disk would kill the process.

    Raises:
        OutcomesError: there is not as much.
    """
    with path.open("rb+") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise OutcomesError(
                f"{path.parent}: no room for {size / 2**20:,.0f} MiB ({error.strerror}), which so large a table needs; "
                "free space there, or set TMPDIR to a folder of another disk"
            ) from error
