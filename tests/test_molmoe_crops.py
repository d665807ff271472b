"""Crops: tilings and token counts worked out by hand at MolmoE's and at the tiny model's sizes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.errors import ImageError, ModelError
from paceline.models.molmoe import crops
from paceline.models.molmoe.crops import CropOptions, choose_tiling, grid_shape, token_order
from paceline.models.molmoe.options import MOLMOE_1B
from paceline.models.molmoe.options import TINY as TINY_MODEL

BIG = CropOptions.of(MOLMOE_1B)
SMALL = CropOptions(crop_size=32, patch_size=4, left_margin=1, right_margin=1)
TINY = CropOptions.of(TINY_MODEL)
PLAIN = replace(SMALL, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("height", "width", "max_crops", "expected"),
    [
        # Less the margin 488 x 888: (3, 4) scales by min(672/488, 896/888) = 1.009, the smallest >= 1.
        (600, 1000, 12, (3, 4)),
        # In 6 crops everything shrinks: (2, 3) by min(448/488, 672/888) = 0.757, the rest more.
        (600, 1000, 6, (2, 3)),
        (600, 1000, 8, (2, 4)),  # min(448/488, 896/888) = 0.918
        (600, 1000, 1, (1, 1)),
        (1000, 600, 12, (4, 3)),
        # 336 x 336 less the margin is 224 x 224: one crop at scale 1 exactly.
        (336, 336, 12, (1, 1)),
        # 337: one crop would shrink it (0.996), (2, 2) is the first that does not.
        (337, 337, 12, (2, 2)),
        # One and two crops shrink a square equally; (1, 1) comes first.
        (1000, 1000, 2, (1, 1)),
        (112, 112, 12, (1, 1)),  # nothing left beside the margin
        (20, 20, 12, (1, 1)),
        (330, 3000, 12, (1, 12)),  # 218 x 2888: min(224/218, 2688/2888) = 0.931, two rows would halve it
    ],
)
def test_tilings_worked_by_hand(height, width, max_crops, expected):
    assert choose_tiling(height, width, max_crops, BIG) == expected


def test_grid_of_three_by_four_crops():
    assert grid_shape((3, 4), BIG) == (28, 36)  # (3 * 16 + 8) / 2, (4 * 16 + 8) / 2
    assert grid_shape((1, 1), BIG) == (12, 12)
    assert BIG.overview_tokens == 144
    assert BIG.patch_dim == 588
    assert crops.canvas_size((3, 4), BIG) == (784, 1008)  # 3 * 224 + 112, 4 * 224 + 112


def test_tiny_counts():
    assert (TINY.window_patches, TINY.window_size, TINY.overview_tokens) == (6, 24, 16)
    assert grid_shape((1, 1), TINY) == (4, 4)
    assert grid_shape((3, 4), TINY) == (10, 13)
    interior = token_order((3, 3), TINY)[4]
    assert (interior >= 0).sum() == 9


def test_order_of_two_tiny_crops_by_hand():
    left, right = token_order((1, 2), TINY).reshape(2, 4, 4)
    assert left.tolist() == [[0, 1, 2, -1], [7, 8, 9, -1], [14, 15, 16, -1], [21, 22, 23, -1]]
    assert right.tolist() == [[3, 4, 5, 6], [10, 11, 12, 13], [17, 18, 19, 20], [24, 25, 26, 27]]


def test_margins_of_a_big_interior_crop():
    order = token_order((3, 3), BIG).reshape(9, 12, 12)
    kept = order[4] >= 0
    assert kept[2:10, 2:10].all()
    assert kept.sum() == 64
    # Grid of 28 columns; the middle crop's window starts after the first crop's 2 margin + 8 window tokens.
    assert order[4][2, 2] == 10 * 28 + 10
    assert (order[0] >= 0).sum() == 100  # corner: 2 + 8 tokens along both sides
    assert order[8][-1, -1] == 28 * 28 - 1


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 4), cols=st.integers(1, 4), options=st.sampled_from([BIG, TINY]))
def test_every_grid_token_comes_from_exactly_one_crop(rows, cols, options):
    grid_rows, grid_cols = grid_shape((rows, cols), options)
    order = token_order((rows, cols), options)
    assert sorted(order[order >= 0].tolist()) == list(range(grid_rows * grid_cols))


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 3000), width=st.integers(1, 3000), max_crops=st.integers(1, 12))
def test_tilings_never_exceed_max_crops(height, width, max_crops):
    rows, cols = choose_tiling(height, width, max_crops, BIG)
    assert 1 <= rows * cols <= max_crops


def test_a_token_of_the_grid_shows_its_part_of_the_image():
    """An image of the canvas's own size is not resized: a token shows the pixels at its grid place."""
    height, width = crops.canvas_size((2, 3), PLAIN)
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    cut, order, _ = crops.high_resolution_crops(image, (2, 3), PLAIN)
    _, grid_cols = grid_shape((2, 3), PLAIN)
    for crop, token in zip(*np.nonzero(order >= 0), strict=True):
        row, col = divmod(int(order[crop, token]), grid_cols)
        local_row, local_col = divmod(int(token), 4)
        patches = cut[crop].reshape(8, 8, 4, 4, 3)
        block = patches[2 * local_row : 2 * local_row + 2, 2 * local_col : 2 * local_col + 2]
        pixels = block.transpose(0, 2, 1, 3, 4).reshape(8, 8, 3)
        expected = image[8 * row : 8 * row + 8, 8 * col : 8 * col + 8].astype(np.float32) / 255
        np.testing.assert_allclose(pixels, expected, atol=1e-6)


