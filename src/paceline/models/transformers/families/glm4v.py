"""GLM-4V, dense: one image of a variable number of pixels."""

from typing import Any

from paceline.models.transformers.families.qwen2_5_vl import Qwen25VL, pixel_limits
from paceline.models.transformers.family import ImageCount


class Glm4V(Qwen25VL):
    """An image is doubled into frames before patches are cut, and the processor's limits count the pixels of all
    frames. The knob counts those of the image, as in the other families."""

    name = "GLM-4V"
    model_types = ("glm4v",)

    def image_range(self, processor: Any) -> tuple[int, int]:
        least, most = pixel_limits(processor)
        frames = _frames(processor)
        return -(-least // frames), most // frames

    def image_kwargs(self, processor: Any, option: int | None) -> dict[str, Any]:
        least, most = pixel_limits(processor)
        if option is not None and option != self.image_range(processor)[1]:
            most = option * _frames(processor)
        return {"size": {"shortest_edge": least, "longest_edge": most}}

    def count(self, processor: Any, size: tuple[int, int], option: int | None) -> ImageCount:
        kwargs = self.image_kwargs(processor, option)
        patches = processor.image_processor.get_number_of_image_patches(*size, kwargs)
        tokens = patches // processor.image_processor.merge_size**2
        return ImageCount(tiles=1, vision_tokens=tokens, layout_tokens=tokens)


def _frames(processor: Any) -> int:
    return processor.image_processor.temporal_patch_size


FAMILY = Glm4V()
