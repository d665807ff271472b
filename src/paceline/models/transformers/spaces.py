"""The knob space of a checkpoint: what its family can turn, in steps that the checkpoint's own sizes give."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from paceline.errors import KnobError, ModelError
from paceline.knobs import Knob, KnobSpace
from paceline.models.transformers.family import Family
from paceline.models.transformers.instruments import TOP_K

BLOCKS = "num_active_blocks"
MOST_BLOCK_OPTIONS = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a checkpoint allows."""

    blocks: int
    always_kept: tuple[int, ...]
    experts: int | None  # of a routed layer; None: no routers
    most_top_k: int | None  # of them that one token can reach
    top_k: int | None  # experts per token unless a request says otherwise
    image: tuple[str, int, int] | None  # image knob, its least and its most


def default_space(family: Family, processor: Any, limits: Limits) -> KnobSpace:
    """Image options of the family, quarters of the model's own experts per token, and from half of the blocks on."""
    knobs = []
    if family.image_knob is not None:
        knobs.append(Knob(name=family.image_knob, options=family.image_options(processor)))
    if limits.top_k is not None and TOP_K not in family.refused:
        knobs.append(Knob(name=TOP_K, options=family.top_k_options(limits.top_k)))
    if BLOCKS not in family.refused:
        knobs.append(Knob(name=BLOCKS, options=block_options(limits.blocks, len(limits.always_kept))))
    return KnobSpace(tuple(knobs))


def block_options(blocks: int, fewest: int) -> tuple[int, ...]:
    """At most nine numbers of blocks from half of them on, never fewer than always run.

    >>> block_options(16, 1), block_options(6, 4), block_options(48, 1)
    ((8, 9, 10, 11, 12, 13, 14, 15, 16), (4, 5, 6), (24, 27, 30, 33, 36, 39, 42, 45, 48))
    """
    start = max(fewest, (blocks + 1) // 2)
    step = max(1, -(-(blocks - start) // (MOST_BLOCK_OPTIONS - 1)))
    return tuple(range(blocks, start - 1, -step))[::-1]


def check_space(family: Family, config: Any, limits: Limits, space: KnobSpace) -> None:
    """Raise KnobError for a knob or an option that the checkpoint cannot turn, with the reason."""
    ranges = {BLOCKS: (len(limits.always_kept), limits.blocks)}
    if limits.experts is not None:
        ranges[TOP_K] = (1, limits.experts)
    if limits.image is not None:
        ranges[limits.image[0]] = limits.image[1:]
    for knob in space.knobs:
        if knob.name in family.refused:
            raise KnobError(f"knob {knob.name}: {family.name} has none: {family.refused[knob.name]}")
        if knob.name not in ranges:
            reason = (
                "it has no routers that read it" if knob.name == TOP_K else "its processor has no such option"
            )
            raise KnobError(
                f"knob {knob.name}: {family.name} has none ({reason}), expected some of {sorted(ranges)}; leave it out"
            )
        least, most = ranges[knob.name]
        wrong = [option for option in knob.options if not _whole(option) or not least <= int(option) <= most]
        if wrong:
            raise KnobError(
                f"knob {knob.name}: options {wrong} of {family.name}, expected integers from {least} to {most}"
            )
        if knob.name == TOP_K:
            family.check_top_k(config, knob)


def check_ranking(ranking: Sequence[int], limits: Limits) -> tuple[int, ...]:
    """The blocks from most to least important, those that always run first; ModelError where they are not."""
    found = tuple(int(block) for block in ranking)
    first = set(found[: len(limits.always_kept)])
    if sorted(found) != list(range(limits.blocks)) or first != set(limits.always_kept):
        raise ModelError(
            f"block ranking {list(found)}: expected each of the {limits.blocks} blocks once, the blocks "
            f"{list(limits.always_kept)} first (they always run)"
        )
    return found


def natural_ranking(limits: Limits) -> tuple[int, ...]:
    """What always runs, then the others in the order of the model."""
    others = (block for block in range(limits.blocks) if block not in limits.always_kept)
    return (*limits.always_kept, *others)


def _whole(option: object) -> bool:
    return isinstance(option, int) and not isinstance(option, bool)
