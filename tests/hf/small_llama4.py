"""Llama 4, small: up to four 28-pixel tiles of four tokens, then the whole image; every expert always runs."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, Llama4Config, Llama4ForConditionalGeneration, Llama4Processor
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.processing_utils import ImagesKwargs

from hf.checkpoints import (
    END_ID,
    PAD_ID,
    byte_tokenizer,
    chat_template,
    random_weights,
    write_checkpoint,
)

TILE, PATCH = 28, 7
MAX_TILES = 4
LAYOUT = (
    "<|image_start|>",
    "<|image_end|>",
    "<|patch|>",
    "<|tile_x_separator|>",
    "<|tile_y_separator|>",
)


class TilesKwargs(ImagesKwargs, total=False):
    """Options of a call, beside the usual ones."""

    max_patches: int
    resize_to_max_canvas: bool


class PilLlama4ImageProcessor(BaseImageProcessor):
    """Stands in for the real one, whose module cannot be imported without torchvision: same options, same layout.

    Pixels are resized by PIL, so their values differ from the real ones; the choice of the grid does not.
    """

    model_input_names = ("pixel_values",)
    valid_kwargs = TilesKwargs

    def __init__(self, size: Any = None, max_patches: int = MAX_TILES, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size, self.max_patches = size or {"height": TILE, "width": TILE}, max_patches

    def __call__(self, images: Any, max_patches: int | None = None, **kwargs: Any) -> BatchFeature:
        most = self.max_patches if max_patches is None else max_patches
        pictures = list(images) if isinstance(images, list | tuple) else [images]
        tiles, ratios = [], []
        for picture in pictures:
            rows, columns = grid(picture.height, picture.width, most)
            canvas = Image.new("RGB", (columns * TILE, rows * TILE))
            scale = min(canvas.width / picture.width, canvas.height / picture.height)
            size = (max(1, int(picture.width * scale)), max(1, int(picture.height * scale)))
            canvas.paste(picture.resize(size), (0, 0))
            tiles += [
                canvas.crop((TILE * column, TILE * row, TILE * (column + 1), TILE * (row + 1)))
                for row in range(rows)
                for column in range(columns)
            ]
            if rows * columns > 1:
                tiles.append(picture.resize((TILE, TILE)))
            ratios.append(torch.tensor([rows, columns]))
        pixels = np.stack([np.asarray(tile, dtype=np.float32) / 127.5 - 1 for tile in tiles])
        values = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        return BatchFeature({"pixel_values": values, "aspect_ratios": ratios})


def grid(height: int, width: int, most: int) -> tuple[int, int]:
    """Rows and columns: the smallest enlargement that fits, else the largest reduction; then the smallest canvas."""
    grids = [(rows, columns) for rows in range(1, most + 1) for columns in range(1, most // rows + 1)]
    scales = {grid: min(grid[0] * TILE / height, grid[1] * TILE / width) for grid in grids}
    larger = [scale for scale in scales.values() if scale >= 1]
    best = min(larger) if larger else max(scales.values())
    fitting = [grid for grid in grids if math.isclose(scales[grid], best)]
    return min(fitting, key=lambda grid: grid[0] * grid[1])


def build(directory: Path, **text: Any) -> None:
    """Write the checkpoint; `text` changes the text model's configuration."""
    tokenizer = byte_tokenizer(LAYOUT, image_token="<|image|>")
    identity = tokenizer.convert_tokens_to_ids
    vision_options = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 128,  # the pixels of 2 x 2 patches
        "vision_output_dim": 32,
        "projector_input_dim": 32,
        "projector_output_dim": 32,
        "image_size": TILE,
        "patch_size": PATCH,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    }
    text_options = {
        "hidden_size": 32,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 16,
        "intermediate_size_mlp": 32,
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 2,
        "no_rope_layer_interval": 3,
        "attention_chunk_size": 16,
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": END_ID,
        "pad_token_id": PAD_ID,
        **text,
    }
    config = Llama4Config(
        vision_config=vision_options,
        text_config=text_options,
        boi_token_index=identity("<|image_start|>"),
        eoi_token_index=identity("<|image_end|>"),
        image_token_index=identity("<|patch|>"),
    )
    write_checkpoint(
        directory,
        model=random_weights(Llama4ForConditionalGeneration, config),
        tokenizer=tokenizer,
        processor={"processor_class": "Llama4Processor", "patch_size": PATCH, "pixel_shuffle_ratio": 0.5},
        template=chat_template("<|image|>"),
    )
    size = {"height": TILE, "width": TILE}
    images = {"image_processor_type": "Llama4ImageProcessor", "size": size, "max_patches": MAX_TILES}
    (directory / "preprocessor_config.json").write_text(json.dumps(images))


def processor(directory: Path) -> Any:
    """The real processor of the checkpoint over the image processor that stands in."""
    template = (directory / "chat_template.jinja").read_text()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    return Llama4Processor(
        image_processor=PilLlama4ImageProcessor(),
        tokenizer=tokenizer,
        patch_size=PATCH,
        chat_template=template,
    )
