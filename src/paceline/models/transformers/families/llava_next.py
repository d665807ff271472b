"""LLaVA-NeXT: the whole image as the base tile, then a grid of tiles whose shape is one of the checkpoint's."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from paceline.models.transformers.family import Family, ImageCount

STEPS = (1, 2, 3, 4, 6, 9, 16, 25, 36)


class LlavaNext(Family):
    """Tiles of the grid. The overview is the base tile, first in the tower and the same under every option.

    The processor has no option for it, and the model reads the grid from the size of the image: an image that would get
    more tiles is resized to what fills the best grid within the option. Its tiles are then those that the processor
    would make of the image itself if it knew these grids only; the base tile is made from the image as it came.
    """

    name = "LLaVA-NeXT"
    model_types = ("llava_next",)
    image_knob = "max_tiles"
    image_unit = "tiles"
    overview_position = "first"
    overview_note = "base tile, exactly reused"

    def image_options(self, processor: Any) -> tuple[int, ...]:
        """Sizes of the checkpoint's grids, at most nine of them."""
        sizes = sorted({tiles for _, tiles in self._grids(processor)})
        return tuple(size for size in sizes if size in (*STEPS, sizes[0], sizes[-1]))

    def prepare(self, processor: Any, image: Image.Image, option: int | None) -> Image.Image:
        height, width = self._prepared(processor, (image.height, image.width), option)
        if (height, width) == (image.height, image.width):
            return image
        return image.resize((width, height), processor.image_processor.resample)

    def finish(
        self,
        processor: Any,
        images: Sequence[Image.Image],
        inputs: dict[str, Any],
        option: int | None,
        overviews: Sequence[Tensor | None] | None,
    ) -> dict[str, Any]:
        if overviews is None:
            return inputs
        pixels = inputs["pixel_values"].clone()
        for index, base in enumerate(overviews):
            if base is not None:
                pixels[index, 0] = base[0].to(pixels)
        return {**inputs, "pixel_values": pixels}

    def overview_image(self, processor: Any, image: Image.Image) -> Image.Image:
        """The base tile itself: the grid beside it, which no overview needs, costs no pass over a large image then."""
        side = self._side(processor)
        return image.resize((side, side), processor.image_processor.resample)

    def count(self, processor: Any, size: tuple[int, int], option: int | None) -> ImageCount:
        prepared = self._prepared(processor, size, option)
        side = self._side(processor)
        tokens = processor._get_number_of_features(*prepared, side, side)
        if processor.vision_feature_select_strategy == "default":
            tokens -= 1  # the class token
        grid = self._best(prepared, [grid for grid, _ in self._grids(processor)])
        return ImageCount(
            tiles=1 + (grid[0] // side) * (grid[1] // side), vision_tokens=tokens, layout_tokens=tokens
        )

    def tiles(self, inputs: Mapping[str, Any]) -> int:
        return inputs["pixel_values"].shape[1]

    def tower(self, model: Any) -> nn.Module:
        return model.base_model.vision_tower

    def encode_overview(
        self, model: Any, inputs: Mapping[str, Any], encode: Callable[[Mapping[str, Any]], Any]
    ) -> Any:
        """The base tile alone: the model itself would want its grid too."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        layer = model.config.vision_feature_layer
        seen = model.base_model.vision_tower(
            inputs["pixel_values"][:, 0], output_hidden_states=layer, return_dict=True
        )
        layers = [layer] if isinstance(layer, int) else layer
        features = torch.cat([seen.hidden_states[index] for index in layers], dim=-1)
        if model.config.vision_feature_select_strategy == "default":
            features = features[:, 1:]
        return BaseModelOutputWithPooling(pooler_output=model.base_model.multi_modal_projector(features))

    def _side(self, processor: Any) -> int:
        """Pixels along a tile."""
        return processor.image_processor.crop_size["height"]

    def _grids(self, processor: Any) -> list[tuple[tuple[int, int], int]]:
        """(height, width) in pixels of every grid and its number of tiles."""
        side = self._side(processor)
        grids = [tuple(grid) for grid in processor.image_processor.image_grid_pinpoints]
        return [((height, width), (height // side) * (width // side)) for height, width in grids]

    def _prepared(self, processor: Any, size: tuple[int, int], option: int | None) -> tuple[int, int]:
        """(height, width) of the image under which the processor stays within the option."""
        grids = self._grids(processor)
        best = self._best(size, [grid for grid, _ in grids])
        if option is None or dict(grids)[best] <= option:
            return size
        best = self._best(size, [grid for grid, tiles in grids if tiles <= option])
        (height, width), (most_height, most_width) = size, best
        if most_width / width < most_height / height:
            return min(math.ceil(height * most_width / width), most_height), most_width
        return most_height, min(math.ceil(width * most_height / height), most_width)

    def _best(self, size: tuple[int, int], grids: list[tuple[int, int]]) -> tuple[int, int]:
        from transformers.image_processing_utils import select_best_resolution

        return tuple(select_best_resolution(size, grids))


FAMILY = LlavaNext()
