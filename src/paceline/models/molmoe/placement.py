"""Which part of a model is on which device."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from paceline.errors import ModelError

DeviceMap: TypeAlias = str | Mapping[str | int, str | int]
HEADROOM = 0.9  # of a device's free memory is filled; the rest is for the cache and what is computed
VISION, EMBEDDING, HEAD = "vision", "embedding", "head"


def parts(blocks: int) -> list[str]:
    """The parts that a map may name, in the order in which a request passes them."""
    return [VISION, EMBEDDING, *(f"blocks.{index}" for index in range(blocks)), HEAD]


def part_of(parameter: str) -> str:
    """The part that a parameter belongs to.

    >>> part_of("decoder.blocks.3.moe.down"), part_of("decoder.norm.weight"), part_of("vision.positions")
    ('blocks.3', 'head', 'vision')
    """
    if parameter.startswith("vision."):
        return VISION
    if parameter.startswith("decoder.blocks."):
        return f"blocks.{parameter.split('.')[2]}"
    return EMBEDDING if parameter == "decoder.embedding" else HEAD


def spread(sizes: Mapping[str, int], room: Mapping[str, int], last: str) -> dict[str, str]:
    """Parts in order onto devices in order, each as far as its room goes; what fits nowhere goes to `last`.

    Sizes and room are in bytes.

    >>> spread({"a": 3, "b": 3, "c": 3}, {"cuda:0": 7, "cuda:1": 2}, "cpu")
    {'a': 'cuda:0', 'b': 'cuda:0', 'c': 'cpu'}
    """
    left = list(room.items())
    found = {}
    for part, size in sizes.items():
        while left and left[0][1] < size:  # a device that is passed is full: requests go from one to the next
            left.pop(0)
        if not left:
            found[part] = last
            continue
        device, free = left[0]
        left[0] = device, free - size
        found[part] = device
    return found


def devices(device_map: DeviceMap | None, device: str, sizes: Mapping[str, int]) -> dict[str, torch.device]:
    """The device of every part; `sizes` has the bytes of each, in the order of `parts`.

    `device_map` is None (everything on `device`), a device, "auto" (the visible CUDA devices in turn, as far as their
    free memory goes, then the processor) or a mapping of parts to devices, in which "blocks.3" may be written 3 and a
    part that is not named goes where the part before it is. Raises ModelError for parts and devices that there are not.
    """
    if device_map is None or isinstance(device_map, str):
        name = device if device_map is None else device_map
        if name != "auto":
            return dict.fromkeys(sizes, check_device(name))
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        room = {f"cuda:{i}": int(HEADROOM * torch.cuda.mem_get_info(i)[0]) for i in range(count)}
        return {part: torch.device(where) for part, where in spread(sizes, room, "cpu").items()}
    named = {f"blocks.{key}" if isinstance(key, int) else key: where for key, where in device_map.items()}
    unknown = [key for key in named if key not in sizes]
    if unknown:
        raise ModelError(
            f"device_map: got {unknown[:3]}, expected some of {VISION}, {EMBEDDING}, blocks.0 to "
            f"blocks.{len(sizes) - 4}, {HEAD}"
        )
    where = check_device(device)
    found = {}
    for part in sizes:
        where = check_device(named[part]) if part in named else where
        found[part] = where
    return found


def check_device(name: str | int) -> torch.device:
    """The device of this name, if there is one here."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ModelError(
            f"device {name!r}: not available here ({str(error).splitlines()[0]}); use cpu or a device that there is"
        ) from error
    if device.type == "meta":
        raise ModelError("device 'meta': holds no weights; use cpu or a device that there is")
    return device


@dataclass(frozen=True, slots=True)
class Route:
    """The devices that a request passes in the decoder, where there are several."""

    blocks: tuple[torch.device, ...]
    head: torch.device

    @classmethod
    def of(cls, found: Mapping[str, torch.device]) -> "Route | None":
        """The route through these parts, or None where all are on one device."""
        if len(set(found.values())) == 1:
            return None
        count = len(found) - 3
        return cls(tuple(found[f"blocks.{index}"] for index in range(count)), found[HEAD])

    def enter(
        self, block: int, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor | None]:
        """A block's inputs, on its device."""
        device = self.blocks[block]
        if x.device == device:
            return x, rotary, mask
        cosines, sines = rotary
        moved = None if mask is None else mask.to(device)
        return x.to(device), (cosines.to(device), sines.to(device)), moved
