"""A frozen orthonormal codebook: what a vision token should say about the digit whose centre lies in it."""

import numpy as np
import torch
from torch import Tensor

from paceline.tasks.scenes import COLOR_NAMES

SIZE_EDGES = (
    3.2,
    5.0,
    7.5,
    11.0,
    16.0,
    22.0,
)  # apparent size in crop pixels, lower edges of the bins but the first
NUM_SIZES = len(SIZE_EDGES) + 1
ROWS = {
    "object": (0, 1),
    "digit": (1, 11),
    "color": (11, 11 + len(COLOR_NAMES)),
    "size": (17, 17 + NUM_SIZES),
}
NUM_ROWS = 17 + NUM_SIZES


def codebook(width: int) -> Tensor:
    """Orthonormal rows, float32 (NUM_ROWS, width)."""
    generator = torch.Generator().manual_seed(11)
    square = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    return square[:NUM_ROWS].contiguous()


def size_bin(size: np.ndarray | float) -> np.ndarray:
    """Bin of an apparent size."""
    return np.searchsorted(np.array(SIZE_EDGES), size)


def coordinates(digit: np.ndarray, color: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Target coordinates in the codebook, float32 (..., NUM_ROWS); digit -1 means background: all zero."""
    out = np.zeros((*digit.shape, NUM_ROWS), dtype=np.float32)
    where = np.nonzero(digit >= 0)
    out[(*where, np.zeros(len(where[0]), dtype=int))] = 1.0
    for name, values in (("digit", digit), ("color", color), ("size", size)):
        out[(*where, ROWS[name][0] + values[where])] = 1.0
    return out
