"""Parts of the range of budgets: what training is limited to, to see how it serves budgets that it never saw."""

from itertools import pairwise
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from paceline.errors import TrainError

Parts: TypeAlias = tuple[tuple[float, float], ...]
"""Positions from 0 (the lowest budget) to 1 (the highest), ascending: where each part begins and ends."""


def parse_parts(text: str | None) -> Parts | None:
    """Parts in the words of `TrainOptions.budget_range`.

    >>> parse_parts("0-0.3,0.7-1"), parse_parts(None)
    (((0.0, 0.3), (0.7, 1.0)), None)
    """
    if text is None:
        return None
    try:
        parts = tuple(
            (float(low), float(high)) for low, high in (part.split("-") for part in text.split(","))
        )
    except (AttributeError, ValueError):
        parts = ()
    ends = [end for part in parts for end in part]
    ascending = all(below < above for below, above in pairwise(ends))
    if not ends or not ascending or ends[0] < 0 or ends[-1] > 1:
        raise TrainError(
            f"budget_range: got {text!r}, expected parts LOW-HIGH with positions from 0 to 1 in ascending order, "
            "as 0.3-0.7, or 0-0.3,0.7-1"
        )
    return parts


def within_parts(position: Float[Tensor, "..."], parts: Parts | None) -> Float[Tensor, "..."]:
    """Positions of the whole range for positions in [0, 1] of the parts laid end to end.

    >>> within_parts(torch.tensor([0.0, 0.25, 0.75]), ((0.0, 0.25), (0.75, 1.0))).tolist()
    [0.0, 0.125, 0.875]
    """
    if parts is None:
        return position
    lows, highs = torch.tensor(parts, dtype=position.dtype).unbind(dim=1)
    ends = (highs - lows).cumsum(dim=0)
    place = position * ends[-1]
    part = torch.searchsorted(ends, place).clamp(max=len(parts) - 1)
    return highs[part] - (ends[part] - place)
