"""A small decision tree that says what a controller chooses, and how often it is right about that."""

from dataclasses import dataclass
from typing import Any

import numpy as np

DEPTH = 4
HELD_OUT = 0.3
"""Share of the scenes on which the tree is judged."""
SMALLEST_LEAF = 0.005
"""Share of the decisions that a leaf must hold, so that no rule is about a handful of samples."""
LARGEST = 1e30
"""Sums of numbers up to here fit into float32, in which scikit-learn's trees compute."""
SEEDS = 2**32
"""As many seeds scikit-learn knows; numpy takes larger ones."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Decisions:
    """n decisions to be explained."""

    inputs: np.ndarray  # float64 (n, k); beyond `LARGEST` they count as that
    names: list[str]  # of the inputs
    chosen: np.ndarray  # int64 (n,): positions
    budget: np.ndarray  # int (n,): which budget each was made under
    scene: np.ndarray  # str (n,): equal for equal images


def surrogate(decisions: Decisions, *, depth: int = DEPTH, seed: int = 0) -> dict[str, Any] | None:
    """The tree and its fidelity, the share of decisions on held-out scenes that it gets right; None for one scene.

    Beside it stands the fidelity of always saying the configuration that is most frequent, over all budgets and at each
    of them. The tree is nested: {"input", "threshold", "low", "high"}, low up to and including the threshold, or a leaf
    {"position", "share", "decisions"} with what is said, how often that is right in fitting and of how many decisions.
    """
    from sklearn.tree import DecisionTreeClassifier

    scenes = np.unique(decisions.scene)
    if len(scenes) < 2:
        return None
    order = np.random.default_rng(seed).permutation(scenes)
    held_out = np.isin(decisions.scene, order[: max(1, round(HELD_OUT * len(scenes)))])
    fit, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    least = max(1, int(SMALLEST_LEAF * len(fit)))
    model = DecisionTreeClassifier(max_depth=depth, min_samples_leaf=least, random_state=seed % SEEDS)
    inputs = np.clip(decisions.inputs, -LARGEST, LARGEST)
    model.fit(inputs[fit], decisions.chosen[fit])
    said = model.predict(inputs[test])
    right = decisions.chosen[test]
    by_budget = np.zeros(len(test), dtype=np.int64)
    for budget in np.unique(decisions.budget):
        seen = decisions.chosen[fit][decisions.budget[fit] == budget]
        by_budget[decisions.budget[test] == budget] = _most_frequent(seen)
    return {
        "tree": _node(model, decisions.names, 0),
        "depth": int(model.get_depth()),
        "fidelity": float(np.mean(said == right)),
        "most_frequent": float(np.mean(right == _most_frequent(decisions.chosen[fit]))),
        "most_frequent_at_budget": float(np.mean(by_budget == right)),
        "fitted_decisions": len(fit),
        "held_out_decisions": len(test),
    }


def _most_frequent(chosen: np.ndarray) -> int:
    return int(np.bincount(chosen).argmax()) if len(chosen) else -1


def _node(model: Any, names: list[str], place: int) -> dict[str, Any]:
    """The subtree at a node of scikit-learn's arrays."""
    tree = model.tree_
    if tree.children_left[place] < 0:
        shares = tree.value[place][0] / tree.value[place][0].sum()
        best = int(shares.argmax())
        return {
            "position": int(model.classes_[best]),
            "share": float(shares[best]),
            "decisions": int(tree.n_node_samples[place]),
        }
    low, high = (
        _node(model, names, int(children[place])) for children in (tree.children_left, tree.children_right)
    )
    if "position" in low and low.get("position") == high.get("position"):
        return _joined(low, high)
    return {
        "input": names[int(tree.feature[place])],
        "threshold": float(tree.threshold[place]),
        "low": low,
        "high": high,
    }


def _joined(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    """Two leaves that say the same."""
    count = low["decisions"] + high["decisions"]
    right = low["share"] * low["decisions"] + high["share"] * high["decisions"]
    return {"position": low["position"], "share": right / count, "decisions": count}
