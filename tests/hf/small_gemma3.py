"""Gemma 3, small: the whole image at 28 pixels, then up to four crops along its longer side, four tokens each."""

from pathlib import Path
from typing import Any

from transformers import Gemma3Config, Gemma3ForConditionalGeneration
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from hf.checkpoints import (
    END_ID,
    PAD_ID,
    byte_tokenizer,
    chat_template,
    random_weights,
    write_checkpoint,
)

TILE, PATCH = 28, 7
TILE_TOKENS = 4
LEAST_SIDE = 16  # of a crop, in pixels
LAYERS = ("sliding_attention", "sliding_attention", "full_attention")


def build(directory: Path, **text: Any) -> None:
    """Write the checkpoint; `text` changes the text model's configuration."""
    tokenizer = byte_tokenizer(
        boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>"
    )
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
        "hidden_size": 32,
        "num_hidden_layers": 6,
        "layer_types": list(LAYERS * 2),
        "tie_word_embeddings": False,
        "sliding_window": 16,  # shorter than a prompt, so that both kinds of attention matter
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "intermediate_size": 64,
        "vocab_size": len(tokenizer),
        "eos_token_id": END_ID,
        "pad_token_id": PAD_ID,
        **text,
    }
    config = Gemma3Config(
        vision_config=vision_options,
        text_config=text_options,
        mm_tokens_per_image=TILE_TOKENS,
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        tie_word_embeddings=False,  # a tied random head repeats the last token
    )
    write_checkpoint(
        directory,
        model=random_weights(Gemma3ForConditionalGeneration, config),
        tokenizer=tokenizer,
        image_processor=Gemma3ImageProcessorPil(
            size={"height": TILE, "width": TILE}, pan_and_scan_min_crop_size=LEAST_SIDE
        ),
        processor={"processor_class": "Gemma3Processor", "image_seq_length": TILE_TOKENS},
        template=chat_template("<start_of_image>"),
    )
