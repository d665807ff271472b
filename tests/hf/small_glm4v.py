"""A small dense GLM-4V of the real class, as the hub lays it out."""

from pathlib import Path
from typing import Any

from hf import small_glm4v_moe


def build(directory: Path, **changes: Any) -> None:
    """Write the checkpoint; `changes` go to the text configuration."""
    small_glm4v_moe.build(directory, dense=True, **changes)
