"""Molmo2: the whole image at low resolution, then overlapping crops; patches are pooled into tokens across crops."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from paceline.errors import ModelError
from paceline.models.transformers.family import Family, ImageCount


class Molmo2(Family):
    """Crops beside the whole image, of which there is always at least one. Dense: no experts.

    The overview is the whole image, first in the tower and the same under every option; it is made alone, without the
    one crop that the cheapest option adds. Without torchvision the image processor's two calls of it are made by torch.
    """

    name = "Molmo2"
    model_types = ("molmo2",)
    image_knob = "max_crops"
    image_unit = "crops"
    overview_position = "first"
    overview_note = "the whole image, first crop, exactly reused"

    def image_processor_class(self) -> Any:
        return with_torch()

    def image_options(self, processor: Any) -> tuple[int, ...]:
        most = processor.image_processor.max_crops
        return tuple(sorted({1, *(crops for crops in (2, 4, 6, 8, 12) if crops < most), most}))

    def image_kwargs(self, processor: Any, option: int | None) -> dict[str, Any]:
        return {} if option is None else {"max_crops": option}

    def count(self, processor: Any, size: tuple[int, int], option: int | None) -> ImageCount:
        shape, crops = processor.image_processor.get_image_grid_and_crops(
            *size, self.image_kwargs(processor, option)
        )
        low_rows, low_columns, rows, columns = shape
        ends = bool(processor.image_use_col_tokens)  # of every row of tokens
        low_ends = processor.use_single_crop_col_tokens
        low_ends = ends if low_ends is None else bool(low_ends)
        tokens = low_rows * low_columns + rows * columns
        separators = 4 + low_ends * low_rows + ends * rows  # a start and an end for each of the two parts
        return ImageCount(tiles=crops, vision_tokens=tokens, layout_tokens=tokens + separators)

    def tiles(self, inputs: Mapping[str, Any]) -> int:
        return len(inputs["pixel_values"])

    def tower(self, model: Any) -> nn.Module:
        return model.base_model.vision_tower

    def encode_overview(
        self, model: Any, inputs: Mapping[str, Any], encode: Callable[[Mapping[str, Any]], Any]
    ) -> Any:
        """The whole image alone, as an image without crops."""
        rows, columns = inputs["image_grids"][0, :2].tolist()
        shape = torch.tensor([[rows, columns, 0, 0]], device=inputs["image_grids"].device)
        return encode(
            {
                "pixel_values": inputs["pixel_values"][:1],
                "image_token_pooling": inputs["image_token_pooling"][: rows * columns],
                "image_grids": shape,
            }
        )


@cache
def with_torch() -> Any:
    """The image processor of transformers with torch in the two places where it calls torchvision."""
    from transformers.models.molmo2.image_processing_molmo2 import Molmo2ImageProcessor

    class TorchMolmo2ImageProcessor(Molmo2ImageProcessor):
        def resize(
            self, image: Tensor, size: Any, resample: Any = None, antialias: bool = True, **kwargs: Any
        ) -> Tensor:
            if resample not in (None, Image.Resampling.BILINEAR):
                raise ModelError(
                    f"Molmo2's image processor: resample {resample!r}, expected {Image.Resampling.BILINEAR!r} "
                    "(bilinear); install torchvision for others"
                )
            shape = (size.height, size.width)
            return functional.interpolate(
                image, shape, mode="bilinear", antialias=antialias, align_corners=False
            )

        def normalize(
            self, image: Tensor, mean: Any, std: Any, inplace: bool = False, **kwargs: Any
        ) -> Tensor:
            shift, scale = (
                torch.as_tensor(value, dtype=image.dtype, device=image.device)[:, None, None]
                for value in (mean, std)
            )
            return (image - shift) / scale

    return TorchMolmo2ImageProcessor


FAMILY = Molmo2()
