"""Images as users hand them in: opened, checked, and turned into arrays."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from paceline.errors import ImageError

MIN_SIDE = 8  # pixels; below it there is nothing to see
MAX_PIXELS = 64_000_000  # a 64-megapixel photograph; more is a mistake or an attack on memory


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
        raise ImageError(f"{name}: not an image in a known format (PNG, JPEG, WebP, ...)") from error
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
        raise ImageError(
            f"image: got {type(image).__name__}, expected a PIL image; paceline opens files itself"
        )
    _check_size(image, "image")
    _load(image, "image")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


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
