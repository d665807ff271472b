"""Molmo2, small: the whole image at 56 pixels, then up to six overlapping crops; 2 x 2 patches pooled into a token."""

from pathlib import Path
from typing import Any

from transformers import Molmo2Config, Molmo2ForConditionalGeneration
from transformers.models.molmo2.image_processing_molmo2 import Molmo2ImageProcessor

from hf.checkpoints import (
    END_ID,
    PAD_ID,
    byte_tokenizer,
    chat_template,
    random_weights,
    write_checkpoint,
)

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
        image_processor=Molmo2ImageProcessor(  # it can be made and saved without torchvision, but not run
            size={"height": CROP, "width": CROP},
            patch_size=PATCH,
            overlap_margins=[MARGIN, MARGIN],
            max_crops=MAX_CROPS,
        ),
        processor={"processor_class": "Molmo2Processor"},
        template=chat_template("<|image|>"),
    )
