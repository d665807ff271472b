"""What the tile families do to images and prompts is what the real processors do, checked family by family."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_images
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import Gemma3Processor, PreTrainedTokenizerFast
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.molmo2.image_processing_molmo2 import Molmo2ImageProcessor

from hf import small_llama4
from hf.checkpoints import chat_template, picture
from hf.opened import Small
from paceline.errors import ModelError
from paceline.models.transformers.families import gemma3, idefics3, llama4, molmo2
from paceline.models.transformers.families.gemma3 import Gemma3

GetSmall = Callable[[str], Small]
SIZES = ((60, 60), (90, 60), (33, 140), (640, 31), (300, 700), (8, 9))


# LLaVA: the processor has no option


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
@pytest.mark.parametrize("size", SIZES[:5])
def test_llava_tiles_are_those_of_a_processor_with_fewer_grids(
    small: GetSmall, name: str, size: tuple[int, int]
) -> None:
    shared = small(name).shared
    images = shared.processor.image_processor
    overview = small(name).overview(*size)
    for option in small(name).image_options():
        grids = [grid for grid in images.image_grid_pinpoints if grid[0] * grid[1] // 28**2 <= option]
        expected = images([overview.state.image], image_grid_pinpoints=grids, return_tensors="pt")
        assert torch.equal(shared.process_again([overview], option)["pixel_values"], expected["pixel_values"])


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_llava_overview_is_the_base_tile_of_the_image_itself(small: GetSmall, name: str) -> None:
    images, image = small(name).shared.processor.image_processor, picture(140, 90)
    base = images([image], return_tensors="pt")["pixel_values"][:, 0]
    assert torch.equal(small(name).model.overview(image, "x").state.memory.pixels, base)


# Idefics3: the overview stands where the processor puts a resized copy


def test_the_last_tile_of_idefics3_is_the_overview(small: GetSmall) -> None:
    shared, overview = small("idefics3").shared, small("idefics3").overview(140, 90)
    for option in small("idefics3").image_options():
        ours = shared.process_again([overview], option)["pixel_values"][0]
        own = shared.process([overview.state.image], [overview.state.text], option)["pixel_values"][0]
        assert torch.equal(ours[:-1], own[:-1])
        assert torch.equal(ours[-1], overview.state.memory.pixels[0])


@pytest.mark.parametrize("along", [2, 3, 4])
def test_the_last_tile_of_idefics3_is_close_to_the_processors(along: int) -> None:
    """On photographs, at the processor's own sizes: the bound that the family's docstring names."""
    processor: Any = Idefics3ImageProcessorPil()
    tile = processor.max_image_size["longest_edge"]
    for photograph in load_sample_images().images:
        overview = processor(photograph, do_image_splitting=False, return_tensors="pt")["pixel_values"]
        split = processor(photograph, size={"longest_edge": along * tile}, return_tensors="pt")[
            "pixel_values"
        ]
        levels = (overview[0, 0] - split[0, -1]).abs() * 127.5  # pixels are normalised to [-1, 1]
        assert 0 < levels.mean() < 0.5
        assert levels.max() < 10


def test_idefics3_that_does_not_split_by_itself(small: GetSmall) -> None:
    processor = copy.copy(small("idefics3").shared.processor)
    processor.image_processor = Idefics3ImageProcessorPil(
        size={"longest_edge": 112}, max_image_size={"longest_edge": 28}, do_image_splitting=False
    )
    family = small("idefics3").shared.family
    assert family.image_options(processor) == (1, 4, 9, 16)
    assert family.default_option(processor) == 1
    assert family.image_kwargs(processor, None) == {"do_image_splitting": False}
    assert family.count(processor, (60, 90), None).tiles == 1


@settings(max_examples=80, deadline=None)
@given(
    width=st.integers(1, 400), height=st.integers(1, 400), side=st.integers(2, 4), tile=st.integers(23, 26)
)
def test_idefics3_grid_is_the_processors(width: int, height: int, side: int, tile: int) -> None:
    processor: Any = Idefics3ImageProcessorPil(
        size={"longest_edge": side * tile}, max_image_size={"longest_edge": tile}
    )
    made = processor(Image.new("RGB", (width, height)), return_row_col_info=True, return_tensors="np")
    assert idefics3.grid((height, width), side, tile) == (made["rows"][0][0], made["cols"][0][0])


# Gemma 3: text between crops


def test_gemma3_counts_line_breaks_that_a_tokenizer_joins() -> None:
    """The image's text begins with line breaks, which merge with one before it; with crops it begins with a word."""
    special = ["<pad>", "<eos>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*special, *alphabet, "ĊĊ", "ĊĊĊ"]
    merges = [("Ċ", "Ċ"), ("ĊĊ", "Ċ")]
    tokenizer = Tokenizer(models.BPE(vocab={word: place for place, word in enumerate(words)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    named = {"boi_token": special[2], "eoi_token": special[3], "image_token": special[4]}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", extra_special_tokens=named, padding_side="left"
    )
    processor: Any = Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(
            size={"height": 28, "width": 28}, pan_and_scan_min_crop_size=16
        ),
        tokenizer=fast,
        image_seq_length=4,
        chat_template="user\n" + chat_template(special[2]),
    )
    family = Gemma3()
    beside = set()
    for option in (1, 2, 3):
        text = family.prompt(processor, "How many?")
        kwargs = family.image_kwargs(processor, option)
        ids = processor(images=[[picture(90, 30)]], text=[text], return_tensors="pt", **kwargs)["input_ids"]
        counted = family.count(processor, (30, 90), option)
        assert counted.tiles == (option + 1 if option > 1 else 1)
        assert counted.vision_tokens == int((ids == fast.convert_tokens_to_ids(special[4])).sum())
        beside.add(ids.shape[1] - counted.layout_tokens)
    assert len(beside) == 1


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 300), height=st.integers(1, 300), most=st.integers(2, 5))
def test_gemma3_crops_are_the_processors(width: int, height: int, most: int) -> None:
    processor: Any = Gemma3ImageProcessorPil(size={"height": 8, "width": 8})
    made = processor(
        Image.new("RGB", (width, height)),
        do_pan_and_scan=True,
        pan_and_scan_min_crop_size=40,
        pan_and_scan_max_num_crops=most,
        pan_and_scan_min_ratio_to_activate=1.2,
        return_tensors="np",
    )
    assert gemma3.crops((height, width), most, 40, 1.2) == made["num_crops"][0]


