"""Ernie 4.5 VL: experts of its own for what is seen and for what is read."""

from typing import Any

from paceline.models.transformers.families.qwen2_5_vl import Qwen25VL


class Ernie45VLMoe(Qwen25VL):
    """Image tokens and text tokens go to different routers and experts; `top_k` turns both. Block 0 is dense.

    Blocks hold a `top_k` of their own that nobody reads; only that of their routers matters.
    """

    name = "Ernie-4.5-VL-MoE"
    model_types = ("ernie4_5_vl_moe",)
    routing_note = "weights of the selected experts are renormalised: their sum is 1 at every top_k"

    def experts(self, config: Any) -> int:
        return config.get_text_config().moe_num_experts

    def tower(self, model: Any) -> Any:
        return model.base_model.vision_tower


FAMILY = Ernie45VLMoe()
