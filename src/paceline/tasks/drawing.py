"""Samples of a finite set of questions: which split an image is in, and which questions a seed draws."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from paceline.errors import TaskError

SHARES = {"train": 0.60, "validation": 0.15, "test": 0.25}
"""Expected share of the images in every split; what `paceline profile` asks of each."""

SPLIT_SEED = 0
"""Of the assignment of images to splits. It is no option: an image that was learned from may never be judged by."""


def split_of(image_hash: str, seed: int = SPLIT_SEED) -> str:
    """The split of an image. It depends on nothing else, so that all its questions share it and more images move none.

    >>> split_of("c0ffee") == split_of("c0ffee")
    True
    """
    digest = hashlib.blake2b(f"{seed}:{image_hash}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest) / 2**64
    for split, share in SHARES.items():
        place -= share
        if place < 0:
            return split
    return "test"  # the shares add up to 1 but for rounding


def draw(places: Mapping[str, Sequence[int]], split: str, count: int, seed: int, *, name: str) -> list[int]:
    """The first `count` of the split's questions in the random order of a seed.

    Args:
        places: the positions of the questions of every split.
        name: of the task, for errors.

    Raises:
        TaskError: an unknown split, or fewer questions than asked for.
    """
    if split not in SHARES:
        raise TaskError(f"split: got {split!r}, expected one of {list(SHARES)}")
    there = places.get(split, ())
    if count > len(there):
        sizes = {other: len(places.get(other, ())) for other in SHARES}
        shown = ", ".join(f"{size} {other}" for other, size in sizes.items())
        most = min(int(size / SHARES[other] + 1e-9) for other, size in sizes.items())
        raise TaskError(
            f"task {name}: split {split} has {len(there)} samples, {count} were asked for; there are {shown}, enough "
            f"for sweeps of {most} samples"
        )
    order = np.random.default_rng([seed, list(SHARES).index(split)]).permutation(len(there))
    return [there[index] for index in order[:count]]
