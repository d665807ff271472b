"""Idefics3, small: a grid of 28-pixel tiles of four tokens, then the whole image."""

from pathlib import Path
from typing import Any

from transformers import Idefics3Config, Idefics3ForConditionalGeneration
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from hf.checkpoints import (
    END_ID,
    PAD_ID,
    byte_tokenizer,
    chat_template,
    random_weights,
    write_checkpoint,
)

TILE, PATCH, SCALE = 28, 7, 2
TILE_TOKENS = (TILE // PATCH // SCALE) ** 2
SIDE = 4  # tiles along the longer side of an image, by default
LAYOUT = (
    "<end_of_utterance>",
    "<fake_token_around_image>",
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
)


def build(directory: Path, **text: Any) -> None:
    """Write a checkpoint of Idefics3; `text` changes the text model's configuration."""
    write(
        directory,
        "Idefics3",
        Idefics3ForConditionalGeneration,
        Idefics3Config,
        Idefics3ImageProcessorPil,
        text,
    )


def write(
    directory: Path, name: str, model: Any, configuration: Any, processor: Any, text: dict[str, Any]
) -> None:
    """Write a checkpoint of either family from its classes."""
    tokenizer = byte_tokenizer(
        LAYOUT, image_token="<image>", fake_image_token=LAYOUT[1], global_image_token=LAYOUT[2]
    )
    vision_options = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": TILE,
        "patch_size": PATCH,
    }
    text_options = {
        "model_type": "llama",
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
    config = configuration(
        vision_config=vision_options,
        text_config=text_options,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=SCALE,
        pad_token_id=PAD_ID,
    )
    write_checkpoint(
        directory,
        model=random_weights(model, config),
        tokenizer=tokenizer,
        image_processor=processor(
            size={"longest_edge": SIDE * TILE}, max_image_size={"longest_edge": TILE}, do_image_splitting=True
        ),
        processor={"processor_class": f"{name}Processor", "image_seq_len": TILE_TOKENS},
        template=chat_template("<image>"),
    )
