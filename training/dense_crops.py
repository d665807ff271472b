"""Crops full of digits at every apparent size and phase, with what each pooled token should say."""

import numpy as np
from PIL import Image

from paceline.models.molmoe.options import TINY
from paceline.tasks import scenes
from training.codebook import size_bin

CROP, TOKEN = TINY.crop_size, 2 * TINY.patch_size
APPARENT = (3.5, 22.0)  # range of the digits' size in the crop, pixels
CROPS_PER_CANVAS = 12


def _dense_canvas(
    rng: np.random.Generator, pool: np.ndarray, side: int, scale: str
) -> tuple[np.ndarray, list[scenes.Digit]]:
    values = scenes.scans()[1]
    low, high = scenes.DIGIT_SIZES[scale]
    canvas = scenes.background(rng, side, side)
    cell = high * rng.uniform(1.35, 2.2)
    cells = max(int(side / cell), 1)
    digits = []
    for row in range(cells):
        for column in range(cells):
            if rng.random() < 0.15:
                continue
            size = high * rng.uniform(*scenes.LARGEST) if rng.random() < 0.2 else rng.uniform(low, high)
            free = max(cell - size, 0) / 2
            scan = int(rng.choice(pool))
            digit = scenes.Digit(
                scan=scan,
                value=int(values[scan]),
                color=scenes.COLOR_NAMES[rng.integers(len(scenes.COLOR_NAMES))],
                size=float(size),
                row=(row + 0.5) * side / cells + rng.uniform(-free, free),
                column=(column + 0.5) * side / cells + rng.uniform(-free, free),
                angle=float(rng.normal(0, 0.15)),
            )
            scenes.paste(canvas, digit)
            digits.append(digit)
    return np.clip(canvas, 0, 255).astype(np.uint8), digits


def dense_crops(
    rng: np.random.Generator, split: str, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Patches (count, 64, 48) float32, then digit, colour and size bin per token (count, 16), -1 for background."""
    pool = scenes.split_scans(split)
    crops = np.zeros((count, CROP, CROP, 3), dtype=np.uint8)
    labels = np.full((3, count, (CROP // TOKEN) ** 2), -1, dtype=np.int64)
    best = np.zeros((count, (CROP // TOKEN) ** 2))
    for start in range(0, count, CROPS_PER_CANVAS):
        apparent = rng.uniform(*APPARENT)
        scale = "small" if apparent < 10 and rng.random() < 0.5 else "large"
        zoom = min(apparent / np.mean(scenes.DIGIT_SIZES[scale]), 1.05)
        side = int(np.ceil((CROP + 24) / zoom))
        canvas, digits = _dense_canvas(rng, pool, side, scale)
        small = max(round(side * zoom), CROP)
        image = np.asarray(Image.fromarray(canvas).resize((small, small), Image.Resampling.BILINEAR))
        factor = small / side
        for crop in range(start, min(start + CROPS_PER_CANVAS, count)):
            top, left = rng.integers(0, small - CROP + 1, 2)
            crops[crop] = image[top : top + CROP, left : left + CROP]
            for digit in digits:
                row, column = digit.row * factor - top, digit.column * factor - left
                if 0 <= row < CROP and 0 <= column < CROP:
                    token = int(row // TOKEN) * (CROP // TOKEN) + int(column // TOKEN)
                    if digit.size > best[crop, token]:
                        best[crop, token] = digit.size
                        labels[:, crop, token] = (
                            digit.value, scenes.COLOR_NAMES.index(digit.color), size_bin(digit.size * factor),
                        )  # fmt: skip
    pixels = (crops.astype(np.float32) / 255 - np.array(TINY.image_mean, np.float32)) / np.array(
        TINY.image_std, np.float32
    )
    grid, patch = TINY.grid, TINY.patch_size
    patches = pixels.reshape(count, grid, patch, grid, patch, 3).transpose(0, 1, 3, 2, 4, 5)
    return patches.reshape(count, grid * grid, -1), labels[0], labels[1], labels[2]
