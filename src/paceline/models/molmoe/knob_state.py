"""The knobs of the request in flight: a ContextVar, so that concurrent requests never see each other's."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KnobState:
    """What the decoder reads at every forward. None leaves the model's own number."""

    top_k: int | None = None
    active_blocks: tuple[int, ...] | None = None  # ascending block indices
    every_expert: bool = (
        False  # compute all experts and weigh the unchosen ones 0: the same sum, for large batches
    )


DEFAULT = KnobState()
_current: ContextVar[KnobState] = ContextVar("paceline_molmoe_knobs", default=DEFAULT)


def current() -> KnobState:
    """The knobs in force here."""
    return _current.get()


@contextmanager
def knobs(state: KnobState) -> Iterator[None]:
    """Turn the knobs inside the block, and put back what was there before, also after an exception."""
    token = _current.set(state)
    try:
        yield
    finally:
        _current.reset(token)
