"""The words of `TrainOptions` about inputs, taken apart and checked."""

from paceline.errors import OutcomesError, TrainError
from paceline.outcomes.preparation import BALANCED, Preparation, parse_preparation

NONE = "none"
REDUCTIONS = (NONE, "pca", "learned")
SCALINGS = ("auto", "standard", "quantile")
ENCODINGS = {"sinusoidal": 32, "linear": 1}
"""Encoding of the budget -> its dimensions, see `budgets.encode_budget`."""
BUDGET = "budget"
"""What training can balance besides the groups of samples that an import can."""


def parse_reduction(text: str) -> tuple[str, int | None]:
    """How features are reduced, and to how many numbers.

    >>> parse_reduction("pca:256"), parse_reduction("none")
    (('pca', 256), ('none', None))
    """
    kind, _, count = text.partition(":")
    if text == NONE:
        return NONE, None
    if kind not in REDUCTIONS[1:] or not count.isdecimal() or int(count) < 1:
        raise TrainError(
            f"reduce: got {text!r}, expected none, pca:K or learned:K with K numbers, as pca:256"
        )
    return kind, int(count)


def parse_balance(text: str | None) -> tuple[tuple[str, ...] | None, bool]:
    """The groups of samples to balance, None for those of the manifest, and whether to balance budgets.

    >>> parse_balance("dataset,budget"), parse_balance("none"), parse_balance("budget"), parse_balance(None)
    ((('dataset',), True), ((), False), (None, True), (None, False))
    """
    if text is None:
        return None, False
    if text.strip() == NONE:
        return (), False
    names = [name.strip() for name in text.split(",")]
    allowed = (*BALANCED, BUDGET)
    if len(set(names)) != len(names) or any(name not in allowed for name in names):
        raise TrainError(f"balance: got {text!r}, expected none, or some of {list(allowed)}, each once")
    groups = tuple(name for name in names if name != BUDGET)
    return groups or None, BUDGET in names


def parse_augmentation(text: str) -> Preparation:
    """The amounts of an augmentation as a recipe.

    >>> parse_augmentation("noise=0.1,mix=0.3").noise, parse_augmentation("none").augments
    (0.1, False)
    """
    try:
        return parse_preparation("", "" if text.strip() == NONE else text)
    except OutcomesError as error:
        raise TrainError(str(error).removeprefix("--")) from error
