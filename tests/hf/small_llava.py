"""LLaVA 1.5, small: a class that nobody described; one 28-pixel square of 16 tokens, any text model."""

from pathlib import Path
from typing import Any

from transformers import LlavaConfig, LlavaForConditionalGeneration
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from hf.checkpoints import (
    END_ID,
    PAD_ID,
    byte_tokenizer,
    chat_template,
    random_weights,
    write_checkpoint,
)

SIDE, PATCH = 28, 7
EXPERTS = {
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 16,
    "norm_topk_prob": False,
    "head_dim": 8,
}
"""Changes that make the text model a mixture of experts."""


def build(directory: Path, **text: Any) -> None:
    """Write the checkpoint; `text` changes the text model's configuration, a Llama otherwise."""
    tokenizer = byte_tokenizer(image_token="<image>")
    text_options = {
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": END_ID,
        "pad_token_id": PAD_ID,
        **text,
    }
    vision_options = {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": SIDE,
        "patch_size": PATCH,
    }
    config = LlavaConfig(
        vision_config=vision_options,
        text_config=text_options,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(SIDE // PATCH) ** 2,
    )
    model = random_weights(LlavaForConditionalGeneration, config)
    model.generation_config.eos_token_id = END_ID
    write_checkpoint(
        directory,
        model=model,
        tokenizer=tokenizer,
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
        ),
        processor={
            "processor_class": "LlavaProcessor",
            "patch_size": PATCH,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
        template=chat_template("<image>"),
    )
