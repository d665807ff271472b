"""Aria, small: views of 490 or 980 pixels (its processor takes no other), four or eight tokens each, eight experts."""

from pathlib import Path
from typing import Any

from transformers import AriaConfig, AriaForConditionalGeneration
from transformers.models.aria.image_processing_pil_aria import AriaImageProcessorPil

from hf.checkpoints import (
    END_ID,
    PAD_ID,
    byte_tokenizer,
    chat_template,
    random_weights,
    write_checkpoint,
)

PATCH = 70
TOKENS = {490: 4, 980: 8}


def build(directory: Path, **text: Any) -> None:
    """Write the checkpoint; `text` changes the text model's configuration."""
    tokenizer = byte_tokenizer(image_token="<|img|>")
    vision_options = {
        "model_type": "idefics3_vision",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": max(TOKENS),
        "patch_size": PATCH,
    }
    text_options = {
        "hidden_size": 32,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 16,
        "moe_num_experts": 8,
        "moe_topk": 4,
        "moe_num_shared_experts": 1,
        "vocab_size": len(tokenizer),
        "eos_token_id": END_ID,
        "pad_token_id": PAD_ID,
        **text,
    }
    config = AriaConfig(
        vision_config=vision_options,
        text_config=text_options,
        image_token_index=tokenizer.convert_tokens_to_ids("<|img|>"),
        projector_patch_to_query_dict={(side // PATCH) ** 2: count for side, count in TOKENS.items()},
    )
    write_checkpoint(
        directory,
        model=random_weights(AriaForConditionalGeneration, config),
        tokenizer=tokenizer,
        image_processor=AriaImageProcessorPil(),
        processor={"processor_class": "AriaProcessor", "size_conversion": TOKENS},
        template=chat_template("<|img|>"),
    )
