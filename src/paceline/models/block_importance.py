"""Which blocks of a model matter, from measurements of any model: scores, and nested sets of kept blocks."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paceline.errors import ModelError

IMPORTANCE_METHODS = ("loss", "similarity")
"""By how much the loss on known answers rises without a block, or how little a block changes its input."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockImportance:
    """What was measured of each block, and the order that follows: its first n are the n blocks to keep."""

    method: str  # one of IMPORTANCE_METHODS
    ranking: tuple[int, ...]  # blocks from most to least important
    scores: tuple[float | None, ...]  # by block, larger is more important; None where it was not measured

    def __post_init__(self) -> None:
        check_method(self.method)
        if sorted(self.ranking) != list(range(len(self.ranking))):
            raise ModelError(
                f"block importance gave {list(self.ranking)}, expected every block from 0 on, once"
            )
        if len(self.scores) != len(self.ranking):
            raise ModelError(
                f"block importance gave {len(self.scores)} scores for {len(self.ranking)} blocks, expected one each"
            )

    def to_json(self) -> dict[str, Any]:
        """Facts for a manifest."""
        return {"method": self.method, "ranking": list(self.ranking), "scores": list(self.scores)}


def check_method(method: str) -> None:
    """Raise ModelError unless `method` is one of IMPORTANCE_METHODS."""
    if method not in IMPORTANCE_METHODS:
        raise ModelError(f"importance: got {method!r}, expected one of {list(IMPORTANCE_METHODS)}")


def check_samples(overviews: Sequence[object], targets: Sequence[str]) -> None:
    """Raise ModelError unless there are as many targets as overviews, and some."""
    if not overviews or len(overviews) != len(targets):
        raise ModelError(
            f"block importance: {len(overviews)} overviews and {len(targets)} targets, expected as many, and some"
        )


def rank_by_scores(scores: Sequence[float | None], always_kept: Collection[int] = (0,)) -> tuple[int, ...]:
    """Blocks by falling score; those always kept stand first, in the order of the model. The earlier of equals first.

    >>> rank_by_scores([0.1, 0.5, 0.2, 0.5])
    (0, 1, 3, 2)

    Raises ModelError where a block that may be skipped has no score.
    """
    first = sorted(always_kept)
    rest = [block for block in range(len(scores)) if block not in first]
    measured = {block: score for block in rest if (score := scores[block]) is not None}
    if len(measured) < len(rest):
        raise ModelError(f"block importance: scores {list(scores)}, expected one of every block but {first}")
    return (*first, *sorted(rest, key=lambda block: (-measured[block], block)))


def rank_by_loss(
    blocks: int,
    losses_without: Callable[[Sequence[int], Sequence[int]], Mapping[int, float]],
    *,
    fewest: int,
    always_kept: Collection[int] = (0,),
) -> tuple[tuple[int, ...], dict[int, float]]:
    """Greedy nested ablation: the block without which the loss is lowest is taken away, until `fewest` are left.

    `losses_without(kept, candidates)` gives the loss of the kept blocks without each of the candidates. What is left
    stands first in the ranking, in the order of the model; what was taken follows, the last taken first. Of equals
    the later block is taken.

    Returns the ranking and the losses of the first round, without each block alone.

    >>> rank_by_loss(4, lambda kept, candidates: {b: [9, 3, 1, 2][b] for b in candidates}, fewest=2)
    ((0, 1, 3, 2), {1: 3, 2: 1, 3: 2})
    """
    kept = list(range(blocks))
    taken: list[int] = []
    alone: dict[int, float] = {}
    while len(kept) > max(fewest, len(always_kept), 1):
        candidates = [block for block in kept if block not in always_kept]
        losses = losses_without(tuple(kept), candidates)
        alone = alone or dict(losses)
        least = min(losses, key=lambda block: (losses[block], -block))
        kept.remove(least)
        taken.append(least)
    return (*kept, *taken[::-1]), alone
