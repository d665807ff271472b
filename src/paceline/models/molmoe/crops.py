"""From an image to an overview crop and overlapping high-resolution crops: geometry and pixels.

An image becomes one overview (the whole image in one crop) and `rows * cols` high-resolution crops.
Neighbouring crops overlap by `left_margin + right_margin` patches; of each crop only the pooled tokens inside
its window count (crops at the border keep their margin), so the crops together form one grid of tokens over
the whole image.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided

from paceline.errors import ImageError, ModelError
from paceline.models.molmoe.options import MolmoEOptions

CHANNELS = 3
UNMASKED = -1.0  # a mask value that means "no padding information for this patch"


@dataclass(frozen=True, kw_only=True, slots=True)
class CropOptions:
    """How images are cut. Lengths named patches count patches, lengths named size count pixels."""

    crop_size: int  # side of a square crop, pixels
    patch_size: int  # side of a square patch, pixels
    left_margin: int  # patches of a crop left of (and above) its window
    right_margin: int  # patches right of (and below) it
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    pooling: int = 2  # side of the square of patches that becomes one token
    resize_bits: int = 32  # 32: resize in float32, as the public code does; 8: in integers, five times faster
    mask_row_shift: int = 1  # see `padding_masks`: 1 as in the public code, 0 for every crop its own mask

    def __post_init__(self) -> None:
        margins = self.left_margin + self.right_margin
        if self.crop_size % self.patch_size or self.crop_patches % self.pooling:
            raise ModelError(
                f"crop_size {self.crop_size}: expected a multiple of patch_size x pooling "
                f"({self.patch_size} x {self.pooling})"
            )
        if margins % self.pooling or not 0 <= margins < self.crop_patches:
            raise ModelError(
                f"margins {self.left_margin} + {self.right_margin}: expected a sum that is a multiple of "
                f"pooling {self.pooling} and below the {self.crop_patches} patches of a crop"
            )
        if self.resize_bits not in (8, 32) or self.mask_row_shift not in (0, 1):
            raise ModelError(
                f"resize_bits {self.resize_bits}, mask_row_shift {self.mask_row_shift}: "
                "expected 8 or 32, and 0 or 1"
            )

    @classmethod
    def of(cls, options: MolmoEOptions) -> "CropOptions":
        """The image geometry of a model."""
        return cls(
            crop_size=options.crop_size,
            patch_size=options.patch_size,
            left_margin=options.margins[0],
            right_margin=options.margins[1],
            mean=options.image_mean,
            std=options.image_std,
            resize_bits=options.resize_bits,
            mask_row_shift=options.mask_row_shift,
        )

    @property
    def crop_patches(self) -> int:
        """Patches along the side of a crop."""
        return self.crop_size // self.patch_size

    @property
    def patches(self) -> int:
        """Patches of a crop."""
        return self.crop_patches**2

    @property
    def patch_dim(self) -> int:
        """Numbers in a flattened patch."""
        return self.patch_size**2 * CHANNELS

    @property
    def margin_patches(self) -> int:
        """Patches of overlap, both sides together."""
        return self.left_margin + self.right_margin

    @property
    def window_patches(self) -> int:
        """Patches along the side of a crop's window."""
        return self.crop_patches - self.margin_patches

    @property
    def window_size(self) -> int:
        """Side of a crop's window in pixels: the stride between crops."""
        return self.window_patches * self.patch_size

    @property
    def margin_size(self) -> int:
        """Overlap of neighbouring crops in pixels."""
        return self.margin_patches * self.patch_size

    @property
    def pooled_side(self) -> int:
        """Tokens along the side of a crop, before any is dropped."""
        return self.crop_patches // self.pooling

    @property
    def overview_tokens(self) -> int:
        """Tokens of the overview: all of its crop's."""
        return self.pooled_side**2


