"""Small checkpoints of real transformers classes, in the layout of the hub, and images to show them."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils import logging

PAD, END = "<pad>", "<eos>"
PAD_ID, END_ID = 0, 1
FIRST_SPECIAL_ID = 2
"""Id of the first special token that a family adds; the bytes follow after all of them."""

GAIN = 2.0
"""How much wider than its input a random linear layer's output is."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} A:{% endif %}"
)
"""Of one turn: the image's token, the text, and where the answer starts."""


def chat_template(image_token: str) -> str:
    """The template of a family whose text stands for an image with `image_token`."""
    return CHAT_TEMPLATE.replace("IMAGE", image_token)


def byte_tokenizer(special: Sequence[str] = (), **named: str) -> PreTrainedTokenizerFast:
    """A token per byte; then the ids 0 and 1 pad and end, and those of `special` and of `named` follow from 2 on.

    `named` are special tokens that the family's processor reads as attributes, such as `image_token`.
    """
    extra = list(dict.fromkeys([*special, *named.values()]))
    words = [PAD, END, *extra, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={word: index for index, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([PAD, END, *extra])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=named,
        padding_side="left",
    )


def write_checkpoint(
    directory: Path,
    *,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    image_processor: ImageProcessingMixin | None = None,
    processor: Mapping[str, Any] | None = None,
    template: str | None = None,
) -> None:
    """Write what a repository of the hub holds: configurations, weights, tokenizer, processors, chat template.

    `processor` is the content of `processor_config.json`. The files are written by the real classes, part by part:
    the processor as a whole cannot be saved where torchvision is absent and the family also wants a video processor.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model.eval().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    if image_processor is not None:
        image_processor.save_pretrained(directory)
    if processor is not None:
        (directory / "processor_config.json").write_text(json.dumps(processor))
    if template is not None:
        (directory / "chat_template.jinja").write_text(template)


def random_weights(model_class: Any, config: Any, seed: int = 0) -> PreTrainedModel:
    """A model whose weights are wide enough that its answers depend on the input and on every block.

    With the usual start of training (0.02) blocks of this size add next to nothing, and a skipped one goes unnoticed.
    """
    torch.manual_seed(seed)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                inputs = parameter.shape[-1] if parameter.ndim < 4 else parameter[0].numel()
                parameter.normal_(std=GAIN / math.sqrt(inputs))
    return model


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """An image of random pixels."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)
