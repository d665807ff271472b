"""The vision tower for one crop in compiled code: what an overview takes of a small model."""

import logging
from functools import cache
from importlib import import_module
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from paceline.models.molmoe.options import MolmoEOptions
from paceline.models.molmoe.vision import QUICK, VisionTower, VitBlock

MOST_WEIGHTS, MOST_GRID = 1 << 20, 16
"""Numbers in a tower, and patches along a side, up to which starting torch's operations takes longest."""
LANES, MOST_WIDTH, MOST_FEATURES = 16, 4096, 8
"""Widths are multiples of LANES; the most that the compiled tower takes."""

_POINTER, _WRITES = torch.Tensor.data_ptr, attrgetter("_version")

logger = logging.getLogger(__name__)


@cache
def _registrations() -> list[int]:
    """One number that rises: parameters and layers that modules of this process were given since the first call."""
    count = [0]

    def register(*_: object) -> None:
        count[0] += 1

    register_module_parameter_registration_hook(register)
    register_module_module_registration_hook(register)
    return count


class OneCrop:
    """`VisionTower` for one crop, in float32 on a CPU. Immutable; any number of threads may use it at once.

    Its weights are a copy. `is_current` notices hooks, layers and parameters that a module was given, matrices that
    moved, and writes that torch counts; a parameter set to None, those of `torch.func.functional_call`, and writes
    through `parameter.data` or an array that shares its memory go past it.
    """

    def __init__(self, vision: VisionTower, kernels: str | None = None) -> None:
        """Copy the weights of a tower that it `serves`.

        `kernels`: by the numbers in a vector, "sixteens" or "eights"; by default the widest that the processor has.

        Raises:
            ImportError: installed without gcc, or on a processor without such vectors.
            ValueError: another tower.
        """
        options = vision.options
        native = import_module("paceline.models.molmoe._one_crop")
        self._shapes = (
            (1, options.grid**2 + 1, options.vit_width * len(options.vit_features)),
            (options.grid**2 // 4, options.width),
            (options.width,),
        )
        self._parameters = tuple(vision.parameters())
        self._matrices = tuple(
            parameter for parameter in self._parameters if parameter.ndim > 1
        )  # of a layer one
        self._memory = [
            matrix.detach() for matrix in self._matrices
        ]  # its place is not given away while this lives
        self._registrations = _registrations()
        self._registered, self._hooks = self._registrations[0], _hooks(vision)
        self._pointers = tuple(map(_POINTER, self._matrices))
        self._writes = sum(map(_WRITES, self._parameters))
        self._read = native.Tower(
            sizes=(
                *(options.grid, options.patch_dim, options.vit_width, options.vit_heads, options.vit_mlp),
                *(options.vit_blocks, options.pool_heads, options.pool_width, options.projector_hidden),
                options.width,
            ),
            features=tuple(range(options.vit_blocks)[block] for block in options.vit_features),
            weights=_weights(vision),
            kernels=kernels,
        ).read

    @staticmethod
    def compiled() -> tuple[str, ...]:
        """The kernels that this installation and processor have, the widest first; none without gcc or x86-64."""
        try:
            return tuple(import_module("paceline.models.molmoe._one_crop").kernels())
        except ImportError:
            return ()

    @staticmethod
    def serves(vision: VisionTower) -> bool:
        """Whether a tower is small, untrained, in float32, on a CPU, of widths that fill vectors, as it was made."""
        parameters = list(vision.parameters())
        return (
            all(
                parameter.device.type == "cpu"
                and parameter.dtype == torch.float32
                and not parameter.requires_grad
                and not parameter.is_inference()
                for parameter in parameters
            )
            and sum(parameter.numel() for parameter in parameters) <= MOST_WEIGHTS
            and _fills(vision.options)
            and _as_made(vision)
        )

    def is_current(self) -> bool:
        """Whether the tower still has the weights that were copied, as far as torch knows."""
        # In whole passes, since every line of Python is slow after a model ran. Counts of writes only rise.
        return (
            self._registered == self._registrations[0]
            and not any(self._hooks)
            and tuple(map(_POINTER, self._matrices)) == self._pointers
            and sum(map(_WRITES, self._parameters)) == self._writes
        )

    def read(
        self, patches: Float[np.ndarray, "patches dim"], mask: Float[np.ndarray, " patches"]
    ) -> tuple[
        Float[Tensor, "1 class_and_patches features"],
        Float[Tensor, "tokens width"],
        Float[np.ndarray, " width"],
    ]:
        """`VisionTower.class_and_patches` and `pool` of a crop, and the mean of its tokens."""
        features, tokens, mean = (np.empty(shape, np.float32) for shape in self._shapes)
        self._read(patches, mask, features, tokens, mean)
        return torch.from_numpy(features), torch.from_numpy(tokens), mean


class KeptCrop:
    """The compiled tower of a model, made at its first overview and again when weights changed. Copies start anew."""

    def __init__(self) -> None:
        self._kept: tuple[VisionTower, torch.device, torch.dtype, bool, OneCrop | None] | None = None

    def of(self, vision: VisionTower) -> OneCrop | None:
        """None for a tower that nothing compiled serves."""
        weight, kept = vision.class_embedding, self._kept
        now = vision, weight.device, weight.dtype, weight.requires_grad
        if kept is not None and kept[0] is vision and kept[1:4] == now[1:]:
            found = kept[4]
            if found is None or found.is_current():
                return found
        found = _compiled(vision)
        self._kept = *now, found
        return found

    def __reduce__(self) -> tuple[type["KeptCrop"], tuple[()]]:
        return KeptCrop, ()


def _compiled(vision: VisionTower) -> OneCrop | None:
    if not OneCrop.serves(vision):
        return None
    try:
        return OneCrop(vision)
    except ImportError as error:
        logger.info("overviews of small models are computed by torch: %s", error)
        return None


def _fills(options: MolmoEOptions) -> bool:
    widths = (options.vit_width, options.vit_mlp, options.pool_width, options.projector_hidden, options.width)
    return (
        all(width % LANES == 0 for width in widths)
        and options.vit_width % (LANES * options.vit_heads) == 0
        and options.pool_width % (LANES * options.pool_heads) == 0
        and max(widths) <= MOST_WIDTH
        and options.grid % 2 == 0
        and options.grid <= MOST_GRID
        and len(options.vit_features) <= MOST_FEATURES
    )


def _as_made(vision: VisionTower) -> bool:
    """Whether layers and parameters are those of a `VisionTower`, and nobody waits for what they compute."""
    with torch.device("meta"):
        fresh = VisionTower(vision.options)

    def kinds(tower: VisionTower) -> list[tuple[str, type]]:
        return [(name, type(module)) for name, module in tower.named_modules()]

    def shapes(tower: VisionTower) -> list[tuple[str, torch.Size]]:
        return [(name, parameter.shape) for name, parameter in tower.named_parameters()]

    return kinds(vision) == kinds(fresh) and shapes(vision) == shapes(fresh) and not any(_hooks(vision))


def _hooks(vision: VisionTower) -> list[dict[int, Any]]:
    """The hooks of every layer, which nothing compiled calls."""
    modules = list(vision.modules())
    return [hooks for module in modules for hooks in (module._forward_hooks, module._forward_pre_hooks)]


def _weights(vision: VisionTower) -> np.ndarray:
    """All weights in the order in which the compiled tower reads them, matrices as (inputs, outputs)."""
    parts: list[Tensor] = [
        *_linear(vision.patch_embedding),
        *(vision.class_embedding, vision.positions, *_norm(vision.pre_norm)),
    ]
    for block in vision.blocks:
        assert isinstance(block, VitBlock)
        parts += [
            *_norm(block.attention_norm),
            *_linear(block.wq, block.wk, block.wv),
            *_linear(block.wo),
            *_norm(block.ffn_norm),
            *(QUICK * part for part in _linear(block.w1)),  # quick-GELU as in `VitBlock`
            block.w2.weight.T / QUICK,
            block.w2.bias,
        ]
    parts += [
        vision.pad_embedding,
        *_linear(vision.pool_q),
        *_linear(vision.pool_k, vision.pool_v),
        *_linear(vision.pool_out),
        *_linear(vision.project_gate, vision.project_up),
        *_linear(vision.project_down),
    ]
    with torch.no_grad():
        return np.concatenate([part.detach().numpy().ravel() for part in parts]).astype(np.float32)


def _linear(*layers: nn.Linear) -> list[Tensor]:
    """Layers of the same input as one: weight (inputs, all outputs) and, where they have one, bias."""
    weight = torch.cat([layer.weight.detach() for layer in layers]).T
    biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
    return [weight, torch.cat(biases)] if biases else [weight]


def _norm(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.weight, layer.bias