@lru_cache(maxsize=4096)
def choose_tiling(height: int, width: int, max_crops: int, options: CropOptions) -> tuple[int, int]:
    """Rows and columns of high-resolution crops for an image of (height, width) pixels.

    Candidates are all (rows, cols) with rows x cols <= max_crops, ordered by (product, rows). Their scale is
    how much the image would be resized. The smallest scale that does not shrink the image wins; if every
    tiling shrinks it, the one that shrinks least; the first of equals.

    >>> choose_tiling(600, 1000, 12, CropOptions(crop_size=336, patch_size=14, left_margin=4, right_margin=4))
    (3, 4)
    """
    if height < 1 or width < 1 or max_crops < 1:
        raise ModelError(
            f"tiling of {height} x {width} pixels in {max_crops} crops: expected positive values"
        )
    tilings = _candidates(max_crops)
    # Images within the margin give a zero or negative size here: the public code lets that through too.
    inner = np.array([height - options.margin_size, width - options.margin_size], dtype=np.float32)
    with np.errstate(divide="ignore"):
        scale = (np.float32(options.window_size) * tilings.astype(np.float32) / inner).min(axis=1)
    enlarging = scale >= 1
    best = np.where(enlarging, scale, np.inf).argmin() if enlarging.any() else scale.argmax()
    rows, cols = tilings[best]
    return int(rows), int(cols)


