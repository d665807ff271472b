"""Qwen2-VL, small, of the real class, as the hub lays it out."""

from pathlib import Path
from typing import Any

from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from hf.checkpoints import (
    END_ID,
    PAD_ID,
    byte_tokenizer,
    chat_template,
    random_weights,
    write_checkpoint,
)
from hf.small_qwen2_5_vl import CELL, PLACEHOLDER, SPECIAL, token_ids


def build(directory: Path, **text: Any) -> None:
    """Write the checkpoint; `text` changes the text configuration. Images become 4 to 36 tokens."""
    tokenizer = byte_tokenizer(SPECIAL)
    text_options = {
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
        **text,
    }
    vision_options = {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": text_options["hidden_size"],
        "mlp_ratio": 2,
        "num_heads": 2,
        "patch_size": 7,
    }
    config = Qwen2VLConfig(text_config=text_options, vision_config=vision_options, **token_ids(tokenizer))
    write_checkpoint(
        directory,
        model=random_weights(Qwen2VLForConditionalGeneration, config),
        tokenizer=tokenizer,
        image_processor=Qwen2VLImageProcessorPil(
            patch_size=7, size={"shortest_edge": 4 * CELL, "longest_edge": 36 * CELL}
        ),
        processor={"processor_class": "Qwen2VLProcessor"},
        template=chat_template(PLACEHOLDER),
    )
