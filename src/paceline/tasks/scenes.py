"""Scenes of real handwritten digits: scikit-learn's scans, coloured and placed on a canvas from a seed."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from paceline.errors import TaskError

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (255, 50, 50),
    "green": (50, 230, 50),
    "blue": (70, 90, 255),
    "yellow": (250, 230, 40),
    "purple": (225, 60, 230),
    "cyan": (40, 225, 235),
}
COLOR_NAMES = tuple(COLORS)

CANVASES = ((80, 104), (104, 80), (56, 152), (152, 56), (64, 128), (128, 64), (88, 88))
"""(height, width) in pixels. On each of them 12 crops show more than 6."""

DIGIT_SIZES = {"small": (6.5, 8.0), "large": (18.0, 21.0)}
"""Side of a digit in pixels: small ones need crops, large ones are nearly readable in the overview."""

LARGEST = (1.4, 1.6)
"""One digit of every scene is larger than the others by a factor in this range."""

SPLITS = {"train": (0.0, 0.7), "validation": (0.7, 0.8), "test": (0.8, 1.0)}
"""Share of the scans that each split draws from: no handwriting of one split appears in another."""

MIN_DIGITS, MAX_DIGITS = 3, 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Digit:
    """One handwritten digit of a scene. Positions are the centre in pixels."""

    scan: int
    value: int
    color: str
    size: float
    row: float
    column: float
    angle: float  # radians


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A canvas and its digits, each in its own colour."""

    height: int
    width: int
    scale: str  # "small" or "large"
    digits: tuple[Digit, ...]
    noise_seed: int

    @property
    def hash(self) -> str:
        """Identity of the rendered image."""
        return hashlib.blake2b(repr(self).encode(), digest_size=8).hexdigest()


@lru_cache(maxsize=1)
def scans() -> tuple[np.ndarray, np.ndarray]:
    """All 1,797 scans, float32 (scans, 8, 8) in [0, 1], and their values, in a fixed shuffled order."""
    from sklearn.datasets import load_digits

    pixels, values = load_digits(return_X_y=True)
    order = np.random.default_rng(20240).permutation(len(values))
    glyphs = np.asarray(pixels, dtype=np.float32).reshape(-1, 8, 8) / 16
    return glyphs[order], np.asarray(values, dtype=np.int64)[order]


@lru_cache(maxsize=8)
def split_scans(split: str) -> np.ndarray:
    """Scan ids of a split."""
    if split not in SPLITS:
        raise TaskError(f"split: got {split!r}, expected one of {sorted(SPLITS)}")
    count = len(scans()[1])
    low, high = SPLITS[split]
    return np.arange(int(low * count), int(high * count))


def random_scene(rng: np.random.Generator, split: str, *, scale: str | None = None) -> Scene:
    """A scene whose digits do not overlap."""
    pool = split_scans(split)
    values = scans()[1]
    height, width = CANVASES[rng.integers(len(CANVASES))]
    scale = scale or ("small" if rng.random() < 0.5 else "large")
    low, high = DIGIT_SIZES[scale]
    while True:
        count = int(rng.integers(MIN_DIGITS, MAX_DIGITS + 1))
        sizes = rng.uniform(low, high, count)
        sizes[rng.integers(count)] = high * rng.uniform(*LARGEST)
        places = _place(rng, sizes, height, width)
        if places is not None:
            break
    colors = rng.permutation(len(COLOR_NAMES))[:count]
    chosen = rng.choice(pool, count, replace=False)
    angles = rng.normal(0.0, 0.08, count)
    digits = tuple(
        Digit(
            scan=int(chosen[i]),
            value=int(values[chosen[i]]),
            color=COLOR_NAMES[colors[i]],
            size=float(sizes[i]),
            row=float(places[i][0]),
            column=float(places[i][1]),
            angle=float(angles[i]),
        )
        for i in range(count)
    )
    return Scene(height=height, width=width, scale=scale, digits=digits, noise_seed=int(rng.integers(2**31)))


def _place(
    rng: np.random.Generator, sizes: np.ndarray, height: int, width: int
) -> list[tuple[float, float]] | None:
    """Centres at which the digits neither overlap nor leave the canvas, or None after too many tries."""
    places: list[tuple[float, float]] = []
    for size in sizes:
        for _ in range(40):
            row = rng.uniform(size / 2 + 1, height - size / 2 - 1)
            column = rng.uniform(size / 2 + 1, width - size / 2 - 1)
            gaps = [
                max(abs(row - r), abs(column - c)) - 0.5 * (size + sizes[other])
                for other, (r, c) in enumerate(places)
            ]
            if all(gap > 1.5 for gap in gaps):
                places.append((row, column))
                break
        else:
            return None
    return places


def paste(canvas: np.ndarray, digit: Digit) -> None:
    """Blend one digit into a float32 canvas (height, width, 3) in [0, 255], in place."""
    glyph = scans()[0][digit.scan]
    side = int(np.ceil(digit.size * 1.25)) + 2
    top, left = round(digit.row - side / 2), round(digit.column - side / 2)
    # Affine map from patch pixels to scan pixels, so that sub-pixel places and small turns are kept.
    step = 8.0 / digit.size
    cosine, sine = step * np.cos(digit.angle), step * np.sin(digit.angle)
    center_row, center_column = digit.row - top, digit.column - left
    matrix = (
        cosine, sine, 4.0 - cosine * center_column - sine * center_row,
        -sine, cosine, 4.0 + sine * center_column - cosine * center_row,
    )  # fmt: skip
    padded = _padded(digit.scan, glyph.tobytes())
    matrix = (matrix[0], matrix[1], matrix[2] + 2.0, matrix[3], matrix[4], matrix[5] + 2.0)
    alpha = padded.transform((side, side), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC)
    opacity = np.clip(np.asarray(alpha), 0.0, 1.0)
    height, width = canvas.shape[:2]
    y0, y1, x0, x1 = max(top, 0), min(top + side, height), max(left, 0), min(left + side, width)
    opacity = opacity[y0 - top : y1 - top, x0 - left : x1 - left, None]
    region = canvas[y0:y1, x0:x1]
    region += opacity * (np.array(COLORS[digit.color], dtype=np.float32) - region)


@lru_cache(maxsize=2048)
def _padded(scan: int, data: bytes) -> Image.Image:
    """A scan with two empty pixels around it, as a float image."""
    glyph = np.frombuffer(data, dtype=np.float32).reshape(8, 8)
    return Image.fromarray(np.pad(glyph, 2))


def background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A dark, slightly noisy canvas, float32 (height, width, 3)."""
    base = rng.uniform(8.0, 40.0, 3)
    return (base + rng.normal(0.0, 6.0, (height, width, 3))).astype(np.float32)


def render(scene: Scene) -> np.ndarray:
    """The scene as uint8 (height, width, 3)."""
    canvas = background(np.random.default_rng(scene.noise_seed), scene.height, scene.width)
    for digit in scene.digits:
        paste(canvas, digit)
    return np.clip(canvas, 0, 255).astype(np.uint8)
