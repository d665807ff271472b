"""Images as users hand them in: opened, checked, and turned into arrays."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from paceline.errors import ImageError

MIN_SIDE = 8  # pixels; below it there is nothing to see
MAX_PIXELS = 64_000_000  # a 64-megapixel photograph; more is a mistake or an attack on memory
VIDEO_ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".m4v")


def open_image(source: Path | str | bytes) -> Image.Image:
    """An image from a path or from the bytes of a file, fully read.

    Raises ImageError for a missing, empty, damaged or unusably sized file and for one that is no image.
    """
    name = "image" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise ImageError(
            f"{name}: cannot be read ({error.strerror or error}); give an image's path"
        ) from error
    if not data:
        raise ImageError(f"{name}: the file is empty, expected an image")
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        video = "; videos are not read, take one frame" if name.lower().endswith(VIDEO_ENDINGS) else ""
        raise ImageError(f"{name}: not an image in a known format (PNG, JPEG, WebP, ...){video}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{name}: {error}; expected at most {MAX_PIXELS:,} pixels, shrink it first"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{name}: the image is damaged ({error})") from error
    _check_size(image, name)
    _load(image, name)
    return image


def image_array(image: Image.Image) -> np.ndarray:
    """The pixels of an image, checked: uint8 (height, width, 3)."""
    if not isinstance(image, Image.Image):
        raise ImageError(f"image: got {_described(image)}")
    _check_size(image, "image")
    _load(image, "image")
    try:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except ValueError as error:  # Pillow has no way from some modes, such as La
        raise ImageError(
            f"image: got mode {image.mode!r}, expected one that Pillow converts to RGB"
        ) from error


def _described(value: Any) -> str:
    """What was handed in instead of an image, and what to do."""
    one = "expected a PIL image"
    if value is None:
        return f"None, {one}; these models answer questions about an image"
    if isinstance(value, str | Path | bytes):
        if str(value).lower().endswith(VIDEO_ENDINGS):
            return f"a video ({value}), {one}; videos are not read, take one frame"
        return f"{type(value).__name__}, {one}; open files with paceline.images.open_image"
    if isinstance(value, list | tuple):
        return (
            f"{len(value)} images or frames in a {type(value).__name__}, {one} per question; ask about one, or join "
            "them in one picture"
        )
    axes = getattr(value, "ndim", None)
    if axes is not None:
        frames = f" (a video of {value.shape[0]} frames?)" if axes > 3 else ""
        return (
            f"an array of {axes} axes{frames}, {one}; Image.fromarray makes one of (height, width, 3) bytes"
        )
    return f"{type(value).__name__}, {one}"


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{name}: {width} x {height} pixels, expected at least {MIN_SIDE} on each side")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {width} x {height} pixels, expected at most {MAX_PIXELS:,}; shrink it first"
        )


def _load(image: Image.Image, name: str) -> None:
    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{name}: the image is damaged ({error})") from error
