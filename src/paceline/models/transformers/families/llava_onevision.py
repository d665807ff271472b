"""LLaVA-OneVision: like LLaVA-NeXT, with grids from one tile on, and tokens interpolated down beyond nine tiles."""

from typing import Any

from paceline.models.transformers.families.llava_next import LlavaNext


class LlavaOnevision(LlavaNext):
    """Small images get as many tiles as large ones of their shape: fewer tiles often cost few tokens and much time."""

    name = "LLaVA-OneVision"
    model_types = ("llava_onevision",)

    def _side(self, processor: Any) -> int:
        return processor.image_processor.size["height"]


FAMILY = LlavaOnevision()
