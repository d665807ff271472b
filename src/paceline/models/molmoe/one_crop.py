"""The vision tower for one crop in compiled code: what an overview takes of a small model."""

import logging
from importlib import import_module
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from paceline.models.molmoe.options import MolmoEOptions
from paceline.models.molmoe.vision import QUICK, VisionTower, VitBlock

MOST_WEIGHTS = 1 << 20
"""Numbers in a tower up to which starting torch's operations takes longer than what they compute."""
LANES = 16
"""Widths are multiples of it."""

_WRITES = attrgetter("_version")

logger = logging.getLogger(__name__)


class OneCrop:
    """`VisionTower` for one crop, in float32 on a CPU. Immutable; any number of threads may use it at once.

    Its weights are a copy, which writes through a parameter's `data` go past: see `is_current`.
    """

    def __init__(self, vision: VisionTower, kernels: str | None = None) -> None:
        """Copy the weights of a tower that it `serves`.

        `kernels`: by the numbers in a vector, "sixteens" or "eights"; by default the widest that the processor has.

        Raises:
            ImportError: installed without a C compiler, or on a processor without such vectors.
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
        self._state = self._seen()
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
        """The kernels that this installation and processor have, the widest first; none without a C compiler."""
        try:
            return import_module("paceline.models.molmoe._one_crop").kernels()
        except ImportError:
            return ()

    @staticmethod
    def serves(vision: VisionTower) -> bool:
        """Whether a tower is small, in float32, on a CPU, and of widths that fill vectors."""
        options, weight = vision.options, vision.class_embedding
        return (
            weight.device.type == "cpu"
            and weight.dtype == torch.float32
            and not weight.is_inference()
            and sum(parameter.numel() for parameter in vision.parameters()) <= MOST_WEIGHTS
            and _fills(options)
        )

    def is_current(self) -> bool:
        """Whether the tower still has the weights that were copied: in the same place, not written to since."""
        return self._state == self._seen()

    def _seen(self) -> tuple[int, int]:
        # Counts of writes only rise, so their sum tells as much as all; after a model ran every line of Python is slow.
        return self._parameters[0].data_ptr(), sum(map(_WRITES, self._parameters))

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
        self._kept: tuple[VisionTower, torch.device, torch.dtype, OneCrop | None] | None = None

    def of(self, vision: VisionTower) -> OneCrop | None:
        """None for a tower that nothing compiled serves."""
        kept, weight = self._kept, vision.class_embedding
        if kept is not None and kept[0] is vision and kept[1] == weight.device and kept[2] == weight.dtype:
            found = kept[3]
            if found is None or found.is_current():
                return found
        found = _compiled(vision)
        self._kept = vision, weight.device, weight.dtype, found
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
        and options.grid % 2 == 0
    )


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
