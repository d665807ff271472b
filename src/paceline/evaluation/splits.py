"""Splits by scene: samples that share an image stay together, and what overlaps is reported."""

from dataclasses import replace
from itertools import combinations

import numpy as np

from paceline.errors import OutcomesError
from paceline.outcomes.table import SPLITS, OutcomeTable


def split_by_scene(
    image_hash: np.ndarray, fractions: tuple[float, float, float] = (0.6, 0.2, 0.2), seed: int = 0
) -> np.ndarray:
    """A split name per sample, str (n,), so that equal `image_hash` means equal split.

    `fractions` of the scenes go to train, validation and test; every split gets a scene at least.
    """
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise OutcomesError(f"split fractions: got {fractions}, expected three positive shares that sum to 1")
    scenes, position = np.unique(image_hash, return_inverse=True)
    if len(scenes) < 3:
        raise OutcomesError(
            f"splits: got {len(scenes)} different images, expected 3 or more; profile more images"
        )
    order = np.random.default_rng(seed).permutation(len(scenes))
    first = int(np.clip(round(fractions[0] * len(scenes)), 1, len(scenes) - 2))
    second = int(np.clip(round((fractions[0] + fractions[1]) * len(scenes)), first + 1, len(scenes) - 1))
    names = np.empty(len(scenes), dtype=object)
    names[order[:first]], names[order[first:second]], names[order[second:]] = SPLITS
    return names[position].astype(str)


def resplit(
    table: OutcomeTable, fractions: tuple[float, float, float] = (0.6, 0.2, 0.2), seed: int = 0
) -> OutcomeTable:
    """The table with new splits by scene."""
    return replace(table, split=split_by_scene(table.image_hash, fractions, seed))


def scene_overlap(table: OutcomeTable) -> dict[str, int]:
    """How many scenes two splits share, per pair of splits; all 0 in a sound table."""
    scenes = {split: set(table.image_hash[table.split == split].tolist()) for split in SPLITS}
    return {f"{a}-{b}": len(scenes[a] & scenes[b]) for a, b in combinations(SPLITS, 2)}


def fit_and_test(table: OutcomeTable) -> tuple[OutcomeTable, OutcomeTable, dict[str, object]]:
    """The samples to choose on (train and validation), the samples to judge on (test), and what was left out.

    Only samples on which every configuration was tested are used, and no test sample whose scene was seen before.
    """
    complete = table.tested.all(axis=1)
    chosen_on = table.split != "test"
    seen = np.isin(table.image_hash, table.image_hash[chosen_on])
    fit_rows, test_rows = complete & chosen_on, complete & ~chosen_on & ~seen
    facts: dict[str, object] = {
        "train": int((complete & (table.split == "train")).sum()),
        "validation": int((complete & (table.split == "validation")).sum()),
        "test": int(test_rows.sum()),
        "test_scenes": len(np.unique(table.image_hash[test_rows])),
        "incomplete": int((~complete).sum()),
        "overlap": scene_overlap(table),
    }
    for rows, name in ((fit_rows, "train or validation"), (test_rows, "test")):
        if not rows.any():
            raise OutcomesError(
                f"evaluation: no {name} sample has an outcome under all {len(table.actions)} configurations and a "
                f"scene of its own ({facts['train']} train, {facts['validation']} validation and {facts['test']} test "
                f"samples have, {facts['incomplete']} samples lack an outcome); profile more samples or split again"
            )
    return table.select(fit_rows), table.select(test_rows), facts
