"""InternVL, small: four 28-pixel tiles of four tokens at most by default, two vision blocks, six text blocks."""

from pathlib import Path
from typing import Any

from transformers import InternVLConfig, InternVLForConditionalGeneration
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from hf.checkpoints import (
    END_ID,
    PAD_ID,
    byte_tokenizer,
    chat_template,
    random_weights,
    write_checkpoint,
)

TILE, PATCH = 28, 7
TILE_TOKENS = 4  # 4 x 4 patches, each 2 x 2 of them joined


def build(directory: Path, **text: Any) -> None:
    """Write the checkpoint; `text` changes the text model's configuration."""
    tokenizer = byte_tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    vision_options = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": [TILE, TILE],
        "patch_size": [PATCH, PATCH],
        "layer_scale_init_value": 1.0,
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
    config = InternVLConfig(
        vision_config=vision_options,
        text_config=text_options,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=TILE_TOKENS,
    )
    write_checkpoint(
        directory,
        model=random_weights(InternVLForConditionalGeneration, config),
        tokenizer=tokenizer,
        image_processor=GotOcr2ImageProcessorPil(
            size={"height": TILE, "width": TILE}, crop_to_patches=True, min_patches=1, max_patches=6
        ),
        processor={"processor_class": "InternVLProcessor", "image_seq_length": TILE_TOKENS},
        template=chat_template("<IMG_CONTEXT>"),
    )
