"""Llama 4: a grid of square tiles, then the whole image; a mixture whose experts all run, so no top_k."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

from torch import Tensor, nn

from paceline.models.transformers.family import Family, ImageCount


class Llama4(Family):
    """Tiles of the grid. The overview is the image at one tile, padded to a square.

    The last tile of a grid is the image stretched to a square instead: the two are the same for square images, which
    reuse the overview; other images are seen anew. The image processor needs torchvision. Always kept: block 0
    and the first that attends to everything.
    """

    name = "Llama 4"
    model_types = ("llama4",)
    image_knob = "max_tiles"
    image_unit = "tiles"
    overview_position = "last"
    overview_note = "the image at one tile, padded; reused there and by square images"
    routing_note = "a sigmoid per expert; every expert runs, those that are not chosen with weight 0"
    refused: ClassVar[Mapping[str, str]] = {
        "top_k": "every expert always runs, with weight 0 where it was not chosen, so fewer of them save no time"
    }

    def image_options(self, processor: Any) -> tuple[int, ...]:
        most = processor.image_processor.max_patches
        return tuple(sorted({1, *(tiles for tiles in (2, 4, 8, 12) if tiles < most), most}))

    def image_kwargs(self, processor: Any, option: int | None) -> dict[str, Any]:
        return {} if option is None else {"max_patches": option}

    def count(self, processor: Any, size: tuple[int, int], option: int | None) -> ImageCount:
        side = processor.image_processor.size["height"]
        most = processor.image_processor.max_patches if option is None else option
        rows, columns = grid(size, most, side)
        tiles = rows * columns + 1 if rows * columns > 1 else 1
        tokens = tiles * ((side // processor.patch_size) ** 2 // processor.downsample_ratio)
        separators = rows * columns if tiles > 1 else 0  # behind every tile of the grid
        return ImageCount(
            tiles=tiles,
            vision_tokens=tokens,
            layout_tokens=tokens + separators + 3,  # start, end and what announces the whole image
        )

    def tiles(self, inputs: Mapping[str, Any]) -> int:
        return len(inputs["pixel_values"])

    def blocks(self, model: Any) -> Sequence[nn.Module]:
        return model.language_model.model.layers

    def tower(self, model: Any) -> nn.Module:
        return model.vision_model

    def image_tokens(self, model: Any, encoded: Any) -> Tensor:
        """The projector runs after what the model calls image features."""
        features = encoded.last_hidden_state
        return model.multi_modal_projector(features.reshape(-1, features.shape[-1]))

    def experts(self, config: Any) -> int:
        return config.get_text_config().num_local_experts


@lru_cache(maxsize=1024)
def grid(size: tuple[int, int], most: int, side: int) -> tuple[int, int]:
    """Rows and columns of at most `most` tiles for an image of (height, width) pixels.

    The least enlargement that fits; where none does, the least reduction; of equal ones the smallest canvas.

    >>> grid((300, 400), 16, 336), grid((700, 300), 16, 336), grid((2000, 3000), 4, 336)
    ((1, 2), (3, 1), (2, 2))
    """
    height, width = size
    scales = {
        (rows, columns): min(columns * side / width, rows * side / height)
        for rows in range(1, most + 1)
        for columns in range(1, most // rows + 1)
    }
    larger = [scale for scale in scales.values() if scale >= 1]
    best = min(larger) if larger else max(scales.values())
    return min((shape for shape in scales if scales[shape] == best), key=lambda shape: shape[0] * shape[1])


FAMILY = Llama4()
