"""A small Qwen2.5-VL of the real class, with random weights and a real processor, as the hub lays it out."""

from pathlib import Path
from typing import Any

from hf.checkpoints import (
    END_ID,
    PAD_ID,
    byte_tokenizer,
    chat_template,
    random_weights,
    write_checkpoint,
)

SPECIAL = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
PLACEHOLDER = "<|vision_start|><|image_pad|><|vision_end|>"
CELL = 14 * 14  # pixels of one image token: 2 x 2 patches of 7 x 7


def build(directory: Path, **changes: Any) -> None:
    """Write the checkpoint; `changes` go to the text configuration. Images become 4 to 36 tokens by default."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = byte_tokenizer(SPECIAL)
    text = {
        "hidden_size": 32,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "vocab_size": len(tokenizer),
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
        "bos_token_id": None,
        "eos_token_id": END_ID,
        "pad_token_id": PAD_ID,
        **changes,
    }
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 7,
        "window_size": 28,
        "fullatt_block_indexes": [1],
        "out_hidden_size": text["hidden_size"],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        **token_ids(tokenizer),
    )
    model = random_weights(Qwen2_5_VLForConditionalGeneration, config)
    images = Qwen2VLImageProcessorPil(
        patch_size=7, size={"shortest_edge": 4 * CELL, "longest_edge": 36 * CELL}
    )
    write_checkpoint(
        directory,
        model=model,
        tokenizer=tokenizer,
        image_processor=images,
        processor={"processor_class": "Qwen2_5_VLProcessor"},
        template=chat_template(PLACEHOLDER),
    )


def token_ids(tokenizer: Any) -> dict[str, int]:
    """The ids that the configuration of a Qwen VL model holds."""
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in TOKENS.items()}
