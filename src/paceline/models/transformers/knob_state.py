"""The knobs of the request in flight: a ContextVar, so that concurrent requests never see each other's.

A ContextVar does not cross `Thread(target=model.generate)`: run such a thread's work in `contextvars.copy_context()`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class TurnedKnobs:
    """What the instrumented modules read at every call. None leaves the model's own."""

    top_k: int | None = None  # experts per token
    kept_blocks: frozenset[int] | None = None  # indices of the decoder blocks that run
    kept_aside: dict[tuple[int, str], Any] = field(default_factory=dict)
    """What modules would write on themselves during a request, by (id of the module, attribute)."""


_current: ContextVar[TurnedKnobs | None] = ContextVar("paceline_transformers_knobs", default=None)


def current() -> TurnedKnobs | None:
    """The knobs in force here, or None outside of a request."""
    return _current.get()


@contextmanager
def turned(knobs: TurnedKnobs) -> Iterator[None]:
    """Turn the knobs inside the block, and put back what was there before, also after an exception."""
    token = _current.set(knobs)
    try:
        yield
    finally:
        _current.reset(token)
