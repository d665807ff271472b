"""How training prepares imported samples: balanced over data sets and kinds, and with augmented features.

An import records this recipe in the manifest's options; no sample is written twice. Training follows it for the train
split alone: validation and test samples are what was measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from paceline.errors import OutcomesError

KEY = "preparation"
"""Of the recipe in the manifest's options."""
BALANCED = ("dataset", "kind")
LIMITS = {"noise": 1.0, "dropout": 0.9, "mix": 0.5}
"""Largest value of each augmentation: with more, a sample would be more something else than itself."""
LARGEST_WEIGHT = 10.0
"""A sample of a rare group is drawn at most this many times as often as the average one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparation:
    """The recipe; the default changes nothing.

    Raises:
        OutcomesError: unknown names, or amounts out of range.
    """

    balance: tuple[str, ...] = ()  # of BALANCED: groups of equal values are drawn equally often
    noise: float = 0.0  # standard deviation added to features, in their own standard deviations
    dropout: float = 0.0  # chance that a feature is replaced by its mean
    mix: float = 0.0  # largest share of another sample of the same data set and kind in a sample's features
    weights: Mapping[str, float] = field(default_factory=dict)  # of a train sample, by its group; mean 1

    def __post_init__(self) -> None:
        unknown = [name for name in self.balance if name not in BALANCED]
        if unknown or len(set(self.balance)) != len(self.balance):
            raise OutcomesError(
                f"--balance: got {','.join(self.balance)!r}, expected {' and '.join(BALANCED)}, or one of them"
            )
        for name, limit in LIMITS.items():
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= limit:
                raise OutcomesError(f"--augment: {name} is {value!r}, expected a number from 0 to {limit:g}")

    @property
    def augments(self) -> bool:
        """Whether features change."""
        return any(getattr(self, name) > 0 for name in LIMITS)

    def to_json(self) -> dict[str, Any]:
        """A JSON value from which `from_json` makes an equal recipe."""
        amounts = {name: float(getattr(self, name)) for name in LIMITS}
        return {"balance": list(self.balance), **amounts, "weights": dict(self.weights)}

    @classmethod
    def from_json(cls, value: Any) -> "Preparation":
        """The recipe in a manifest; None is the one that changes nothing."""
        if value is None:
            return cls()
        names = {"balance", "weights", *LIMITS}
        if not isinstance(value, Mapping) or set(value) != names or not isinstance(value["weights"], Mapping):
            raise OutcomesError(
                f"manifest.json: {KEY} is {value!r}, expected {sorted(names)}; import the outcomes again"
            )
        return cls(**{**value, "balance": tuple(value["balance"])})


def parse_preparation(balance: str, augment: str) -> Preparation:
    """The recipe in the words of the command line.

    >>> parse_preparation("dataset,kind", "noise=0.1,mix=0.3").mix
    0.3
    """
    amounts: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in augment.split(","))):
        name, _, text = item.partition("=")
        if name not in LIMITS or name in amounts:
            raise OutcomesError(
                f"--augment: got {item!r}, expected each of {sorted(LIMITS)} once, as noise=0.05"
            )
        try:
            amounts[name] = float(text)
        except ValueError as error:
            raise OutcomesError(f"--augment: {item!r} has no number, expected as in noise=0.05") from error
    names = tuple(part.strip() for part in balance.split(",") if part.strip())
    return Preparation(balance=names, **amounts)


def group_labels(balance: Sequence[str], dataset: Sequence[str], kind: Sequence[str]) -> np.ndarray:
    """The group of every sample, text (n,): what it is balanced by."""
    columns = {"dataset": dataset, "kind": kind}
    parts = [columns[name] for name in BALANCED if name in balance]
    return np.array([" / ".join(item) for item in zip(*parts, strict=True)], dtype=object)


def balanced_weights(labels: np.ndarray) -> dict[str, float]:
    """A weight per group with which each is drawn equally often, at most `LARGEST_WEIGHT`; their mean is 1.

    >>> balanced_weights(np.array(["a", "a", "a", "b"], dtype=object))
    {'a': 0.6666666666666666, 'b': 2.0}
    """
    names, counts = np.unique(labels.astype(str), return_counts=True)
    weights = len(labels) / (len(names) * counts)
    while (
        weights > LARGEST_WEIGHT
    ).any():  # what the rarest groups give up goes to the others in equal parts
        weights = np.minimum(weights, LARGEST_WEIGHT)
        free = weights < LARGEST_WEIGHT
        share = (len(labels) - LARGEST_WEIGHT * counts[~free].sum()) / free.sum()
        weights[free] = share / counts[free]
    return dict(zip(names.tolist(), weights.tolist(), strict=True))
