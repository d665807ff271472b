"""Qwen2.5-VL: one image of a variable number of pixels."""

from typing import Any

from PIL import Image
from torch import nn

from paceline.errors import ImageError
from paceline.models.transformers.family import Family, ImageCount

MOST_EXTREME = 200  # the processors' own limit of one side to the other


class Qwen25VL(Family):
    """The image is resized to at most so many pixels. The overview is the image at the fewest of them."""

    name = "Qwen2.5-VL"
    model_types = ("qwen2_5_vl",)
    image_knob = "max_pixels"
    image_unit = "pixels"
    overview_note = (
        "the image at the cheapest option; reused where the same pixels come again, else seen anew"
    )

    def image_options(self, processor: Any) -> tuple[int, ...]:
        """Fractions of the processor's most pixels in whole merged patches, a 32nd or its fewest first."""
        least, most = self.image_range(processor)
        cell = (processor.image_processor.patch_size * processor.image_processor.merge_size) ** 2
        shares = (most // part // cell * cell for part in (32, 16, 8, 4, 2))
        return tuple(sorted({*(max(pixels, least) for pixels in shares), most}))

    def image_range(self, processor: Any) -> tuple[int, int]:
        return pixel_limits(processor)

    def image_kwargs(self, processor: Any, option: int | None) -> dict[str, Any]:
        least, most = pixel_limits(processor)
        return {"size": {"shortest_edge": least, "longest_edge": most if option is None else option}}

    def prepare(self, processor: Any, image: Image.Image, option: int | None) -> Image.Image:
        """The image as it is; ImageError for a strip that the processor refuses."""
        if max(image.size) > MOST_EXTREME * min(image.size):
            raise ImageError(
                f"image: {image.width} x {image.height} pixels, expected one side at most {MOST_EXTREME} times the "
                "other; crop it first"
            )
        return image

    def count(self, processor: Any, size: tuple[int, int], option: int | None) -> ImageCount:
        limits = self.image_kwargs(processor, option)["size"]
        limits = {"min_pixels": limits["shortest_edge"], "max_pixels": limits["longest_edge"]}
        patches = processor.image_processor.get_number_of_image_patches(*size, limits)
        tokens = patches // processor.image_processor.merge_size**2
        return ImageCount(tiles=1, vision_tokens=tokens, layout_tokens=tokens)

    def tower(self, model: Any) -> nn.Module:
        return model.base_model.visual


def pixel_limits(processor: Any) -> tuple[int, int]:
    """Fewest and most pixels of an image, as the checkpoint has them."""
    size = processor.image_processor.size
    return size["shortest_edge"], size["longest_edge"]


FAMILY = Qwen25VL()
