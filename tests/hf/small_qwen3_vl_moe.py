"""A small Qwen3-VL of the real classes, mixture of experts or dense, as the hub lays it out."""

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
from hf.small_qwen2_5_vl import PLACEHOLDER, SPECIAL, token_ids

CELL = 16 * 16  # pixels of one image token: 2 x 2 patches of 8 x 8


def build(directory: Path, *, dense: bool = False, **changes: Any) -> None:
    """Write the checkpoint; `changes` go to the text configuration. Images become 4 to 36 tokens by default.

    Vision features enter the decoder three times: at the embeddings and after blocks 0 and 1.
    """
    import transformers
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = byte_tokenizer(SPECIAL)
    text = {
        "hidden_size": 32,
        "num_hidden_layers": 7,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 48,
        "vocab_size": len(tokenizer),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 1, 1],
            "mrope_interleaved": True,
        },
        "pad_token_id": PAD_ID,
        **changes,
    }
    if not dense:
        experts = {"num_experts": 8, "num_experts_per_tok": 4, "moe_intermediate_size": 16}
        text = {**experts, "eos_token_id": END_ID, **text}
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 8,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
        "out_hidden_size": text["hidden_size"],
    }
    kind = "Qwen3VL" if dense else "Qwen3VLMoe"
    config = getattr(transformers, f"{kind}Config")(
        text_config=text, vision_config=vision, **token_ids(tokenizer)
    )
    model = random_weights(getattr(transformers, f"{kind}ForConditionalGeneration"), config)
    model.generation_config.eos_token_id = END_ID  # a dense text configuration has none
    images = Qwen2VLImageProcessorPil(
        patch_size=8, size={"shortest_edge": 4 * CELL, "longest_edge": 36 * CELL}
    )
    write_checkpoint(
        directory,
        model=model,
        tokenizer=tokenizer,
        image_processor=images,
        processor={"processor_class": "Qwen3VLProcessor"},
        template=chat_template(PLACEHOLDER),
    )
