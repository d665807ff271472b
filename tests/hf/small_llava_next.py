"""LLaVA-NeXT, small: a base tile, then a grid of two to four 28-pixel tiles of 16 tokens each."""

from pathlib import Path
from typing import Any

from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from hf.checkpoints import (
    END_ID,
    PAD_ID,
    byte_tokenizer,
    chat_template,
    random_weights,
    write_checkpoint,
)

TILE, PATCH = 28, 7
GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))  # rows x columns, as in the released checkpoints
PINPOINTS = [[rows * TILE, columns * TILE] for rows, columns in GRIDS]


def build(directory: Path, **text: Any) -> None:
    """Write the checkpoint; `text` changes the text model's configuration."""
    tokenizer = byte_tokenizer(image_token="<image>")
    vision_options = {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": TILE,
        "patch_size": PATCH,
        "projection_dim": 32,
    }
    text_options = {
        "model_type": "mistral",
        "hidden_size": 32,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "vocab_size": len(tokenizer),
        "eos_token_id": END_ID,
        "pad_token_id": PAD_ID,
        "sliding_window": None,
        **text,
    }
    config = LlavaNextConfig(
        vision_config=vision_options,
        text_config=text_options,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=(TILE // PATCH) ** 2,
    )
    write_checkpoint(
        directory,
        model=random_weights(LlavaNextForConditionalGeneration, config),
        tokenizer=tokenizer,
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": TILE},
            crop_size={"height": TILE, "width": TILE},
            image_grid_pinpoints=PINPOINTS,
        ),
        processor={
            "processor_class": "LlavaNextProcessor",
            "patch_size": PATCH,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,  # the class token of the tower
        },
        template=chat_template("<image>"),
    )
