"""Who made the features of outcomes: numbers of different makers mean different things."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

MODEL = "model"
"""The kind of features that a model's overview gives, as for a live request."""
COLUMNS, TEXT = "columns", "tf-idf + SVD of the question"
"""Kinds of an import: the user's columns, and those of `policies.text_features`."""


class FeatureMaker(Protocol):
    """Makes features of imported samples."""

    def make(
        self, dataset: Sequence[str], image: Sequence[str], question: Sequence[str]
    ) -> tuple[np.ndarray, int, dict[str, Any]]:
        """Features float32 (n, f), the number of image features among them, and what they are."""
        ...


def model_identity(described: Mapping[str, Any]) -> dict[str, Any]:
    """What of `ElasticModel.describe()` settles the features: name, weights and sizes, not where it runs.

    >>> model_identity({"name": "tiny", "revision": "ab12", "device": "cpu"})
    {'name': 'tiny', 'revision': 'ab12'}
    """
    keys = ("name", "revision", "weights", "architecture", "parameters")
    return {key: described[key] for key in keys if described.get(key) not in (None, "")}


def feature_maker(model: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Who made the features, from a manifest's `model` and `options`; equal for features that mean the same.

    Sweeps have the features of their own model. Imports say theirs in `options.features`; the medians that stand for
    empty values are no part of them where no value was empty.
    """
    described = options.get("features")
    if described is None:
        return {"kind": MODEL, "model": model_identity(model)}
    if described.get("kind") == MODEL:
        return {"kind": MODEL, "model": described["model"]}
    passing = {"augmented"} | ({"medians"} if not described.get("empty_marked") else set())
    return {key: value for key, value in described.items() if key not in passing}


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What two makers of one kind differ in, in brackets after a blank; nothing of two kinds.

    >>> difference({"kind": "columns", "columns": ["a"]}, {"kind": "columns", "columns": ["b"]})
    ' (they differ in columns)'
    """
    names = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    return "" if "kind" in names or not names else f" (they differ in {', '.join(names)})"


def maker_label(maker: Mapping[str, Any]) -> str:
    """A maker in words.

    >>> maker_label({"kind": "model", "model": {"name": "tiny", "revision": "ab12"}})
    'the model tiny (ab12)'
    """
    if maker.get("kind") != MODEL:
        return str(maker.get("kind"))
    revision = maker["model"].get("revision") or maker["model"].get("weights")
    return f"the model {maker['model'].get('name', 'without a name')}" + (
        f" ({revision})" if revision else ""
    )
