"""Idefics3: a grid of square tiles, the longer side of the image in front, then the whole image once more."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from PIL import Image
from torch import Tensor, nn

from paceline.models.transformers.family import Family, ImageCount

MOST_PIXELS = 4096  # along a side, as the processor has it


class Idefics3(Family):
    """Tiles of the grid: the image is resized to as many along its longer side as the square root of the option.

    The overview is the image at option 1, where nothing is split. A processor that splits makes its last tile from the
    resized image instead; here the overview takes that place, so that it is reused under every option. The pixels
    differ by an interpolation: on photographs by less than half a level of 255 on average, by less than ten anywhere.
    """

    name = "Idefics3"
    model_types = ("idefics3",)
    image_knob = "max_tiles"
    image_unit = "tiles"
    overview_position = "last"
    overview_note = "last tile, made from the image itself instead of its resized copy; then exactly reused"

    def image_options(self, processor: Any) -> tuple[int, ...]:
        return tuple(side**2 for side in range(1, self._most(processor) + 1))

    def default_option(self, processor: Any) -> int:
        return self._most(processor) ** 2 if processor.image_processor.do_image_splitting else 1

    def image_kwargs(self, processor: Any, option: int | None) -> dict[str, Any]:
        side = self._along(processor, option)
        if side == 1:
            return {"do_image_splitting": False}
        return {"do_image_splitting": True, "size": {"longest_edge": side * self._tile(processor)}}

    def finish(
        self,
        processor: Any,
        images: Sequence[Image.Image],
        inputs: dict[str, Any],
        option: int | None,
        overviews: Sequence[Tensor | None] | None,
    ) -> dict[str, Any]:
        pixels = inputs["pixel_values"].clone()
        for index, image in enumerate(images):
            overview = overviews[index] if overviews is not None else None
            if overview is not None:
                last = self.count(processor, (image.height, image.width), option).tiles - 1
                pixels[index, last] = overview[0].to(pixels)
        return {**inputs, "pixel_values": pixels}

    def count(self, processor: Any, size: tuple[int, int], option: int | None) -> ImageCount:
        side = self._along(processor, option)
        rows, columns = (0, 0) if side == 1 else grid(size, side, self._tile(processor))
        tiles = rows * columns + 1
        return ImageCount(
            tiles=tiles,
            vision_tokens=tiles * processor.image_seq_len,
            layout_tokens=layout_tokens(processor, rows, columns),
        )

    def tiles(self, inputs: Mapping[str, Any]) -> int:
        return inputs["pixel_values"].shape[1]

    def batch_images(self, images: Sequence[Image.Image]) -> Any:
        return [[image] for image in images]

    def tower(self, model: Any) -> nn.Module:
        return model.base_model.vision_model

    def _tile(self, processor: Any) -> int:
        return processor.image_processor.max_image_size["longest_edge"]

    def _most(self, processor: Any) -> int:
        return max(1, processor.image_processor.size["longest_edge"] // self._tile(processor))

    def _along(self, processor: Any, option: int | None) -> int:
        """Tiles along the longer side."""
        return math.isqrt(self.default_option(processor) if option is None else option)


def grid(size: tuple[int, int], side: int, tile: int) -> tuple[int, int]:
    """Rows and columns of an image of (height, width) pixels with `side` tiles along its longer side.

    >>> grid((300, 400), 4, 364), grid((1000, 300), 2, 364)
    ((3, 4), (2, 1))
    """
    height, width = size
    ratio, longest = width / height, side * tile
    if width >= height:
        height, width = int(longest / ratio), longest
        height += height % 2
        if width > MOST_PIXELS:
            height, width = int(MOST_PIXELS / (width / height)), MOST_PIXELS
    else:
        height, width = longest, int(longest * ratio)
        width += width % 2
        if height > MOST_PIXELS:
            height, width = MOST_PIXELS, int(MOST_PIXELS * (width / height))
    height, width = max(height, 1), max(width, 1)
    ratio = width / height
    if width >= height:
        columns = math.ceil(width / tile)
        rows = math.ceil(int(columns * tile / ratio) / tile)
    else:
        rows = math.ceil(height / tile)
        columns = math.ceil(int(rows * tile * ratio) / tile)
    return max(rows, 1), max(columns, 1)


@lru_cache(maxsize=256)
def layout_tokens(processor: Any, rows: int, columns: int) -> int:
    """Tokens that stand for an image, whatever the tokenizer makes of the text between its tiles."""
    text = processor.replace_image_token({"rows": [[rows]], "cols": [[columns]]}, 0)
    tile = processor.image_token
    short = text.replace(tile * processor.image_seq_len, tile)  # the same text, quicker to count
    found = processor.tokenizer.backend_tokenizer.encode(short, add_special_tokens=False)
    return len(found.ids) + (rows * columns + 1) * (processor.image_seq_len - 1)


FAMILY = Idefics3()
