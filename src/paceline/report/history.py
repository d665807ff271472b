"""From a training history to panels: which numbers belong together, and along which axis."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paceline.errors import PacelineError

AXES = ("step", "epoch", "iteration")
"""Keys that count; the first one present is the horizontal axis."""
STAGE_KEYS = ("stage", "phase")
SPLITS = ("train", "training", "validation", "valid", "val", "test")

Lines = dict[str, tuple[np.ndarray, np.ndarray]]


def training_panels(history: Any) -> tuple[str, dict[str, Lines]]:
    """Name of the axis, and panel -> line -> (steps, values).

    history: a list of records ({"step": 10, "loss": 0.3, "validation_reward": 0.6, "stage": "grpo"}) or one list per
    quantity ({"loss": [..]}). `train_x` and `validation_x` share a panel; so do the stages of one quantity. Records
    without a number for a quantity are left out of its line.
    """
    records = _records(history)
    axis_name, positions = _positions(records)
    panels: dict[str, Lines] = {}
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for step, record in zip(positions, records, strict=True):
        stage = next((str(record[key]) for key in STAGE_KEYS if isinstance(record.get(key), str)), "")
        for key, value in record.items():
            if key in AXES or isinstance(value, bool) or not isinstance(value, int | float | np.number):
                continue
            if np.isfinite(value):
                panel, split = _panel_of(str(key))
                line = " ".join(part for part in (stage, split) if part) or panel
                found.setdefault((panel, line), []).append((step, float(value)))
    for (panel, line), pairs in found.items():
        steps, values = np.array(pairs).T
        panels.setdefault(panel, {})[line] = (steps, values)
    return axis_name, panels


def _positions(records: Sequence[Mapping[str, Any]]) -> tuple[str, list[float]]:
    """Where each record stands; stages that count from the start again are laid one after the other."""
    name = next((name for name in AXES if all(name in record for record in records)), None)
    if name is None:
        return "record", [float(number) for number in range(1, len(records) + 1)]
    steps = [float(record[name]) for record in records]
    offset, positions = 0.0, [steps[0]]
    for before, after in itertools.pairwise(steps):
        offset += before if after <= before else 0.0
        positions.append(offset + after)
    return name if offset == 0.0 else f"{name}, stages in sequence", positions


def _records(history: Any) -> list[Mapping[str, Any]]:
    if isinstance(history, Mapping):
        lengths = {len(values) for values in history.values() if isinstance(values, Sequence | np.ndarray)}
        if len(lengths) != 1 or any(isinstance(values, str) for values in history.values()):
            raise PacelineError(
                f"training history: got lists of lengths {sorted(lengths)}, expected one length for all quantities"
            )
        return [dict(zip(history, line, strict=True)) for line in zip(*history.values(), strict=True)]
    records = list(history)
    if not all(isinstance(record, Mapping) for record in records):
        raise PacelineError("training history: expected a list of records (mappings) or a mapping of lists")
    return records


def _panel_of(key: str) -> tuple[str, str]:
    words = key.replace("/", "_").split("_")
    split = next((word for word in words if word in SPLITS), "")
    rest = [word for word in words if word != split]
    return (" ".join(rest).strip() or key), split
