"""What the arrays of a stored latency estimate must hold, so that none loads which no fit can have made."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from paceline.errors import ControllerError, KnobError
from paceline.knobs import KnobSpace
from paceline.latency.quantity import Quantity
from paceline.latency.regression import knob_products

SCHEMA_VERSION = 1
"""The newest estimate that this version reads, and the one it writes."""
NAMES = ("actions", "rows", "law", "upper_ratio", "scalars")
SCALARS = ("floor_ms", "scale", "margin", "product_order")


def read_description(arrays: Mapping[str, np.ndarray]) -> tuple[KnobSpace, dict[str, Any]]:
    """Knob space and facts; ControllerError if arrays are missing, or the description is damaged or too new."""
    missing = sorted({*NAMES, "meta"} - set(arrays))
    if missing:
        raise ControllerError(f"latency estimate: arrays {missing} are missing; write the controller again")
    try:
        meta = json.loads(np.asarray(arrays["meta"], dtype=np.uint8).tobytes().decode())
        version, space, facts = meta["schema_version"], KnobSpace.from_json(meta["space"]), meta["facts"]
        newer = version > SCHEMA_VERSION
        Quantity.of(facts)
    except (ValueError, KeyError, TypeError, AttributeError, KnobError) as error:
        raise ControllerError(
            f"latency estimate: damaged description ({error}); write the controller again"
        ) from error
    if newer:
        raise ControllerError(
            f"latency estimate: schema version {version} is newer than {SCHEMA_VERSION}; upgrade paceline"
        )
    return space, facts


def check_stored(space: KnobSpace, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Raise ControllerError for arrays, those of `NAMES`, that are not of an estimate of this space."""
    _check_shapes(space, arrays)
    _check_values(facts, arrays)


def _check_shapes(space: KnobSpace, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise ControllerError unless the arrays belong together and hold finite numbers."""
    actions, rows, law, ratios, scalars = (arrays[name] for name in NAMES)
    if not all(np.isfinite(arrays[name]).all() for name in NAMES):
        raise ControllerError(
            "latency estimate: arrays hold NaN or infinite values; write the controller again"
        )
    count = actions.size
    good = count > 0 and rows.shape == (count, 4) and ratios.shape == actions.shape == (count,)
    good = good and scalars.shape == (len(SCALARS),) and scalars[3] in range(1, len(space.knobs) + 1)
    if good:
        products = knob_products(space, np.zeros(1, np.int64), int(scalars[3])).shape[1]
        good = law.shape == (products, 4) and not np.any((actions < 0) | (actions >= space.size))
    if not good:
        raise ControllerError(
            f"latency estimate: got rows {rows.shape}, law {law.shape}, upper_ratio {ratios.shape} and scalars "
            f"{scalars.tolist()} for {count} configurations of {space.size}; write the controller again"
        )


def _check_values(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Raise ControllerError for numbers that neither `fit` nor `constant` nor `rescaled` can have made.

    Their times never fall as work grows, and an upper latency is never below the mean; it is 0 throughout where times
    are known only afterwards, so that nothing is excluded.
    """
    ratios, (floor_ms, scale, margin, _) = arrays["upper_ratio"], arrays["scalars"]
    afterwards = not Quantity.of(facts).known_before and not ratios.any()
    checks = {
        "actions": (bool((np.diff(arrays["actions"]) > 0).all()), "ids in ascending order, each once"),
        "rows": (bool((arrays["rows"] >= 0).all()), "numbers that are not negative"),
        "law": (bool((arrays["law"] >= 0).all()), "numbers that are not negative"),
        "upper_ratio": (bool((ratios >= 1).all()) or afterwards, "1 or more"),
        "floor_ms": (floor_ms >= 0, "a number that is not negative"),
        "scale": (scale > 0, "a positive number"),
        "margin": (margin >= 1, "1 or more"),
    }
    for name, (good, expected) in checks.items():
        if not good:
            got = arrays["scalars"][SCALARS.index(name)] if name in SCALARS else arrays[name]
            raise ControllerError(
                f"latency estimate: {name} holds {np.min(got):g}, expected {expected}; write the controller again"
            )
