"""Families by the model type of a checkpoint."""

import importlib
from typing import Any

from paceline.models.transformers.family import Family

FAMILIES = {
    "ernie4_5_vl_moe": "ernie4_5_vl_moe",
    "glm4v": "glm4v",
    "glm4v_moe": "glm4v_moe",
    "internvl": "internvl",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen3_vl": "qwen3_vl",
    "qwen3_vl_moe": "qwen3_vl_moe",
}
"""Model type -> module of its family under `families/`."""


def family_of(config: Any) -> Family | None:
    """The family of a model's configuration; None: nobody described it, the generic adapter may serve."""
    module = FAMILIES.get(config.model_type)
    if module is None:
        return None
    return importlib.import_module(f"paceline.models.transformers.families.{module}").FAMILY
