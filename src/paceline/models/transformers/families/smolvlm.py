"""SmolVLM: Idefics3's tiles, with a processor that also knows video (it needs num2words)."""

from typing import Any

from paceline.models.transformers.families.idefics3 import Idefics3


class SmolVLM(Idefics3):
    """What Idefics3 has."""

    name = "SmolVLM"
    model_types = ("smolvlm",)

    def prompt(self, processor: Any, question: str) -> str:
        """As everywhere; the processor's own template method asks its video processor, which may be absent."""
        from transformers import ProcessorMixin

        if processor.video_processor is not None or not processor.chat_template:
            return super().prompt(processor, question)
        content: Any = [{"type": "image"}, {"type": "text", "text": question}]
        return ProcessorMixin.apply_chat_template(
            processor, [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )


FAMILY = SmolVLM()
