"""The run-time check that the jaxtyping hook applies to the package in tests.

Functions whose signature names array shapes are checked in full. The others are left alone: public functions answer
a wrong type with an error of their own, and tests want to see that error.
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray

Checked = TypeVar("Checked", bound=Callable[..., Any])

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as type checkers read it


def check(function: Checked) -> Checked:
    """`function` with run-time type checks when its signature names the shape of an array."""
    hints = [*inspect.get_annotations(function).values()] if callable(function) else []
    return _beartype(function) if any(_names_shape(hint) for hint in hints) else function


def _names_shape(hint: Any) -> bool:
    if isinstance(hint, str):  # from __future__ import annotations
        return "[Tensor," in hint or "[np.ndarray," in hint
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_names_shape(part) for part in getattr(hint, "__args__", ()) or ())
