"""Molmo2, small: the whole image at 56 pixels, then up to six overlapping crops; 2 x 2 patches pooled into a token."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, Molmo2Config, Molmo2ForConditionalGeneration, Molmo2Processor
from transformers.models.molmo2.image_processing_molmo2 import Molmo2ImageProcessor

from hf.checkpoints import (
    END_ID,
    PAD_ID,
    byte_tokenizer,
    chat_template,
    random_weights,
    write_checkpoint,
)
from paceline.models.transformers.processors import _images_only

CROP, PATCH, MARGIN = 56, 7, 1
MAX_CROPS = 6
LAYOUT = (
    "<im_patch>",
    "<im_col>",
    "<im_start>",
    "<low_res_im_start>",
    "<frame_start>",
    "<im_end>",
    "<frame_end>",
    "<im_low>",
)


class TorchMolmo2ImageProcessor(Molmo2ImageProcessor):
    """The real image processor with torch in the two places where it calls torchvision."""

    def resize(
        self, image: Tensor, size: Any, resample: Any = None, antialias: bool = True, **kwargs: Any
    ) -> Tensor:
        shape = (size.height, size.width)
        return functional.interpolate(image, shape, mode="bilinear", antialias=antialias, align_corners=False)

    def normalize(self, image: Tensor, mean: Any, std: Any, inplace: bool = False, **kwargs: Any) -> Tensor:
        shift, scale = (torch.as_tensor(value, dtype=image.dtype)[:, None, None] for value in (mean, std))
        return (image - shift) / scale


def build(directory: Path, **text: Any) -> None:
    """Write the checkpoint; `text` changes the text model's configuration."""
    tokenizer = byte_tokenizer(LAYOUT, image_token="<|image|>", video_token="<|video|>")
    identity = tokenizer.convert_tokens_to_ids
    text_options = {
        "hidden_size": 32,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 64,
        "vocab_size": len(tokenizer),
        "additional_vocab_size": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "eos_token_id": END_ID,
        "pad_token_id": PAD_ID,
        **text,
    }
    vision_options = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "image_size": [CROP, CROP],
        "patch_size": PATCH,
    }
    adapter_options = {
        "vision_feature_layer": [2, 0],
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 64,
        "text_hidden_size": 32,
    }
    config = Molmo2Config(
        vision_config=vision_options,
        adapter_config=adapter_options,
        text_config=text_options,
        image_start_token_id=identity("<im_start>"),
        low_res_image_start_token_id=identity("<low_res_im_start>"),
        image_end_token_id=identity("<im_end>"),
        image_patch_id=identity("<im_patch>"),
        frame_start_token_id=identity("<frame_start>"),
        frame_end_token_id=identity("<frame_end>"),
    )
    write_checkpoint(
        directory,
        model=random_weights(Molmo2ForConditionalGeneration, config),
        tokenizer=tokenizer,
        image_processor=image_processor(Molmo2ImageProcessor),
        processor={"processor_class": "Molmo2Processor"},
        template=chat_template("<|image|>"),
    )


def image_processor(kind: type[Molmo2ImageProcessor] = TorchMolmo2ImageProcessor) -> Molmo2ImageProcessor:
    """The checkpoint's image processor; the real one can be made without torchvision, but not run."""
    return kind(
        size={"height": CROP, "width": CROP},
        patch_size=PATCH,
        overlap_margins=[MARGIN, MARGIN],
        max_crops=MAX_CROPS,
    )


def processor(directory: Path) -> Any:
    """The real processor of the checkpoint, for images only."""
    kind: Any = _images_only(Molmo2Processor)
    template = (directory / "chat_template.jinja").read_text()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    return kind(image_processor=image_processor(), tokenizer=tokenizer, chat_template=template)