# What the real image processor would do


def test_molmo2_pixels_are_torchvisions() -> None:
    pytest.importorskip(
        "torchvision", reason="Molmo2's image processor is compared with the one on torchvision"
    )
    real: Any = Molmo2ImageProcessor()
    ours: Any = molmo2.with_torch()()
    for most in (1, 6):
        one, other = (kind([picture(900, 600)], max_crops=most) for kind in (real, ours))
        torch.testing.assert_close(one["pixel_values"], other["pixel_values"])
        assert torch.equal(one["image_token_pooling"], other["image_token_pooling"])


def test_molmo2_pixels_by_hand() -> None:
    """Two by two pixels onto four by four: what lies between two centres is their weighted mean."""
    processor: Any = molmo2.with_torch()(
        size={"height": 4, "width": 4}, patch_size=1, overlap_margins=[0, 0], max_crops=1
    )
    levels = np.array([[0, 100], [200, 100]], dtype=np.uint8)
    pixels = processor([Image.fromarray(levels).convert("RGB")], return_tensors="pt")["pixel_values"]
    red = (pixels[0].reshape(4, 4, 3)[..., 0] + 1) * 127.5  # normalised to [-1, 1]
    assert red[0].tolist() == pytest.approx([0, 25, 75, 100], abs=1e-3)
    assert red[:, 0].tolist() == pytest.approx([0, 50, 150, 200], abs=1e-3)
    assert red[1].tolist() == pytest.approx([50, 62, 88, 100], abs=0.6)  # bytes are rounded once more
    assert torch.equal(pixels[0], pixels[1])  # one crop of everything is the image itself


def test_molmo2_refuses_another_interpolation() -> None:
    processor: Any = molmo2.with_torch()(resample=Image.Resampling.BICUBIC)
    with pytest.raises(ModelError, match="Molmo2's image processor: resample .* expected .*bilinear"):
        processor([picture(30, 20)], return_tensors="pt")


def test_llama_4_grid_is_the_real_one() -> None:
    pytest.importorskip("torchvision", reason="the module of Llama 4's image processor imports torchvision")
    from transformers.image_utils import SizeDict
    from transformers.models.llama4 import image_processing_llama4 as real

    for most in (1, 3, 16):
        canvases = torch.tensor(real.find_supported_resolutions(most, SizeDict(height=336, width=336)))
        for size in ((300, 400), (1000, 700), (2000, 300), (336, 336), (5000, 4000)):
            height, width = (int(value) for value in real.get_best_fit(size, canvases))
            assert llama4.grid(size, most, 336) == (height // 336, width // 336)


@pytest.mark.parametrize(
    ("size", "most", "expected"),
    [
        ((336, 336), 16, (1, 1)),  # fits as it is
        ((337, 336), 16, (2, 1)),  # one row of pixels too many
        ((300, 700), 16, (1, 3)),  # 2 would reduce it
        ((300, 700), 2, (1, 2)),  # the largest reduction allowed by two tiles
        ((2000, 2000), 16, (4, 4)),
        ((2000, 2000), 3, (1, 1)),  # 1 x 3 is no larger than one tile
    ],
)
def test_llama_4_grid_by_hand(size: tuple[int, int], most: int, expected: tuple[int, int]) -> None:
    assert llama4.grid(size, most, 336) == expected
    assert small_llama4.grid(size[0] / 12, size[1] / 12, most) == expected  # type: ignore[arg-type]
