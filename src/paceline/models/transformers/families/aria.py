"""Aria: one view of 490 or 980 pixels, or several of 980; 64 experts, the weights of the chosen ones renormalised."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from paceline.models.transformers.family import Family, ImageCount

SMALL, LARGE = 490, 980
"""Sides of a view in pixels; the processor takes no other."""
MOST_VIEWS = 4


class Aria(Family):
    """Pixels of all views: a small one, a large one, or up to four large ones with no view of the whole image.

    The overview is the small view; it is reused where that is what was chosen, and seen anew at every other option. The
    processor's own default is the large view.
    """

    name = "Aria"
    model_types = ("aria",)
    image_knob = "max_pixels"
    image_unit = "pixels"
    overview_note = "the image at 490 pixels; reused there, seen anew at every other option"
    routing_note = "softmax over the chosen experts: their weights sum to 1 at every top_k"
    mixed_batches = False

    def image_options(self, processor: Any) -> tuple[int, ...]:
        return (SMALL**2, *(views * LARGE**2 for views in (1, 2, MOST_VIEWS)))

    def default_option(self, processor: Any) -> int:
        return LARGE**2

    def image_kwargs(self, processor: Any, option: int | None) -> dict[str, Any]:
        views = 1 if option is None else option // LARGE**2
        side = SMALL if views == 0 else LARGE
        if views < 2:
            return {"max_image_size": side, "split_image": False}
        shapes = [
            [height, width]
            for height, width in processor.image_processor.split_resolutions
            if -(-height // side) * -(-width // side) <= views
        ]
        return {"max_image_size": side, "split_image": True, "split_resolutions": shapes}

    def count(self, processor: Any, size: tuple[int, int], option: int | None) -> ImageCount:
        kwargs = self.image_kwargs(processor, option)
        views = processor.image_processor.get_number_of_image_patches(*size, kwargs)
        tokens = views * processor.size_conversion[kwargs["max_image_size"]]
        return ImageCount(tiles=views, vision_tokens=tokens, layout_tokens=tokens)

    def tiles(self, inputs: Mapping[str, Any]) -> int:
        return len(inputs["pixel_values"])

    def tower(self, model: Any) -> nn.Module:
        return model.base_model.vision_tower

    def experts(self, config: Any) -> int:
        return config.get_text_config().moe_num_experts


FAMILY = Aria()
