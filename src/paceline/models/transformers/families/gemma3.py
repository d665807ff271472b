"""Gemma 3: the whole image at a fixed number of tokens, then crops along its longer side ("pan and scan")."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from PIL import Image
from torch import nn

from paceline.models.transformers.family import Family, ImageCount

LEAST_SIDE, MOST_CROPS, LEAST_RATIO = 256, 4, 1.2
"""Of pan and scan, where the checkpoint names nothing else: the processor's own."""


class Gemma3(Family):
    """Crops of an elongated image; the processor's own default is option 1, the whole image alone.

    The overview is the whole image, first in the tower. Images whose sides are alike (ratio under 1.2) get no crops
    under any option. Always kept: block 0, which attends to a sliding window, and the first that attends to everything.
    """

    name = "Gemma 3"
    model_types = ("gemma3",)
    image_knob = "max_crops"
    image_unit = "crops"
    overview_position = "first"
    overview_note = "the whole image, first crop, exactly reused"

    def image_options(self, processor: Any) -> tuple[int, ...]:
        return tuple(range(1, self._most(processor) + 1))

    def default_option(self, processor: Any) -> int:
        return 1

    def image_kwargs(self, processor: Any, option: int | None) -> dict[str, Any]:
        if option is None or option == 1:  # one crop of everything would be the image twice
            return {"do_pan_and_scan": False}
        least, ratio = self._limits(processor)
        return {
            "do_pan_and_scan": True,
            "pan_and_scan_max_num_crops": option,
            "pan_and_scan_min_crop_size": least,
            "pan_and_scan_min_ratio_to_activate": ratio,
        }

    def count(self, processor: Any, size: tuple[int, int], option: int | None) -> ImageCount:
        found = 0 if option is None else crops(size, option, *self._limits(processor))
        return ImageCount(
            tiles=found + 1,
            vision_tokens=(found + 1) * processor.image_seq_length,
            layout_tokens=layout_tokens(processor, self._before(processor), found),
        )

    def tiles(self, inputs: Mapping[str, Any]) -> int:
        return len(inputs["pixel_values"])

    def batch_images(self, images: Sequence[Image.Image]) -> Any:
        return [[image] for image in images]

    def tower(self, model: Any) -> nn.Module:
        return model.base_model.vision_tower

    def _most(self, processor: Any) -> int:
        return processor.image_processor.pan_and_scan_max_num_crops or MOST_CROPS

    def _limits(self, processor: Any) -> tuple[int, float]:
        """Least pixels along a crop and least ratio of the sides of an image that gets crops."""
        images = processor.image_processor
        return (
            images.pan_and_scan_min_crop_size or LEAST_SIDE,
            images.pan_and_scan_min_ratio_to_activate or LEAST_RATIO,
        )

    def _before(self, processor: Any) -> str:
        """The prompt before the image: its last token may swallow line breaks that the image's text begins with."""
        return self.prompt(processor, "?").partition(processor.boi_token)[0]


def crops(size: tuple[int, int], most: int, least_side: int, least_ratio: float) -> int:
    """Crops beside the whole image.

    >>> crops((300, 900), 4, 256, 1.2), crops((300, 900), 2, 256, 1.2), crops((300, 320), 4, 256, 1.2)
    (3, 2, 0)
    """
    short, long = sorted(size)
    if most == 1 or long / short < least_ratio:
        return 0
    wanted = min(math.floor(long / least_side), math.floor(long / short + 0.5))
    found = min(max(2, wanted), most)
    return 0 if min(math.ceil(long / found), short) < least_side else found


@lru_cache(maxsize=256)
def layout_tokens(processor: Any, before: str, crops: int) -> int:
    """Tokens that the image adds to the text before it."""
    text = processor.replace_image_token({"num_crops": [crops]}, 0)
    tile, length = processor.tokenizer.image_token, processor.image_seq_length
    short = text.replace(tile * length, tile)  # the same text, quicker to count
    encode = processor.tokenizer.backend_tokenizer.encode
    without = len(encode(before, add_special_tokens=False).ids)
    found = len(encode(before + short, add_special_tokens=False).ids)
    return found - without + (crops + 1) * (length - 1)


FAMILY = Gemma3()
