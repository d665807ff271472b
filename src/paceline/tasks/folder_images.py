"""The images that a folder's questions name: inside the folder, readable, and hashed by their pixels."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from paceline.errors import ImageError, TaskError
from paceline.images import open_image
from paceline.tasks.folder_lines import Line

THREADS = 8


def check_images(folder: Path, lines: Sequence[Line]) -> tuple[dict[str, str], list[tuple[int, str]]]:
    """Hash of every image by its name in the lines, and what is wrong with lines whose image cannot be used."""
    names = list(dict.fromkeys(line.image for line in lines))
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:  # decoding runs outside Python
        found = dict(zip(names, pool.map(lambda name: _hash_or_error(folder, name), names), strict=True))
    hashes = {name: value for name, value in found.items() if isinstance(value, str)}
    problems = [(line.number, f"image: {found[line.image]}") for line in lines if line.image not in hashes]
    return hashes, problems


def _hash_or_error(folder: Path, name: str) -> str | TaskError | ImageError:
    try:
        return _hash(folder, name)
    except (TaskError, ImageError) as error:
        return error


def _hash(folder: Path, name: str) -> str:
    """A hash of the pixels: equal images are equal in whatever format and under whatever name."""
    try:
        path = (folder / name).resolve()
        inside = path.is_relative_to(folder.resolve())
    except (OSError, ValueError) as error:  # a loop of links, a null byte
        raise TaskError(f"{name!r} is no path ({error})") from error
    if Path(name).is_absolute() or not inside:
        raise TaskError(f"{name!r} leads out of the folder; copy the image into it and give a relative path")
    if not path.is_file():
        raise TaskError(f"there is no file {name!r} in the folder")
    image = open_image(path).convert("RGB")
    digest = hashlib.blake2b(f"{image.size}".encode(), digest_size=8)
    digest.update(image.tobytes())
    return digest.hexdigest()
