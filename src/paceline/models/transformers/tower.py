"""The vision tower, seen once per crop: what it made of the overview is spliced in where the same pixels come again."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paceline.models.transformers.instruments import Instruments

Position = Literal["first", "last"]
"""Where the overview stands among the rows (crops) of the tower's input."""


class TowerMemory:
    """What the tower was given and what it answered for the overview of one request.

    Rows are reused only where their pixels (and grids, and masks) are equal, bit by bit: a wrong splice cannot happen.
    `position` None: only an input that is equal as a whole is reused.
    """

    def __init__(self, position: Position | None) -> None:
        self._position: Position | None = position
        self._given: list[Tensor] | None = None  # pixels first, then grids or masks
        self._output: Any = None
        self.reused = False  # by the last call

    def run(self, tower: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The tower's answer to this input; the first input is the overview."""
        given = _tensors(args, kwargs)
        if self._given is None:
            output = tower(*args, **kwargs)
            self._given, self._output = given, _copied(output)
            return output
        self.reused = False
        if _all_equal(given, self._given):
            self.reused = True
            return _copied(self._output)
        rows = len(given[0])
        if self._position is None or rows < 2 or len(self._given[0]) != 1:
            return tower(*args, **kwargs)
        place = 0 if self._position == "first" else rows - 1
        row = [item[place : place + 1] if item.ndim > 0 and len(item) == rows else item for item in given]
        if not _all_equal(row, self._given):
            return tower(*args, **kwargs)
        self.reused = True
        others = slice(1, None) if place == 0 else slice(0, rows - 1)

        def without(value: Any) -> Any:
            return (
                value[others]
                if isinstance(value, Tensor) and value.ndim > 0 and len(value) == rows
                else value
            )

        answer = tower(
            *(without(item) for item in args), **{key: without(item) for key, item in kwargs.items()}
        )
        return _spliced(self._output, answer, rows - 1, self._position)

    @property
    def pixels(self) -> Tensor | None:
        """What the tower was given for the overview; None before, and where no tower is remembered."""
        return self._given[0] if self._given else None

    def fork(self) -> "TowerMemory":
        """The same memory for another call; `reused` is its own."""
        copy = TowerMemory(self._position)
        copy._given, copy._output = self._given, self._output
        return copy


_memory: ContextVar[TowerMemory | None] = ContextVar("paceline_transformers_tower", default=None)


@contextmanager
def remembering(memory: TowerMemory | None) -> Iterator[None]:
    """Calls of the tower inside the block go through `memory`."""
    token = _memory.set(memory)
    try:
        yield
    finally:
        _memory.reset(token)


def instrument_tower(instruments: Instruments, tower: nn.Module) -> None:
    """Make the tower look into the memory of the request in flight."""
    original = type(tower)

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        memory = _memory.get()
        if memory is None:
            return original.__call__(self, *args, **kwargs)
        return memory.run(lambda *a, **k: original.__call__(self, *a, **k), args, kwargs)

    instruments.replace(tower, __call__=call)


def _tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """What the tower is given, pixels first: equal pixels in another grid are another image."""
    found = [item for item in (*args, *kwargs.values()) if isinstance(item, Tensor)]
    return sorted(found, key=lambda item: not item.is_floating_point())


def _all_equal(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(some) == len(others) and all(
        one.shape == other.shape and torch.equal(one, other) for one, other in zip(some, others, strict=True)
    )


def _copied(value: Any) -> Any:
    """Model outputs are given new fields by what reads them: a shallow copy protects the memory."""
    return type(value)(**value) if isinstance(value, dict) else value


def _spliced(overview: Any, others: Any, rows: int, position: Position) -> Any:
    """The answer for all rows from that for the overview and that for the `rows` others."""
    if isinstance(others, Tensor):
        if others.ndim == 0 or len(others) != rows or len(overview) != 1:
            return others
        return torch.cat((overview, others) if position == "first" else (others, overview))
    if isinstance(others, dict):
        return type(others)(**{key: _spliced(overview[key], others[key], rows, position) for key in others})
    if isinstance(others, tuple | list):
        parts = zip(overview, others, strict=True)
        return type(others)(_spliced(one, other, rows, position) for one, other in parts)
    return others
