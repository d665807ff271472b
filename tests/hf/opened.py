"""Small checkpoints, written and opened as elastic models."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoModelForImageTextToText

from hf.checkpoints import picture
from paceline.knobs import Configuration
from paceline.models.protocol import Overview
from paceline.models.transformers.elastic import ElasticTransformers
from paceline.models.transformers.instrumented import Instrumented
from paceline.models.transformers.loading import Checkpoint, load_checkpoint
from paceline.models.transformers.registry import family_of

QUESTION = "How many?"
IMAGES = ((90, 60), (60, 60), (33, 140))  # (width, height)
LARGE_IMAGES = {"aria": (1500, 900)}  # its tiles have 980 pixels

TILE_FAMILIES = (
    "internvl",
    "llava_onevision",
    "llava_next",
    "idefics3",
    "smolvlm",
    "gemma3",
    "aria",
    "molmo2",
    "llama4",
)
SAVES_A_ROW = ("internvl", "llava_onevision", "llava_next", "idefics3", "smolvlm", "gemma3", "molmo2")
"""Tile families whose overview is a row of the tower under every option."""


@dataclass(frozen=True, slots=True, eq=False)
class Small:
    """A small checkpoint, opened."""

    name: str
    directory: Path
    model: ElasticTransformers

    @property
    def shared(self) -> Instrumented:
        """Model and processor."""
        return self.model.shared

    def image_options(self) -> Sequence[int]:
        """Options of the image knob from cheap to expensive."""
        return [int(option) for option in self.model.knobs.knobs[0].options]

    def configuration(self, option: int, **others: int) -> Configuration:
        """All knobs full but the image's and `others`."""
        return {**self.model.knobs.full, str(self.shared.family.image_knob): option, **others}

    def overview(
        self, width: int | None = None, height: int | None = None, question: str = QUESTION
    ) -> Overview:
        """Of an image of random pixels, of which the family makes several tiles unless the size is given."""
        usual = LARGE_IMAGES.get(self.name, IMAGES[0])
        return self.model.overview(picture(width or usual[0], height or usual[1]), question)


def open_small(name: str, directory: Path, **text: Any) -> Small:
    """Write and open the small checkpoint of a family; `text` changes the text model's configuration."""
    importlib.import_module(f"hf.small_{name}").build(directory, **text)
    return Small(name, directory, ElasticTransformers(open_shared(name, directory)))


def open_shared(name: str, directory: Path) -> Instrumented:
    """The checkpoint in a directory with its instruments."""
    checkpoint = open_checkpoint(name, directory)
    family = family_of(checkpoint.config)
    assert family is not None
    return Instrumented(checkpoint, family)


def open_checkpoint(name: str, directory: Path) -> Checkpoint:
    """As users load it; where the real image processor needs torchvision, with what stands in for it.

    Weights are copied to fresh memory: in the file they begin at any byte, and the kernels that read unaligned memory
    round differently from those that run a model made here.
    """
    module = importlib.import_module(f"hf.small_{name}")
    if hasattr(module, "processor"):
        model = AutoModelForImageTextToText.from_pretrained(directory).eval().requires_grad_(False)
        processor = module.processor(directory)
        processor.tokenizer.padding_side = "left"
        checkpoint = Checkpoint(
            model=model, processor=processor, config=model.config, name=name, revision="small"
        )
    else:
        checkpoint = load_checkpoint(directory, name=name)
    for parameter in checkpoint.model.parameters():
        parameter.data = parameter.data.clone()
    return checkpoint