@lru_cache(maxsize=64)
def _candidates(max_crops: int) -> np.ndarray:
    pairs = [(rows, cols) for rows in range(1, max_crops + 1) for cols in range(1, max_crops // rows + 1)]
    return np.array(sorted(pairs, key=lambda pair: (pair[0] * pair[1], pair[0])), dtype=np.int64)


def grid_shape(tiling: tuple[int, int], options: CropOptions) -> tuple[int, int]:
    """Rows and columns of the token grid that the high-resolution crops form together."""
    rows, cols = tiling
    return (
        (rows * options.window_patches + options.margin_patches) // options.pooling,
        (cols * options.window_patches + options.margin_patches) // options.pooling,
    )


@lru_cache(maxsize=512)
def token_order(tiling: tuple[int, int], options: CropOptions) -> np.ndarray:
    """Index of every pooled token in the grid (reading order), or -1 outside its crop's window.

    Returns int64 (rows * cols, overview_tokens), read-only; crops in reading order. A margin of an odd number
    of patches does not fall between tokens: the left one is rounded down and the right one takes the rest.
    """
    rows, cols = tiling
    grid_rows, grid_cols = grid_shape(tiling, options)
    row_order = _axis_order(rows, grid_rows, options)
    col_order = _axis_order(cols, grid_cols, options)
    order = row_order[:, None, :, None] * grid_cols + col_order[None, :, None, :]
    dropped = (row_order < 0)[:, None, :, None] | (col_order < 0)[None, :, None, :]
    order = np.where(dropped, -1, order).reshape(rows * cols, options.overview_tokens)
    order.setflags(write=False)
    return order


def _axis_order(crops: int, grid: int, options: CropOptions) -> np.ndarray:
    """Grid coordinate of each pooled token along one axis, or -1: int64 (crops, pooled_side)."""
    window = options.window_patches // options.pooling
    first = options.left_margin // options.pooling
    local = np.arange(options.pooled_side)
    crop = np.arange(crops)[:, None]
    inside = ((local >= first) | (crop == 0)) & ((local < first + window) | (crop == crops - 1))
    order = np.where(inside, crop * window + local, -1)
    if not np.array_equal(order[order >= 0], np.arange(grid)):
        raise ModelError(f"crop windows of {options} do not tile a grid of {grid} tokens")
    return order


@lru_cache(maxsize=4096)
def fit_inside(height: int, width: int, box_height: int, box_width: int) -> tuple[int, int, int, int]:
    """Where an image lies in a box, its aspect kept and centred: (top, left, height, width)."""
    # float32 on purpose: the sizes are cut to integers, and the weights saw float32's cuts.
    scale = min(np.float32(box_height) / np.float32(height), np.float32(box_width) / np.float32(width))
    scaled_height = max(1, int(np.float32(height) * scale))
    scaled_width = max(1, int(np.float32(width) * scale))
    return (box_height - scaled_height) // 2, (box_width - scaled_width) // 2, scaled_height, scaled_width


def canvas_size(tiling: tuple[int, int], options: CropOptions) -> tuple[int, int]:
    """Height and width in pixels of the image that `tiling` cuts into crops."""
    rows, cols = tiling
    return rows * options.window_size + options.margin_size, cols * options.window_size + options.margin_size


@lru_cache(maxsize=512)
def padding_masks(
    image_size: tuple[int, int], tiling: tuple[int, int] | None, options: CropOptions
) -> np.ndarray:
    """Share of valid (not padded) pixels per patch, as the vision tower reads it, overview row first.

    float32 (1 + rows * cols, patches), read-only, in [0, 1] or -1 where the tower gets no information.
    `tiling` None stands for the overview alone, (1, patches).

    The public MolmoE code appends a row of -1 at the END of the high-resolution masks although the overview
    comes first, so that every row is the mask of the NEXT crop. Its weights were trained so, and
    `mask_row_shift=1` reproduces it (the overview gets the first crop's mask, the last crop -1).
    `mask_row_shift=0` gives each its own.
    """
    rows: list[np.ndarray] = []
    if options.mask_row_shift == 0:
        rows.append(_patch_means(image_size, (options.crop_size, options.crop_size), (1, 1), options))
    if tiling is not None:
        rows.append(_patch_means(image_size, canvas_size(tiling, options), tiling, options))
    if options.mask_row_shift == 1:
        rows.append(np.full((1, options.patches), UNMASKED, dtype=np.float32))
    masks = np.concatenate(rows)
    masks.setflags(write=False)
    return masks


def _patch_means(
    image_size: tuple[int, int], canvas: tuple[int, int], tiling: tuple[int, int], options: CropOptions
) -> np.ndarray:
    top, left, height, width = fit_inside(*image_size, *canvas)
    valid = np.zeros((*canvas, 1), dtype=np.float32)
    valid[top : top + height, left : left + width] = 1
    return _cut(valid, tiling, options).mean(axis=-1)


def overview_crop(image: np.ndarray, options: CropOptions) -> np.ndarray:
    """The whole image in one crop: uint8 (height, width, 3) -> float32 (patches, patch_dim), normalised."""
    canvas = _normalised_canvas(image, (options.crop_size, options.crop_size), options)
    return _cut(canvas, (1, 1), options)[0]


def high_resolution_crops(
    image: np.ndarray, tiling: tuple[int, int], options: CropOptions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The image, uint8 (height, width, 3), cut into overlapping crops: (crops, token order, padding masks).

    Crops are float32 (rows * cols, patches, patch_dim); the others are what `token_order` and `padding_masks`
    give (the masks have one row more, the overview's, and it comes first).
    """
    crops = _cut(_normalised_canvas(image, canvas_size(tiling, options), options), tiling, options)
    return crops, token_order(tiling, options), padding_masks(image.shape[:2], tiling, options)


def _normalised_canvas(image: np.ndarray, canvas: tuple[int, int], options: CropOptions) -> np.ndarray:
    """Resized (bilinear, antialiased), zero-padded, then normalised: float32 (*canvas, 3)."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != CHANNELS:
        raise ImageError(f"image array: got {image.dtype} {image.shape}, expected uint8 (height, width, 3)")
    top, left, height, width = fit_inside(image.shape[0], image.shape[1], *canvas)
    mean, std = np.array(options.mean, dtype=np.float32), np.array(options.std, dtype=np.float32)
    resized = _resize(image, height, width, options.resize_bits)
    result = np.empty((*canvas, CHANNELS), dtype=np.float32)
    if (height, width) != canvas:
        result[:] = -mean / std
    result[top : top + height, left : left + width] = (resized - mean) / std
    return result


def _resize(image: np.ndarray, height: int, width: int, bits: int) -> np.ndarray:
    """float32 (height, width, 3) in [0, 1]."""
    if image.shape[:2] == (height, width):
        return image.astype(np.float32) / np.float32(255)
    source = torch.from_numpy(image if image.flags.writeable else image.copy()).permute(2, 0, 1)[None]
    if bits == 32:
        source = source.float() / 255
    resized = torch.nn.functional.interpolate(
        source, size=(height, width), mode="bilinear", antialias=True, align_corners=False
    )
    if bits == 32:
        return resized[0].clamp_(0, 1).permute(1, 2, 0).numpy()
    return resized[0].permute(1, 2, 0).numpy().astype(np.float32) / np.float32(255)


def _cut(canvas: np.ndarray, tiling: tuple[int, int], options: CropOptions) -> np.ndarray:
    """(canvas height, width, channels) -> (rows * cols, patches, patch_size * patch_size * channels)."""
    canvas = np.ascontiguousarray(canvas)
    rows, cols = tiling
    channels = canvas.shape[2]
    step_y, step_x, item = canvas.strides
    side, patch, window = options.crop_patches, options.patch_size, options.window_size
    view = as_strided(
        canvas,
        shape=(rows, cols, side, side, patch, patch * channels),
        strides=(window * step_y, window * step_x, patch * step_y, patch * step_x, step_y, item),
        writeable=False,
    )
    return view.reshape(rows * cols, side * side, patch * patch * channels)
