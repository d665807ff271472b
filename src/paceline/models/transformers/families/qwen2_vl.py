"""Qwen2-VL: what Qwen2.5-VL has."""

from paceline.models.transformers.families.qwen2_5_vl import Qwen25VL


class Qwen2VL(Qwen25VL):
    """Another vision tower behind the same processor."""

    name = "Qwen2-VL"
    model_types = ("qwen2_vl",)


FAMILY = Qwen2VL()
