"""A small GLM-4V of the real classes, mixture of experts or dense, as the hub lays it out."""

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

SPECIAL = (
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
    "<|video|>",
)
PLACEHOLDER = "<|begin_of_image|><|image|><|end_of_image|>"
CELL = 14 * 14  # pixels of one image token: 2 x 2 patches of 7 x 7


def build(directory: Path, *, dense: bool = False, **changes: Any) -> None:
    """Write the checkpoint; `changes` go to the text configuration. Images become 4 to 36 tokens by default.

    Block 0 is dense. The 12 experts are in 3 groups of which 2 are read, so that a token reaches 8 experts.
    """
    import transformers
    from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil

    tokenizer = byte_tokenizer(SPECIAL)
    text = {
        "hidden_size": 32,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "vocab_size": len(tokenizer),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5 if dense else 1.0,
            "mrope_section": [1, 1, 0] if dense else [2, 1, 1],
        },
        "pad_token_id": PAD_ID,
        **changes,
    }
    if not dense:
        experts = {
            "n_routed_experts": 12,
            "num_experts_per_tok": 4,
            "n_group": 3,
            "topk_group": 2,
            "moe_intermediate_size": 16,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
        }
        text = {**experts, "eos_token_id": END_ID, **text}
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "image_size": 56,
        "patch_size": 7,
        "out_hidden_size": text["hidden_size"],
    }
    ids = {
        "image_token_id": "<|image|>",
        "video_token_id": "<|video|>",
        "image_start_token_id": "<|begin_of_image|>",
        "image_end_token_id": "<|end_of_image|>",
        "video_start_token_id": "<|begin_of_video|>",
        "video_end_token_id": "<|end_of_video|>",
    }
    kind = "Glm4v" if dense else "Glm4vMoe"
    config = getattr(transformers, f"{kind}Config")(
        text_config=text,
        vision_config=vision,
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in ids.items()},
    )
    model = random_weights(getattr(transformers, f"{kind}ForConditionalGeneration"), config)
    model.generation_config.eos_token_id = END_ID  # a dense text configuration has none
    # the limits count both frames that an image is doubled into
    size = {"shortest_edge": 2 * 4 * CELL, "longest_edge": 2 * 36 * CELL}
    options: dict[str, Any] = {"patch_size": 7, "size": size}
    write_checkpoint(
        directory,
        model=model,
        tokenizer=tokenizer,
        image_processor=Glm4vImageProcessorPil(**options),
        processor={"processor_class": "Glm4vProcessor"},
        template=chat_template(PLACEHOLDER),
    )
