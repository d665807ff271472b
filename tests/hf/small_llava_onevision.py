"""LLaVA-OneVision, small: a base tile, then a grid of up to six 28-pixel tiles of 16 tokens each."""

from pathlib import Path
from typing import Any

from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)

from hf.checkpoints import (
    END_ID,
    PAD_ID,
    byte_tokenizer,
    chat_template,
    random_weights,
    write_checkpoint,
)

TILE, PATCH = 28, 7
TILE_TOKENS = (TILE // PATCH) ** 2
GRIDS = ((1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2))  # rows x columns
PINPOINTS = [[rows * TILE, columns * TILE] for rows, columns in GRIDS]
ASPECT = "anyres_max_4"  # beyond so many tiles of tokens, tokens are interpolated down to them


def build(directory: Path, **text: Any) -> None:
    """Write the checkpoint; `text` changes the text model's configuration."""
    tokenizer = byte_tokenizer(image_token="<image>", video_token="<video>")
    vision_options = {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": TILE,
        "patch_size": PATCH,
        "vision_use_head": False,
    }
    text_options = {
        "model_type": "qwen2",
        "hidden_size": 32,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "vocab_size": len(tokenizer),
        "eos_token_id": END_ID,
        "pad_token_id": PAD_ID,
        **text,
    }
    config = LlavaOnevisionConfig(
        vision_config=vision_options,
        text_config=text_options,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=PINPOINTS,
        vision_aspect_ratio=ASPECT,
    )
    write_checkpoint(
        directory,
        model=random_weights(LlavaOnevisionForConditionalGeneration, config),
        tokenizer=tokenizer,
        image_processor=LlavaOnevisionImageProcessorPil(
            size={"height": TILE, "width": TILE}, image_grid_pinpoints=PINPOINTS
        ),
        processor={
            "processor_class": "LlavaOnevisionProcessor",
            "num_image_tokens": TILE_TOKENS,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": ASPECT,
        },
        template=chat_template("<image>"),
    )
