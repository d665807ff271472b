"""A small dense Qwen3-VL of the real class, as the hub lays it out."""

from pathlib import Path
from typing import Any

from hf import small_qwen3_vl_moe


def build(directory: Path, **changes: Any) -> None:
    """Write the checkpoint; `changes` go to the text configuration."""
    small_qwen3_vl_moe.build(directory, dense=True, **changes)
