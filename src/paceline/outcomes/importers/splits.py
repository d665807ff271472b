"""Which split a sample is in: by image, so that no image is in two, or as a column says."""

from collections.abc import Sequence

import numpy as np

from paceline.errors import OutcomesError
from paceline.outcomes.importers.audit import Audit, some
from paceline.outcomes.table import SPLITS

SHARES = (0.60, 0.15, 0.25)
"""Of the images, for train, validation and test."""
ALIASES = {
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "training": "train",
    "testing": "test",
}


def splits_by_image(image: Sequence[str], dataset: Sequence[str], seed: int) -> np.ndarray:
    """A split per sample, str (n,): equal images are in equal splits, and every data set is in each by `SHARES`.

    Data sets of fewer than 3 images are split together. An image of two data sets counts to the first.

    Raises:
        OutcomesError: fewer than 3 images, where some split would stay empty.
    """
    images, first, position = np.unique(
        np.array(image, dtype=np.str_), return_index=True, return_inverse=True
    )
    if len(images) < len(SPLITS):
        raise OutcomesError(
            f"splits: got {len(images)} different images, expected {len(SPLITS)} or more, one for each of "
            f"{list(SPLITS)}; import more samples"
        )
    names = np.empty(len(images), dtype="<U10")
    generator = np.random.default_rng(seed)
    for rows in _strata(np.array(dataset, dtype=np.str_)[first]):
        order = rows[generator.permutation(len(rows))]
        train = min(max(1, round(SHARES[0] * len(rows))), len(rows) - 2)
        known = min(max(train + 1, round((SHARES[0] + SHARES[1]) * len(rows))), len(rows) - 1)
        names[order[:train]], names[order[train:known]], names[order[known:]] = SPLITS
    return names[position]


def _strata(dataset: np.ndarray) -> list[np.ndarray]:
    """Rows of each data set with 3 images or more, and of all others together; never fewer than 3."""
    _, of, counts = np.unique(dataset, return_inverse=True, return_counts=True)
    large = np.flatnonzero(counts >= len(SPLITS))
    strata = [np.flatnonzero(of == part) for part in large]
    rest = np.flatnonzero(~np.isin(of, large))
    if len(rest) >= len(SPLITS) or not strata:
        return [*strata, rest] if len(rest) else strata
    widest = int(np.argmax([len(rows) for rows in strata]))
    strata[widest] = np.sort(np.concatenate([strata[widest], rest]))
    return strata


def stated_splits(split: Sequence[str], image: Sequence[str], audit: Audit) -> np.ndarray | None:
    """The splits that exported files state, str (n,); None where some sample states none."""
    silent = sum(not name for name in split)
    if silent:
        if silent < len(split):
            audit.warn(f"{silent} of {len(split)} samples state no split; all are split anew, by image")
        return None
    unknown = sorted(set(split) - set(SPLITS))
    shared = shared_images(image, split)
    if unknown or shared:
        raise OutcomesError(
            f"import: metadata states {f'the splits {some(unknown)}' if unknown else 'two splits'} for "
            f"{f'images {some(shared)}' if shared else 'some samples'}, expected one of {list(SPLITS)} per image; "
            "export the files again"
        )
    audit.note("splits: as the exported files state them")
    return np.array(split, dtype=np.str_)


def splits_from_column(values: np.ndarray, text: str, image: Sequence[str], audit: Audit) -> np.ndarray:
    """The splits that a column names.

    Args:
        values: text (n,).
        text: COLUMN, or COLUMN:test=1+2,validation=3 where the column holds other values; the rest is train.
        image: (n,).

    Raises:
        OutcomesError: unknown values, or an image in two splits.
    """
    column, _, mapping = text.partition(":")
    meaning = _mapping(mapping) if mapping else {}
    if meaning:
        absent = sorted(set(meaning) - set(values.tolist()))
        if absent:
            raise OutcomesError(
                f"--split: {column} has no value {some(absent)}, got {some(sorted(set(values.tolist())))}"
            )
        names = [meaning.get(str(value), "train") for value in values.tolist()]
    else:
        names = [ALIASES.get(text.lower(), text.lower()) for text in map(str, values.tolist())]
    unknown = sorted(set(names) - set(SPLITS))
    if unknown:
        raise OutcomesError(
            f"--split: {column} has the values {some(unknown)}, expected {list(SPLITS)}; say which is which, as in "
            f"--split {column}:test={unknown[0]},validation=..., or leave --split out to split by image"
        )
    shared = shared_images(image, names)
    if shared:
        raise OutcomesError(
            f"--split: {len(shared)} images or groups are in two splits ({some(shared)}), expected each in one, else "
            "the test samples are known from training; leave --split out to split by image or group"
        )
    audit.note(f"splits: as column {column} says")
    empty = [name for name in SPLITS if name not in names]
    if empty:
        audit.warn(
            f"--split: no sample is in {some(empty)}; training and evaluation need all of {list(SPLITS)}"
        )
    return np.array(names, dtype=np.str_)


def _mapping(text: str) -> dict[str, str]:
    meaning = {}
    for item in text.split(","):
        split, equals, values = item.partition("=")
        if not equals or split not in SPLITS or not values:
            raise OutcomesError(
                f"--split: got {item!r}, expected SPLIT=VALUE+VALUE with a split of {list(SPLITS)}"
            )
        meaning |= {value: split for value in values.split("+")}
    return meaning


def shared_images(image: Sequence[str], split: Sequence[str]) -> list[str]:
    """The images that are in more than one split, sorted.

    >>> shared_images(["a", "b", "a"], ["train", "train", "test"])
    ['a']
    """
    seen: dict[str, str] = {}
    return sorted(
        {name for name, part in zip(image, split, strict=True) if seen.setdefault(name, part) != part}
    )
