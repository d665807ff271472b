"""SmolVLM, small: like Idefics3, with a processor that also knows video."""

from pathlib import Path
from typing import Any

from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from hf.small_idefics3 import write


def build(directory: Path, **text: Any) -> None:
    """Write the checkpoint; `text` changes the text model's configuration."""
    write(
        directory, "SmolVLM", SmolVLMForConditionalGeneration, SmolVLMConfig, SmolVLMImageProcessorPil, text
    )
