"""Which configurations are chosen: the most frequent by kind of question, and the mean of every knob."""

from typing import Any

import numpy as np

from paceline.evaluation.metrics import option_values
from paceline.knobs import KnobSpace

ALL_KINDS = "all"


def usage(
    space: KnobSpace, actions: np.ndarray, chosen: np.ndarray, kind: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Per kind of question, "all" first and then the most frequent kinds: what is chosen.

    `actions` (m,) are those that positions `chosen` (n,) mean. Knobs whose options are numbers have the
    mean of what is chosen.
    """
    values = option_values(space, actions)
    kinds, counts = np.unique(kind, return_counts=True)
    ordered = kinds[np.argsort(-counts, kind="stable")].tolist()
    groups = {ALL_KINDS: np.ones(len(kind), dtype=bool)}
    groups |= {f"{name}": kind == name for name in ordered if len(ordered) > 1}
    return {name: _facts(space, actions, values, chosen[rows]) for name, rows in groups.items()}


def _facts(space: KnobSpace, actions: np.ndarray, values: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    counts = np.bincount(chosen, minlength=len(actions))
    most = int(counts.argmax())
    means = values[chosen].mean(axis=0)
    return {
        "count": len(chosen),
        "configuration": dict(space.configuration(int(actions[most]))),
        "share": float(counts[most] / len(chosen)),
        "used": int((counts > 0).sum()),
        "knobs": {
            knob.name: float(mean)
            for knob, mean in zip(space.knobs, means, strict=True)
            if not any(isinstance(option, str) for option in knob.options)
        },
    }
