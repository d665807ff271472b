"""Families by the model type of a checkpoint."""

import importlib
from typing import Any

from paceline.models.transformers.family import Family

FAMILIES = {
    "aria": "aria",
    "ernie4_5_vl_moe": "ernie4_5_vl_moe",
    "gemma3": "gemma3",
    "glm4v": "glm4v",
    "glm4v_moe": "glm4v_moe",
    "idefics3": "idefics3",
    "internvl": "internvl",
    "llama4": "llama4",
    "llava_next": "llava_next",
    "llava_onevision": "llava_onevision",
    "molmo2": "molmo2",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen2_vl": "qwen2_vl",
    "qwen3_vl": "qwen3_vl",
    "qwen3_vl_moe": "qwen3_vl_moe",
    "smolvlm": "smolvlm",
}
"""Model type -> module of its family under `families/`."""


def family_of(config: Any) -> Family | None:
    """The family of a model's configuration; None: nobody described it, the generic adapter may serve."""
    module = FAMILIES.get(config.model_type)
    if module is None:
        return None
    return importlib.import_module(f"paceline.models.transformers.families.{module}").FAMILY
