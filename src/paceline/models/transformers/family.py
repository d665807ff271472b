"""What a family of vision-language models declares: its knobs, what always runs, and where the overview sits.

One file a family under `families/`; `registry.py` finds it by the model type of a checkpoint.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from paceline.errors import ModelError
from paceline.knobs import Knob
from paceline.models.transformers.instruments import ROPE_DELTAS
from paceline.models.transformers.tower import Position

CHAT, PLAIN = "chat template", "plain: the image, then the question"
"""Formats of prompts."""

Unit = Literal["crops", "tiles", "pixels"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageCount:
    """What an image becomes under an option of the image knob."""

    tiles: int  # forward passes of the vision tower, the overview included; 1 where it runs once over all patches
    vision_tokens: int  # tokens that carry image content
    layout_tokens: int  # all tokens that stand for the image in the prompt, separators included


class Family:
    """A family with neither an image knob nor routers: depth alone. Others override what differs."""

    name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    image_knob: ClassVar[str | None] = None  # "max_tiles", "max_crops" or "max_pixels"
    image_unit: ClassVar[Unit | None] = None
    overview_position: ClassVar[Position | None] = (
        None  # None: reused only where the whole input is the overview
    )
    overview_note: ClassVar[str] = "the whole image; there is no image knob"
    routing_note: ClassVar[str | None] = (
        None  # what fewer experts do to the routing weights; None: no routers
    )
    kept_aside: ClassVar[tuple[str, ...]] = (
        ROPE_DELTAS,
    )  # what modules write on themselves at every request
    refused: ClassVar[Mapping[str, str]] = {}  # knobs that users may expect, and why the family lacks them

    mixed_batches: ClassVar[bool] = (
        True  # whether images of different numbers of tiles may be processed together
    )

    # The image

    def image_processor_class(self) -> Any:
        """A class that reads images without torchvision, where transformers has none; None: it has."""
        return None

    def image_options(self, processor: Any) -> tuple[int, ...]:
        """Options of the image knob from cheap to expensive."""
        return ()

    def default_option(self, processor: Any) -> int | None:
        """The option that the processor takes by itself: the last, unless a family says otherwise."""
        options = self.image_options(processor)
        return options[-1] if options else None

    def image_range(self, processor: Any) -> tuple[int, int]:
        """Least and most that an option of the image knob may be."""
        options = self.image_options(processor)
        return options[0], options[-1]

    def image_kwargs(self, processor: Any, option: int | None) -> dict[str, Any]:
        """What the processor is told for an option (None: its default)."""
        return {}

    def prepare(self, processor: Any, image: Image.Image, option: int | None) -> Image.Image:
        """The image as the processor gets it; changed only where the processor has no option of its own."""
        return image

    def finish(
        self,
        processor: Any,
        images: Sequence[Image.Image],
        inputs: dict[str, Any],
        option: int | None,
        overviews: Sequence[Tensor | None] | None,
    ) -> dict[str, Any]:
        """Processed inputs with what the processor cannot be told; `images` are those before `prepare`.

        `overviews` are the tower's pixels of each request's overview, None while the overview is being made.
        """
        return inputs

    def overview_image(self, processor: Any, image: Image.Image) -> Image.Image:
        """The image as its overview is made from it: smaller where that gives the same overview sooner."""
        return image

    def overview_option(self, processor: Any) -> int | None:
        """The option under which the image is its overview and nothing else."""
        options = self.image_options(processor)
        return options[0] if options else None

    def count(self, processor: Any, size: tuple[int, int], option: int | None) -> ImageCount:
        """Tiles and tokens of an image of (height, width) pixels, without touching pixels; exact."""
        raise NotImplementedError

    def tiles(self, inputs: Mapping[str, Any]) -> int:
        """Forward passes of the tower that processed inputs ask for, the overview included."""
        return 1

    def batch_images(self, images: Sequence[Image.Image]) -> Any:
        """Images of several requests as the processor wants them."""
        return list(images)

    # The prompt

    def prompt_format(self, processor: Any) -> str:
        """Which of the two formats prompts have; manifests say it, since answers hang on it."""
        return CHAT if getattr(processor, "chat_template", None) else PLAIN

    def prompt(self, processor: Any, question: str) -> str:
        """The prompt with the image's placeholder, by the checkpoint's chat template."""
        if self.prompt_format(processor) == PLAIN:
            return self.plain_prompt(processor, question)
        content = [{"type": "image"}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    def plain_prompt(self, processor: Any, question: str) -> str:
        """The prompt of a checkpoint without a chat template."""
        token = getattr(processor, "image_token", None)
        if token is None:
            raise ModelError(
                f"{self.name}: the processor has neither a chat template nor an image token, expected one of them; "
                "add chat_template.jinja to the checkpoint"
            )
        return f"{token}\n{question}"

    # The model

    def encode_overview(
        self, model: Any, inputs: Mapping[str, Any], encode: Callable[[Mapping[str, Any]], Any]
    ) -> Any:
        """What the vision side makes of the overview alone, from inputs processed at `overview_option`."""
        return encode(inputs)

    def image_tokens(self, model: Any, encoded: Any) -> Tensor:
        """Projected image tokens (tokens, width) from what the vision side made of images."""
        found = encoded.pooler_output
        parts = [found] if isinstance(found, Tensor) else list(found)
        return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])

    def blocks(self, model: Any) -> Sequence[nn.Module]:
        """The decoder's blocks in order."""
        return model.get_decoder().layers

    def tower(self, model: Any) -> nn.Module | None:
        """The vision tower whose rows are crops; None: what it made of the overview is not reused."""
        return None

    def always_kept(self, config: Any) -> tuple[int, ...]:
        """Blocks that always run: block 0 and the first of each attention type (the cache's length is read there)."""
        kinds = getattr(config.get_text_config(), "layer_types", None) or []
        return tuple(sorted({0, *(kinds.index(kind) for kind in set(kinds))}))

    def experts(self, config: Any) -> int | None:
        """Experts of a routed layer; None: no routers."""
        return None

    def most_top_k(self, config: Any) -> int | None:
        """Experts that one token can reach: all, unless routing is limited to groups."""
        return self.experts(config)

    def top_k_options(self, default: int) -> tuple[int, ...]:
        """Experts per token: quarters of the model's own number."""
        return tuple(sorted({max(1, default * part // 4) for part in (1, 2, 3, 4)}))

    def check_top_k(self, config: Any, knob: Knob) -> None:
        """Refuse options that the routers cannot run."""
