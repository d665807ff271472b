"""Mistral 3, small: a class that nobody described; a Pixtral tower over images of any size."""

from pathlib import Path
from typing import Any

from transformers import Mistral3Config, Mistral3ForConditionalGeneration
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

from hf.checkpoints import (
    END_ID,
    PAD_ID,
    byte_tokenizer,
    chat_template,
    random_weights,
    write_checkpoint,
)

PATCH, MERGE = 7, 2
LONGEST = 84  # pixels: 6 x 6 tokens at most


def build(directory: Path, **text: Any) -> None:
    """Write the checkpoint; `text` changes the text model's configuration."""
    tokenizer = byte_tokenizer(["[IMG]", "[IMG_BREAK]", "[IMG_END]"])
    text_options = {
        "model_type": "mistral",
        "hidden_size": 32,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 64,
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": END_ID,
        "pad_token_id": PAD_ID,
        **text,
    }
    vision_options = {
        "model_type": "pixtral",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 16,
        "intermediate_size": 64,
        "image_size": LONGEST,
        "patch_size": PATCH,
    }
    config = Mistral3Config(
        vision_config=vision_options,
        text_config=text_options,
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=MERGE,
        tie_word_embeddings=False,
    )
    model = random_weights(Mistral3ForConditionalGeneration, config)
    model.generation_config.eos_token_id = END_ID
    write_checkpoint(
        directory,
        model=model,
        tokenizer=tokenizer,
        image_processor=PixtralImageProcessorPil(size={"longest_edge": LONGEST}, patch_size=PATCH * MERGE),
        processor={"processor_class": "PixtralProcessor", "patch_size": PATCH, "spatial_merge_size": MERGE},
        template=chat_template("[IMG]"),
    )
