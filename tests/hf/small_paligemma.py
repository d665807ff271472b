"""PaliGemma, small: a class that nobody described; one 28-pixel square of 16 tokens, read in both directions."""

from pathlib import Path
from typing import Any

from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from hf.checkpoints import (
    END_ID,
    PAD_ID,
    byte_tokenizer,
    chat_template,
    random_weights,
    write_checkpoint,
)

SIDE, PATCH = 28, 7
ADDED_TOKENS = 1024 + 128  # places and segments: the processor adds them to any tokenizer


def build(directory: Path, **text: Any) -> None:
    """Write the checkpoint; `text` changes the text model's configuration."""
    tokenizer = byte_tokenizer(image_token="<image>", bos_token="<bos>")
    text_options = {
        "model_type": "gemma",
        "hidden_size": 32,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "intermediate_size": 64,
        "vocab_size": len(tokenizer) + ADDED_TOKENS,
        "eos_token_id": END_ID,
        "pad_token_id": PAD_ID,
        **text,
    }
    vision_options = {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": SIDE,
        "patch_size": PATCH,
        "vision_use_head": False,
    }
    config = PaliGemmaConfig(
        vision_config=vision_options,
        text_config=text_options,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
    )
    model = random_weights(PaliGemmaForConditionalGeneration, config)
    model.generation_config.eos_token_id = END_ID
    size = {"height": SIDE, "width": SIDE}
    image_options: dict[str, Any] = {"size": size, "image_seq_length": (SIDE // PATCH) ** 2}
    write_checkpoint(
        directory,
        model=model,
        tokenizer=tokenizer,
        image_processor=SiglipImageProcessorPil(**image_options),
        processor={"processor_class": "PaliGemmaProcessor"},
        template=chat_template("<image>"),
    )
