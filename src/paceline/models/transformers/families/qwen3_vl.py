"""Qwen3-VL, dense: one image of a variable number of pixels, whose features enter the decoder several times."""

from typing import Any

from paceline.models.transformers.families.qwen2_5_vl import Qwen25VL


class Qwen3VL(Qwen25VL):
    """As Qwen2.5-VL; features of the tower's middle blocks are added to what the first decoder blocks return."""

    name = "Qwen3-VL"
    model_types = ("qwen3_vl",)

    def always_kept(self, config: Any) -> tuple[int, ...]:
        """Also the blocks after which image features are added: they would be added to another block's result."""
        entries = len(config.vision_config.deepstack_visual_indexes)
        return tuple(sorted({*super().always_kept(config), *range(entries)}))


FAMILY = Qwen3VL()
