"""Rows of tokens, packed into one row of numbers, and attention pooling over them. numpy only.

A packed row holds the tokens one after the other, zeros where there are fewer than there is room for, and last how many
there are. So tokens travel wherever a row of features does: in tables, problems and batches.
"""

import numpy as np

from paceline.errors import ControllerError


def packed_width(tokens: int, width: int) -> int:
    """Numbers in a packed row with room for `tokens` tokens of `width` numbers.

    >>> packed_width(16, 96)
    1537
    """
    return tokens * width + 1


def pack_tokens(tokens: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Packed rows, float32 (n, room * width + 1), of tokens (n, room, width) of which the first counts (n,) are real.

    >>> pack_tokens(np.array([[[1.0, 2.0], [9.0, 9.0]]]), np.array([1])).tolist()
    [[1.0, 2.0, 0.0, 0.0, 1.0]]
    """
    n, room, width = tokens.shape
    real = np.arange(room) < counts[:, None]
    packed = np.empty((n, packed_width(room, width)), dtype=np.float32)
    packed[:, :-1] = np.where(real[..., None], tokens, 0).reshape(n, -1)
    packed[:, -1] = counts
    return packed


def unpack_tokens(packed: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (n, room, width) and how many of each row's are real, int (n,).

    Raises:
        ControllerError: rows that hold no tokens of this width, or counts that do not fit.
    """
    numbers = packed.shape[-1] - 1
    if numbers < width or numbers % width:
        raise ControllerError(
            f"features: got rows of {numbers + 1} numbers, expected tokens of {width} numbers each and their count; "
            "the controller was trained on tokens of another model"
        )
    rows = packed.reshape(-1, numbers + 1)
    counts, room = rows[:, -1], numbers // width
    if not ((counts >= 1) & (counts <= room) & (counts == np.floor(counts))).all():
        raise ControllerError(
            f"features: got {counts.min():g} to {counts.max():g} tokens, expected 1 to {room} in each row"
        )
    return rows[:, :-1].reshape(-1, room, width), counts.astype(np.int64)


def attention_pool(tokens: np.ndarray, counts: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Mean of tokens weighted by softmax(token . query), one per query: float32 (queries, n, width).

    Args:
        tokens: float32 (n, room, width); those from counts (n,) on do not count.
        query: float32 (queries, width), already divided by whatever scales the logits.
    """
    logits = tokens @ query.T
    if counts.min() < tokens.shape[1]:
        logits = np.where((np.arange(tokens.shape[1]) < counts[:, None])[..., None], logits, -np.inf)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return (weights.transpose(0, 2, 1) @ tokens).transpose(1, 0, 2)