def test_padding_is_black_before_normalisation_and_centred():
    image = np.full((100, 200, 3), 255, dtype=np.uint8)
    crop = crops.overview_crop(image, TINY).reshape(8, 8, 4, 4, 3)
    pixels = crop.transpose(0, 2, 1, 3, 4).reshape(32, 32, 3)
    black = -np.array(TINY.mean) / np.array(TINY.std)
    white = (1 - np.array(TINY.mean)) / np.array(TINY.std)
    np.testing.assert_allclose(pixels[:8], np.broadcast_to(black, (8, 32, 3)), atol=1e-5)
    np.testing.assert_allclose(pixels[8:24], np.broadcast_to(white, (16, 32, 3)), atol=1e-5)
    np.testing.assert_allclose(pixels[24:], np.broadcast_to(black, (8, 32, 3)), atol=1e-5)


def test_aspect_is_kept_and_sizes_are_cut():
    assert crops.fit_inside(600, 1000, 784, 1008) == (90, 0, 604, 1008)  # 600 * 1.008 = 604.8, cut
    assert crops.fit_inside(1, 20_000, 32, 32) == (15, 0, 1, 32)


def test_resizing_in_integers_is_within_one_level_of_floats():
    image = np.random.default_rng(1).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    floats = crops.overview_crop(image, PLAIN)
    integers = crops.overview_crop(image, replace(PLAIN, resize_bits=8))
    assert np.abs(floats - integers).max() <= 1.01 / 255
    assert np.abs(floats - integers).max() > 0


def test_masks_are_shifted_by_a_row_as_in_the_public_code():
    # 90 rows of padding above the image on its 784 x 1008 canvas: 6 whole patches and 6 of 14 rows of one.
    masks = crops.padding_masks((600, 1000), (3, 4), BIG)
    assert masks.shape == (13, 576)
    first = masks[0].reshape(24, 24)  # row 0 is read with the overview but describes the first crop
    assert (first[:6] == 0).all()
    np.testing.assert_allclose(first[6], 8 / 14, atol=1e-6)
    assert (first[7:] == 1).all()
    assert (masks[12] == -1).all()
    assert (crops.padding_masks((600, 1000), None, BIG) == -1).all()


def test_masks_without_the_shift_describe_their_own_crop():
    options = replace(BIG, mask_row_shift=0)
    masks = crops.padding_masks((600, 1000), (3, 4), options)
    assert masks.shape == (13, 576)
    np.testing.assert_array_equal(masks[1:], crops.padding_masks((600, 1000), (3, 4), BIG)[:12])
    # In the overview 201 rows of 336 are valid, 67 above are padding: 4 patches and 11 rows.
    overview = masks[0].reshape(24, 24)
    assert (overview[:4] == 0).all()
    np.testing.assert_allclose(overview[4], 3 / 14, atol=1e-6)
    np.testing.assert_array_equal(crops.padding_masks((600, 1000), None, options), masks[:1])


def test_pixels_match_a_plain_reference():
    """Resize, pad, normalise and cut again with loops and separate steps."""
    image = np.random.default_rng(2).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    tiling = choose_tiling(60, 100, 12, SMALL)
    height, width = crops.canvas_size(tiling, SMALL)
    scale = min(height / 60, width / 100)
    size = (int(60 * scale), int(100 * scale))
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None] / 255, size=size, mode="bilinear", antialias=True
    )[0].permute(1, 2, 0)
    canvas = np.zeros((height, width, 3), dtype=np.float32)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    canvas[top : top + size[0], left : left + size[1]] = resized
    canvas = (canvas - np.array(SMALL.mean)) / np.array(SMALL.std)
    cut, _, _ = crops.high_resolution_crops(image, tiling, SMALL)
    assert len(cut) == tiling[0] * tiling[1]
    for index in range(len(cut)):
        row, col = divmod(index, tiling[1])
        crop = canvas[row * 24 : row * 24 + 32, col * 24 : col * 24 + 32]
        for patch in range(64):
            y, x = divmod(patch, 8)
            expected = crop[4 * y : 4 * y + 4, 4 * x : 4 * x + 4].reshape(-1)
            np.testing.assert_allclose(cut[index, patch], expected, atol=1e-5)


def test_read_only_images_are_cut_without_a_warning():
    image = np.zeros((50, 50, 3), dtype=np.uint8)
    image.setflags(write=False)
    assert crops.overview_crop(image, TINY).shape == (64, 48)


@pytest.mark.parametrize(
    "change", [{"crop_size": 30}, {"left_margin": 2}, {"left_margin": 7}, {"resize_bits": 16}]
)
def test_options_that_do_not_fit_together_are_refused(change):
    with pytest.raises(ModelError, match="expected"):
        replace(SMALL, **change)


def test_arrays_that_are_not_rgb_bytes_are_refused():
    with pytest.raises(ImageError, match="expected uint8"):
        crops.overview_crop(np.zeros((5, 5), dtype=np.uint8), TINY)
    with pytest.raises(ModelError, match="positive"):
        choose_tiling(0, 5, 2, TINY)
