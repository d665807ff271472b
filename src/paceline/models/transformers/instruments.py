"""Instruments: what makes a transformers model read the knobs of the request in flight.

A module is instrumented by a subclass of its own class made for it alone, so that nothing is stored on it: its
`__dict__` stays as it was, a deep copy runs the copy's weights, hooks of other libraries keep working, and uninstalling
is giving the class back. A block that runs keeps its hooks; a skipped block costs one function call.
"""

import inspect
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from types import CodeType
from typing import Any

from torch import nn

from paceline.errors import ModelError
from paceline.models.transformers import knob_state

TOP_K = "top_k"
ROPE_DELTAS = "rope_deltas"
DECODING = "_optimize_model_for_decode"
"""The method of transformers that changes the model while it decodes."""


class Instruments:
    """The instrumented modules of one model."""

    def __init__(self) -> None:
        self._replaced: list[tuple[nn.Module, type, type]] = []

    def replace(self, module: nn.Module, **attributes: Any) -> None:
        """Give `module` a class of its own with these attributes on top of what it has."""
        original = type(module)
        made = type(original.__name__, (original,), {"__module__": original.__module__, **attributes})
        module.__class__ = made
        self._replaced.append((module, original, made))

    @property
    def installed(self) -> bool:
        """Whether modules read the knobs; False after `uninstall`."""
        return bool(self._replaced)

    def uninstall(self) -> None:
        """Give every module its class back. Deep copies of the model keep their instruments.

        Raises:
            ModelError: a module that somebody else instrumented after us; nothing is changed then.
        """
        latest = {id(module): (module, made) for module, _, made in self._replaced}
        foreign = sorted(
            {type(module).__name__ for module, made in latest.values() if type(module) is not made}
        )
        if foreign:
            raise ModelError(
                f"uninstall: {foreign} were instrumented again by somebody else, expected our own classes; undo "
                "the later instruments first"
            )
        while self._replaced:
            module, original, _ = self._replaced.pop()
            module.__class__ = original


def instrument_blocks(instruments: Instruments, blocks: Iterable[nn.Module]) -> None:
    """Decoder blocks that return what they were given when they are not among the kept ones."""
    for index, block in enumerate(blocks):
        instruments.replace(block, __call__=_skippable(index, type(block)))


def _skippable(index: int, original: type) -> Callable[..., Any]:
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        knobs = knob_state.current()
        if knobs is None or knobs.kept_blocks is None or index in knobs.kept_blocks:
            return original.__call__(self, *args, **kwargs)
        return args[0] if args else kwargs["hidden_states"]

    return call


def instrument_routers(instruments: Instruments, routers: Iterable[nn.Module]) -> None:
    """Routers whose `top_k` is that of the request in flight, else their own."""

    def read(self: nn.Module) -> int:
        knobs = knob_state.current()
        return self.__dict__[TOP_K] if knobs is None or knobs.top_k is None else knobs.top_k

    def write(self: nn.Module, value: int) -> None:
        self.__dict__[TOP_K] = value

    for router in routers:
        instruments.replace(router, **{TOP_K: property(read, write)})


def instrument_kept_aside(
    instruments: Instruments, model: nn.Module, attributes: Iterable[str] = (ROPE_DELTAS,)
) -> None:
    """Modules that write `attributes` on themselves at every generation write them into the request in flight instead.

    Qwen-VL, GLM-V and Ernie-VL keep the offset of positions there between tokens: two threads would read each other's.
    """
    names = set(attributes)
    for module in model.modules():
        found = names & module.__dict__.keys()
        if found:
            instruments.replace(module, **{name: _kept_aside(name) for name in sorted(found)})


def instrument_decoding(instruments: Instruments, model: nn.Module) -> None:
    """Experts that are computed while decoding as in the prefill.

    Beside a CPU, `generate` would write another way on the model's configuration while it decodes, and put back what it
    found: requests at the same time would see each other's, and leave the wrong one behind.
    """
    if hasattr(model, DECODING):
        instruments.replace(model, **{DECODING: lambda self: nullcontext()})


def _kept_aside(attribute: str) -> property:
    def read(self: nn.Module) -> Any:
        knobs = knob_state.current()
        own = self.__dict__.get(attribute)
        return own if knobs is None else knobs.kept_aside.get((id(self), attribute), own)

    def write(self: nn.Module, value: Any) -> None:
        knobs = knob_state.current()
        if knobs is None:
            self.__dict__[attribute] = value
        else:
            knobs.kept_aside[id(self), attribute] = value

    return property(read, write)


def find_routers(decoder: nn.Module) -> list[nn.Module]:
    """Modules that choose `top_k` experts: those whose methods read it after construction.

    A `top_k` that nobody reads is a dead copy (Ernie's blocks have one).
    """
    return [
        module
        for module in decoder.modules()
        if isinstance(module.__dict__.get(TOP_K), int) and _reads(type(module), TOP_K)
    ]


def _reads(kind: type, attribute: str) -> bool:
    for owner in kind.__mro__:
        if owner is nn.Module:
            return False
        for name, value in vars(owner).items():
            function = inspect.unwrap(value) if inspect.isfunction(value) else None
            if function is not None and name != "__init__" and _names(function.__code__, attribute):
                return True
    return False


def _names(code: CodeType, attribute: str) -> bool:
    inner = (item for item in code.co_consts if isinstance(item, CodeType))
    return attribute in code.co_names or any(_names(item, attribute) for item in inner)
