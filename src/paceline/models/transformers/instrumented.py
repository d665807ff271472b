"""A loaded checkpoint with its instruments: what all elastic models over the same weights share."""

import inspect
import re
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from paceline.errors import ModelError
from paceline.models.protocol import Overview
from paceline.models.transformers.family import Family, ImageCount
from paceline.models.transformers.instruments import (
    TOP_K,
    Instruments,
    find_routers,
    instrument_blocks,
    instrument_decoding,
    instrument_kept_aside,
    instrument_routers,
)
from paceline.models.transformers.loading import Checkpoint
from paceline.models.transformers.spaces import Limits
from paceline.models.transformers.tower import instrument_tower

COUNTS_KEPT = 4096  # sizes and options whose tiles and tokens are remembered
PIXELS = ("pixel_values", "pixel_attention_mask", "pixel_mask")
"""What the vision tower reads and nobody after it."""

IMAGE_TOKEN = re.compile(r"(image|video|vision|boi|eoi)\w*_token_(id|index)")
"""Names under which configurations keep the ids of tokens that stand around and for images."""

FOR_TRAINING = ("labels",)
"""What some processors make besides, and what an answer has no use for."""


class Instrumented:
    """Model and processor of a checkpoint, ready to be turned."""

    def __init__(self, checkpoint: Checkpoint, family: Family) -> None:
        self.checkpoint = checkpoint
        self.family = family
        self.model, self.processor = checkpoint.model, checkpoint.processor
        self.blocks = family.blocks(self.model)
        self.routers = find_routers(self.model.get_decoder())
        self.limits = self._limits()
        self.reserved = reserved_tokens(checkpoint)
        self._counts = lru_cache(maxsize=COUNTS_KEPT)(partial(family.count, self.processor))
        self._lock = threading.Lock()  # tokenizers keep padding and truncation in themselves
        self._image_arguments = tuple(inspect.signature(self.model.base_model.get_image_features).parameters)
        self.instruments = Instruments()
        instrument_blocks(self.instruments, self.blocks)
        instrument_routers(self.instruments, self.routers)
        instrument_decoding(self.instruments, self.model)
        instrument_kept_aside(self.instruments, self.model, family.kept_aside)
        tower = family.tower(self.model)
        if tower is not None:
            instrument_tower(self.instruments, tower)

    def _limits(self) -> Limits:
        config, family = self.checkpoint.config, self.family
        numbers = {router.__dict__[TOP_K] for router in self.routers}
        if len(numbers) > 1:
            raise ModelError(
                f"model {self.checkpoint.name}: its routers choose {sorted(numbers)} experts per token, "
                "expected one number for all"
            )
        image = None
        if family.image_knob is not None:
            image = (family.image_knob, *family.image_range(self.processor))
        return Limits(
            blocks=len(self.blocks),
            always_kept=family.always_kept(config),
            experts=family.experts(config) if numbers else None,
            most_top_k=family.most_top_k(config) if numbers else None,
            top_k=numbers.pop() if numbers else None,
            image=image,
        )

    def count(self, size: tuple[int, int], option: int | None) -> ImageCount:
        """Tiles and tokens of an image of (height, width) pixels; asked for every configuration of a request."""
        return self._counts(size, option)

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self.model.get_input_embeddings().weight.device

    def process(
        self,
        images: Sequence[Image.Image],
        texts: Sequence[str],
        option: int | None,
        overviews: Sequence[Tensor | None] | None = None,
    ) -> dict[str, Any]:
        """What the model reads for requests whose texts hold the image's placeholder; left-padded to the longest.

        `overviews`: what the tower saw of each request before; None while overviews are being made.
        """
        prepared = [self.family.prepare(self.processor, image, option) for image in images]
        with self._lock:
            inputs = self.processor(
                images=self.family.batch_images(prepared),
                text=list(texts),
                padding=len(texts) > 1,
                return_tensors="pt",
                **self.family.image_kwargs(self.processor, option),
            )
        moved = {name: self._moved(value) for name, value in inputs.items() if name not in FOR_TRAINING}
        return self.family.finish(self.processor, images, moved, option, overviews)

    def process_again(self, overviews: Sequence[Overview], option: int | None) -> dict[str, Any]:
        """What the model reads for requests whose overviews were made, under an option of the image knob."""
        states = [overview.state for overview in overviews]
        pixels = [state.memory.pixels for state in states]
        return self.process(
            [state.image for state in states], [state.text for state in states], option, pixels
        )

    def encode(self, inputs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """What the vision side makes of processed inputs, and the inputs that are left for the decoder."""
        given = {name: inputs[name] for name in self._image_arguments if name in inputs}
        encoded = self.model.base_model.get_image_features(**given, return_dict=True)
        return encoded, {name: value for name, value in inputs.items() if name not in PIXELS}

    def encode_overview(self, inputs: Mapping[str, Any]) -> Any:
        """What the vision side makes of the overview, from inputs processed at the overview's option."""
        return self.family.encode_overview(self.model, inputs, lambda given: self.encode(given)[0])

    def image_tokens(self, encoded: Any) -> Tensor:
        """Projected image tokens (tokens, width) from what the vision side made of images."""
        return self.family.image_tokens(self.model, encoded)

    def question_ids(self, question: str) -> list[int]:
        """Token ids of a question alone."""
        with self._lock:
            return self.processor.tokenizer(question, add_special_tokens=False)["input_ids"]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens left out."""
        return self.processor.tokenizer.decode(list(ids), skip_special_tokens=True)

    def _moved(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(self.device, self.model.dtype if value.is_floating_point() else None)


def reserved_tokens(checkpoint: Checkpoint) -> dict[int, str]:
    """Tokens that no question may hold: it could forge an image, a turn or an end with them.

    These are the tokenizer's special tokens but the one for what it does not know, and those that the configuration
    names for images and videos, which some checkpoints do not mark as special.
    """
    tokenizer = checkpoint.processor.tokenizer
    added = getattr(tokenizer, "added_tokens_decoder", {})
    ids = {index for index, token in added.items() if token.special}
    ids.update(tokenizer.all_special_ids)
    ids.update(
        value
        for name, value in vars(checkpoint.config).items()
        if IMAGE_TOKEN.fullmatch(name) and isinstance(value, int)
    )
    ids.discard(tokenizer.unk_token_id)
    return {index: str(tokenizer.convert_ids_to_tokens(index)) for index in ids}
