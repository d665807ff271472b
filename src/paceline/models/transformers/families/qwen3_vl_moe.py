"""Qwen3-VL with a mixture of experts: as the dense one, with a router in every block."""

from typing import Any

from paceline.models.transformers.families.qwen3_vl import Qwen3VL


class Qwen3VLMoe(Qwen3VL):
    """Routers take the softmax over all experts and renormalise the selected weights to a sum of 1."""

    name = "Qwen3-VL-MoE"
    model_types = ("qwen3_vl_moe",)
    routing_note = "weights of the selected experts are renormalised: their sum is 1 at every top_k"

    def experts(self, config: Any) -> int:
        return config.get_text_config().num_experts


FAMILY = Qwen3VLMoe()
