"""Folders of images and questions, for tests."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(number: int, *, side: int = 16) -> Image.Image:
    """An image that no other number has."""
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_lines(path: Path, lines: Iterable[Mapping[str, Any] | str]) -> Path:
    """A JSONL file; texts are written as they are."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n")
    return path


def question(number: int, **changes: Any) -> dict[str, Any]:
    """A question about image `number`."""
    value = {"question": f"what is {number}", "image": f"images/{number}.png", "answer": f"answer {number}"}
    return value | changes


def write_folder(
    folder: Path, *, images: int = 20, lines: Iterable[Mapping[str, Any] | str] | None = None
) -> Path:
    """A folder with images 0.png ... and a question about each, or the given lines."""
    (folder / "images").mkdir(parents=True)
    for number in range(images):
        picture(number).save(folder / "images" / f"{number}.png")
    write_lines(folder / "questions.jsonl", [question(n) for n in range(images)] if lines is None else lines)
    return folder
