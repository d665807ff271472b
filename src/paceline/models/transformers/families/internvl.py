"""InternVL: square tiles of the image, then the whole image once more as the last tile."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from paceline.models.transformers.family import Family, ImageCount


class InternVL(Family):
    """Tiles by aspect ratio; the overview is the last tile, with the pixels of the image at one tile."""

    name = "InternVL"
    model_types = ("internvl",)
    image_knob = "max_tiles"
    image_unit = "tiles"
    overview_position = "last"
    overview_note = "last tile, exactly reused"

    def image_options(self, processor: Any) -> tuple[int, ...]:
        most = processor.image_processor.max_patches
        return tuple(sorted({1, *(tiles for tiles in (2, 4, 6, 8, 12) if tiles < most), most}))

    def image_kwargs(self, processor: Any, option: int | None) -> dict[str, Any]:
        most = processor.image_processor.max_patches if option is None else option
        return {"crop_to_patches": True, "min_patches": 1, "max_patches": most}

    def count(self, processor: Any, size: tuple[int, int], option: int | None) -> ImageCount:
        kwargs = self.image_kwargs(processor, option)
        tiles = processor.image_processor.get_number_of_image_patches(*size, kwargs)
        tokens = processor.image_seq_length * tiles
        return ImageCount(
            tiles=tiles, vision_tokens=tokens, layout_tokens=tokens + 2
        )  # between <img> and </img>

    def tiles(self, inputs: Mapping[str, Any]) -> int:
        return len(inputs["pixel_values"])

    def tower(self, model: Any) -> nn.Module:
        return model.base_model.vision_tower


FAMILY = InternVL()
