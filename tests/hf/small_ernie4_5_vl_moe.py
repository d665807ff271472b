"""A small Ernie 4.5 VL of the real class, as the hub lays it out."""

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

NAMED = {
    "image_token": "<|IMAGE_PLACEHOLDER|>",
    "image_start_token": "<|IMAGE_START|>",
    "image_end_token": "<|IMAGE_END|>",
    "video_token": "<|VIDEO_PLACEHOLDER|>",
    "video_start_token": "<|VIDEO_START|>",
    "video_end_token": "<|VIDEO_END|>",
}
PLACEHOLDER = "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>"
CELL = 14 * 14  # pixels of one image token: 2 x 2 patches of 7 x 7


def build(directory: Path, **changes: Any) -> None:
    """Write the checkpoint; `changes` go to the text configuration. Images become 4 to 36 tokens by default.

    Block 0 is dense; the others have a router and 8 experts for text and the same for what is seen.
    """
    from transformers import Ernie4_5_VLMoeConfig, Ernie4_5_VLMoeForConditionalGeneration
    from transformers.models.ernie4_5_vl_moe.image_processing_pil_ernie4_5_vl_moe import (
        Ernie4_5_VLMoeImageProcessorPil,
    )

    tokenizer = byte_tokenizer(**NAMED)
    text = {
        "hidden_size": 32,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "moe_intermediate_size": [16, 24],
        "moe_k": 4,
        "moe_num_experts": 8,
        "moe_num_shared_experts": 1,
        "vocab_size": len(tokenizer),
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
        "eos_token_id": END_ID,
        "pad_token_id": PAD_ID,
        **changes,
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 7,
    }
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in NAMED.items()}
    config = Ernie4_5_VLMoeConfig(text_config=text, vision_config=vision, **ids)
    model = random_weights(Ernie4_5_VLMoeForConditionalGeneration, config)
    images = Ernie4_5_VLMoeImageProcessorPil(
        patch_size=7, size={"shortest_edge": 4 * CELL, "longest_edge": 36 * CELL}
    )
    write_checkpoint(
        directory,
        model=model,
        tokenizer=tokenizer,
        image_processor=images,
        processor={"processor_class": "Ernie4_5_VLMoeProcessor"},
        template=chat_template(PLACEHOLDER),
    )
