"""How MolmoE-1B cuts images, worked out by hand: tilings, tokens, mask rows, layout."""

import numpy as np
import pytest

from paceline.models.molmoe.crops import (
    CropOptions,
    choose_tiling,
    fit_inside,
    grid_shape,
    high_resolution_crops,
    padding_masks,
    token_order,
)
from paceline.models.molmoe.options import MOLMOE_1B
from paceline.models.molmoe.tokenizer import MolmoTokenizer
from public_molmoe import tokenizer

PUBLIC = CropOptions.of(MOLMOE_1B)  # crops of 336, margins of 4 + 4 patches of 14: a window of 224


@pytest.mark.parametrize(
    ("height", "width", "max_crops", "tiling"),
    [
        # 600 x 1000 less 112: 488 x 888. Not to shrink takes 3 rows (672) and 4 columns (896): 12 crops, scale 1.009.
        (600, 1000, 12, (3, 4)),
        # With 11 none is large enough; (2, 5) and (2, 4) shrink by min(448, .)/488 = 0.918, (3, 3) by 672/888 = 0.757.
        (600, 1000, 11, (2, 4)),
        (600, 1000, 6, (2, 3)),  # 0.757; (1, 6): 0.459, (3, 2): 0.505
        # 288 x 288: one crop shrinks by 0.778, (2, 2) enlarges by 1.556. Of three, all are 0.778: the first.
        (400, 400, 4, (2, 2)),
        (400, 400, 3, (1, 1)),
        # 224 x 224 fits one crop exactly; a pixel more, and the smallest scale that is not below 1 is (2, 2).
        (336, 336, 12, (1, 1)),
        (336, 337, 12, (1, 2)),  # rows: 224/224 = 1, columns: 448/225
        (337, 337, 12, (2, 2)),
        # 88 x 888: (1, 4) is 896/888 = 1.009, before (2, 4) with the same scale.
        (200, 1000, 12, (1, 4)),
        # 12 pixels below the margins: every scale is negative, the largest is that of a single row.
        (100, 500, 12, (1, 1)),
    ],
)
def test_tilings(height, width, max_crops, tiling):
    assert choose_tiling(height, width, max_crops, PUBLIC) == tiling


@pytest.mark.parametrize(
    ("tiling", "grid", "tokens"),
    [
        ((1, 1), (12, 12), 1 + (2 + 12 * 13) + (2 + 12 * 13)),
        ((3, 4), (28, 36), 1 + (2 + 12 * 13) + (2 + 28 * 37)),  # (3 * 16 + 8) / 2 rows
        ((1, 12), (12, 100), 1 + (2 + 12 * 13) + (2 + 12 * 101)),
    ],
)
def test_tokens(tiling, grid, tokens):
    assert grid_shape(tiling, PUBLIC) == grid
    made = MolmoTokenizer(tokenizer(), 64)
    assert len(made.layout(12, grid, ())) == tokens == made.layout_length(12, grid, 0)


def test_the_layout_of_a_small_request():
    made = MolmoTokenizer(tokenizer(), 64)
    bos, start, end, patch, col = 1, 48, 49, 50, 51
    text = [made.tokenizer.token_to_id(word) for word in "User : w1 ? Assistant :".split()]
    assert made.layout(2, (1, 3), "w1 ?") == [
        *(bos, start, patch, patch, col, patch, patch, col, end),
        *(start, patch, patch, patch, col, end, *text),
    ]


def test_tokens_of_overlapping_crops_in_reading_order():
    """Two crops of 12 x 12 tokens beside each other: the first gives columns 0-9 of 20, the second 10-19."""
    order = token_order((1, 2), PUBLIC).reshape(2, 12, 12)
    assert order[0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, -1, -1]
    assert order[1, 0].tolist() == [-1, -1, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]
    assert order[0, 1, 0] == 20
    assert order[1, 11, 11] == 12 * 20 - 1


def test_masks_stand_one_row_early():
    """600 x 1000 on a canvas of 784 x 1008: scale 1.008, 604 x 1008 pixels, 90 rows of padding above and below.

    90 pixels are six patches and 6 of the 14 rows of the seventh. In the last row of crops, which begins at pixel 448,
    the image ends at 694 - 448 = 246: 17 whole patches, and 8 rows of the eighteenth.
    """
    assert fit_inside(600, 1000, 784, 1008) == (90, 0, 604, 1008)
    masks = padding_masks((600, 1000), (3, 4), PUBLIC).reshape(13, 24, 24)
    first = [0.0] * 6 + [8 / 14] + [1.0] * 17
    np.testing.assert_allclose(masks[0], np.repeat(np.array(first)[:, None], 24, axis=1), rtol=1e-6)
    np.testing.assert_allclose(masks[3], masks[0])
    assert (masks[4:8] == 1).all()
    last = [1.0] * 17 + [8 / 14] + [0.0] * 6
    np.testing.assert_allclose(masks[11], np.repeat(np.array(last)[:, None], 24, axis=1), rtol=1e-6)
    assert (masks[12] == -1).all()
    assert (padding_masks((600, 1000), None, PUBLIC) == -1).all()


def test_pixels_of_a_plain_image():
    """White stays 1 and padding 0 before the normalisation; neighbours share their margins; channels come last."""
    image = np.full((600, 1000, 3), 255, dtype=np.uint8)
    image[..., 2] = 0
    crops, _, _ = high_resolution_crops(image, (3, 4), PUBLIC)
    assert crops.shape == (12, 576, 588)
    mean, std = np.array(PUBLIC.mean), np.array(PUBLIC.std)
    black, yellow = -mean / std, (np.array([1, 1, 0]) - mean) / std
    np.testing.assert_allclose(crops[0, 0].reshape(14, 14, 3), np.broadcast_to(black, (14, 14, 3)), rtol=1e-5)
    edge = crops[0, 6 * 24].reshape(
        14, 14, 3
    )  # the seventh row of patches: 6 pixels of padding, then the image
    np.testing.assert_allclose(edge[5], np.broadcast_to(black, (14, 3)), rtol=1e-5)
    np.testing.assert_allclose(edge[6], np.broadcast_to(yellow, (14, 3)), rtol=1e-5)
    grid = crops.reshape(12, 24, 24, 588)
    np.testing.assert_array_equal(grid[0][:, 16:], grid[1][:, :8])  # 8 patches of overlap
    np.testing.assert_array_equal(grid[0][16:], grid[4][:8])
