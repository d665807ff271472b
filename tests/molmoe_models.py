"""Small MolmoE models with random weights, and images to show them."""

from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from paceline.knobs import Knob, KnobSpace
from paceline.models.molmoe.elastic import ElasticMolmoE
from paceline.models.molmoe.model import MolmoE
from paceline.models.molmoe.options import TINY, MolmoEOptions
from paceline.models.molmoe.tokenizer import MolmoTokenizer, word_tokenizer

WORDS = [
    "how",
    "many",
    "digits",
    "what",
    "is",
    "the",
    "red",
    "one",
    "?",
    *(f"w{index}" for index in range(30)),
]

SMALL = replace(
    TINY,
    width=32,
    num_blocks=6,
    num_heads=4,
    num_experts=8,
    top_k=4,
    expert_hidden=8,
    vocabulary=64,
    vit_width=16,
    vit_blocks=3,
    vit_heads=2,
    vit_mlp=32,
    pool_heads=2,
    pool_width=16,
    projector_hidden=24,
)
"""The tiny preset, smaller still."""

MID = MolmoEOptions(
    width=32,
    num_blocks=4,
    num_heads=4,
    num_experts=8,
    top_k=3,
    expert_hidden=12,
    vocabulary=40,
    added_vocabulary=24,
    max_positions=600,
    vit_width=24,
    vit_blocks=5,
    vit_heads=3,
    vit_mlp=40,
    vit_features=(-2, -4),
    pool_heads=2,
    pool_width=16,
    projector_hidden=20,
    crop_size=168,
    patch_size=14,
    margins=(4, 4),
)
"""The structure of molmoe-1b: patches of 14 pixels, margins of 4 + 4, no router cap, shifted padding masks."""

KNOBS = KnobSpace(
    (
        Knob(name="max_crops", options=(1, 2, 6)),
        Knob(name="top_k", options=(1, 2, 4)),
        Knob(name="num_active_blocks", options=(2, 4, 6)),
    )
)


def random_model(options: MolmoEOptions = SMALL, seed: int = 0) -> MolmoE:
    """Weights large enough that every part matters to the answer."""
    tokenizer = MolmoTokenizer(word_tokenizer(WORDS), options.vocabulary + options.added_vocabulary)
    with torch.random.fork_rng(devices=[]):  # some biases keep the values they are made with
        torch.manual_seed(seed)
        model = MolmoE(options, tokenizer)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise * 1.5 / parameter.shape[-1] ** 0.5)
            else:
                parameter.add_(0.2 * noise)
        model.decoder.embedding.mul_(6)  # so that the last token matters to the next
        for block in model.decoder.blocks:
            block.get_submodule("attention.q_norm").get_parameter("weight").mul_(4)  # and so does every other
    return model.requires_grad_(False).eval()


def elastic(options: MolmoEOptions = SMALL, seed: int = 0) -> ElasticMolmoE:
    """A random model with knobs."""
    return ElasticMolmoE(random_model(options, seed), name="random", knobs=KNOBS)


def picture(seed: int = 0, height: int = 70, width: int = 110) -> Image.Image:
    """Smooth noise."""
    coarse = np.random.default_rng(seed).integers(
        0, 256, (height // 6 + 2, width // 6 + 2, 3), dtype=np.uint8
    )
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
