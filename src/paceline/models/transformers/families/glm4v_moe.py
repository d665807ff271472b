"""GLM-4.5V: as GLM-4V, with a mixture of experts after the first block or blocks."""

from typing import Any

from paceline.errors import KnobError
from paceline.knobs import Knob
from paceline.models.transformers.families.glm4v import Glm4V


class Glm4VMoe(Glm4V):
    """A token's experts come from its best groups of experts alone, so that no more can be taken than these have.

    The first blocks are dense (`first_k_dense_replace`), the shared expert runs beside the routed ones at every top_k.
    """

    name = "GLM-4V-MoE"
    model_types = ("glm4v_moe",)
    routing_note = (
        "sigmoid weights of the selected experts are renormalised where the checkpoint says so (norm_topk_prob, the "
        "default): their sum is then routed_scaling_factor at every top_k"
    )

    def experts(self, config: Any) -> int:
        return config.get_text_config().n_routed_experts

    def most_top_k(self, config: Any) -> int:
        text = config.get_text_config()
        return text.n_routed_experts // text.n_group * text.topk_group

    def check_top_k(self, config: Any, knob: Knob) -> None:
        """Refuse more experts than a token's best groups have."""
        text, reachable = config.get_text_config(), self.most_top_k(config)
        beyond = [option for option in knob.options if int(option) > reachable]
        if beyond:
            raise KnobError(
                f"knob top_k: options {beyond} of {self.name}, expected at most {reachable}: a token's experts come "
                f"from {text.topk_group} of {text.n_group} groups"
            )


FAMILY = Glm4VMoe()
