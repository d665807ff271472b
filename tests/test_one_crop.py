"""The compiled tower says what torch's says, of every size it serves, and never of weights that have changed since."""

import copy
import pickle
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from molmoe_models import KNOBS, SMALL, picture, random_model
from paceline.models.molmoe.elastic import ElasticMolmoE
from paceline.models.molmoe.one_crop import KeptCrop, OneCrop
from paceline.models.molmoe.options import MOLMOE_1B, TINY
from paceline.models.molmoe.vision import VisionTower
from paceline.models.registry import load_model


def tiny() -> ElasticMolmoE:
    """The embedded model, fresh."""
    model = load_model("tiny")
    assert isinstance(model, ElasticMolmoE)
    return model


COMPILED = OneCrop.compiled()
KINDS = [kind for kind in ("sixteens", "eights") if kind in COMPILED]
needs_compiled = pytest.mark.skipif(not KINDS, reason="no compiled tower for this processor or installation")

LOWER = replace(
    TINY,
    **{
        "width": 48,
        "vit_width": 32,
        "vit_blocks": 3,
        "vit_heads": 2,
        "vit_mlp": 80,
        "vit_features": (0, -1, -2),
    },
    **{"pool_heads": 1, "pool_width": 16, "projector_hidden": 16, "crop_size": 24, "patch_size": 6},
)
WIDER = replace(
    TINY,
    **{"width": 112, "vit_width": 96, "vit_blocks": 2, "vit_heads": 3, "vit_mlp": 144, "vit_features": (-1,)},
    **{"pool_heads": 2, "pool_width": 64, "projector_hidden": 48, "crop_size": 40, "patch_size": 4},
)
SIDE = replace(TINY, crop_size=8, patch_size=4, vit_blocks=1, vit_features=(0,), vit_heads=1)


def tower(options=TINY, seed=0):
    """A tower whose every weight matters, as one that was loaded."""
    torch.manual_seed(seed)
    vision = VisionTower(options).requires_grad_(False)
    with torch.no_grad():
        for parameter in vision.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return vision.eval()


def crop(options=TINY, seed=0):
    """Patches, and masks of every kind."""
    rng = np.random.default_rng(seed)
    patches = rng.normal(size=(options.grid**2, options.patch_dim)).astype(np.float32)
    return patches, rng.choice([0.0, 0.3, 1.0, -1.0], size=options.grid**2).astype(np.float32)


@torch.inference_mode()
def by_torch(vision, patches, mask):
    found = vision.class_and_patches(torch.from_numpy(patches)[None])
    tokens = vision.pool(found[:, 1:], torch.from_numpy(mask)[None])[0]
    return found, tokens, tokens.mean(dim=0).numpy()


def assert_close(found, expected):
    for mine, theirs in zip(found, expected, strict=True):
        mine, theirs = np.asarray(mine), np.asarray(theirs)
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())


def assert_as_close_as_torch(found, vision, patches, mask):
    """Against float64, of which torch's float32 is some way off too."""
    exact = by_torch(copy.deepcopy(vision).double(), patches.astype(np.float64), mask.astype(np.float64))
    single = by_torch(vision, patches, mask)
    for mine, theirs, right in zip(found, single, exact, strict=True):
        mine, theirs, right = np.asarray(mine), np.asarray(theirs), np.asarray(right)
        assert mine.shape == right.shape
        assert np.abs(mine - right).max() <= 4 * np.abs(theirs - right).max() + 1e-6 * np.abs(right).max()


@needs_compiled
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options", [TINY, LOWER, WIDER, SIDE], ids=["tiny", "lower", "wider", "four-patches"]
)
def test_it_says_what_torch_says(options, kind):
    vision = tower(options)
    compiled = OneCrop(vision, kind)
    for seed in range(5):
        patches, mask = crop(options, seed)
        assert_as_close_as_torch(compiled.read(patches, mask), vision, patches, mask)


@needs_compiled
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("times", [10.0, 40.0, 200.0])
def test_large_numbers_do_not_overflow(times, kind):
    shallow = replace(
        TINY, vit_blocks=1, vit_features=(0,)
    )  # blocks would make rounding errors large one by one
    vision = tower(shallow)
    with torch.no_grad():
        for name in ("wq.weight", "w1.weight"):  # logits of hundreds and thousands
            vision.get_parameter(f"blocks.0.{name}").mul_(times)
    for seed in range(4):
        patches, mask = crop(shallow, seed)
        found = OneCrop(vision, kind).read(patches, mask)
        assert all(np.isfinite(np.asarray(part)).all() for part in found)
        assert_as_close_as_torch(found, vision, patches, mask)


@needs_compiled
def test_a_crop_without_pixels_has_no_features():
    vision = tower()
    patches, mask = np.full((64, 48), -1.0, np.float32), crop()[1]
    found = OneCrop(vision).read(patches, mask)
    assert not found[0].any()
    assert_close(found, by_torch(vision, patches, mask))
    patches[63, 47] = -0.5
    found = OneCrop(vision).read(patches, mask)
    assert found[0].any()
    assert_close(found, by_torch(vision, patches, mask))


@needs_compiled
def test_overviews_of_the_embedded_model_are_compiled_and_the_same(monkeypatch):
    model, without = tiny(), tiny()
    monkeypatch.setattr(without.model.one_crop, "of", lambda _vision: None)
    for image in (picture(1, 150, 260), picture(2, 64, 64), picture(3, 31, 300)):
        mine, theirs = model.overview(image, "how many?"), without.overview(image, "how many?")
        assert_close(
            (mine.image_features, mine.question_features, mine.state.tokens, mine.state.features),
            (theirs.image_features, theirs.question_features, theirs.state.tokens, theirs.state.features),
        )
        assert sorted(mine.feature_sets) == sorted(theirs.feature_sets)
        for name in mine.feature_sets:
            assert_close([mine.feature_sets[name]()], [theirs.feature_sets[name]()])
        full = model.knobs.full
        assert model.generate(mine, full, 8).tokens == without.generate(theirs, full, 8).tokens
    assert model.model.one_crop.of(model.model.vision) is not None


def replaced(vision, name):
    """Change the tower's weights in one of the ways of torch."""
    if name == "one number":
        vision.get_parameter("blocks.2.wo.bias")[3] += 5.0
    elif name == "state":
        vision.load_state_dict(tower().state_dict())
    elif name == "state assigned":
        vision.load_state_dict(tower().state_dict(), assign=True)
    elif name == "rounded":
        vision.bfloat16().float()
    elif name == "a layer rounded":
        vision.blocks[1].bfloat16().float()
    elif name == "a layer":
        vision.pool_out = torch.nn.Linear(64, 64).requires_grad_(False)
    elif name == "a parameter":
        vision.pool_out.weight = torch.nn.Parameter(torch.ones(64, 64), requires_grad=False)
    elif name == "a block":
        vision.blocks[1] = tower().blocks[0]
    elif name == "data":
        vision.pool_out.weight.data = torch.ones(64, 64)


CHANGES = (
    "one number",
    "state",
    "state assigned",
    "rounded",
    "a layer rounded",
    "a layer",
    "a parameter",
    "a block",
)


@needs_compiled
@pytest.mark.parametrize("changed", [*CHANGES, "data"])
def test_weights_that_change_are_read_anew(changed):
    model = tiny().model
    patches, mask = crop()
    before = model.one_crop.of(model.vision)
    assert before is not None
    assert before is model.one_crop.of(model.vision)  # kept
    old = [np.asarray(part) for part in before.read(patches, mask)]
    with torch.no_grad():
        replaced(model.vision, changed)
    after = model.one_crop.of(model.vision)
    assert after is not None
    assert after is not before
    found = after.read(patches, mask)
    assert any(np.abs(np.asarray(part) - was).max() > 1e-4 for part, was in zip(found, old, strict=True))
    assert_close(found, by_torch(model.vision, patches, mask))


@needs_compiled
def test_another_tower_and_one_that_is_trained():
    model, (patches, mask) = tiny().model, crop()
    assert model.one_crop.of(model.vision) is not None
    model.vision = tower()
    found = model.one_crop.of(model.vision)
    assert found is not None
    assert_close(found.read(patches, mask), by_torch(model.vision, patches, mask))
    model.vision.requires_grad_(True)
    assert model.one_crop.of(model.vision) is None
    model.vision.requires_grad_(False)
    assert model.one_crop.of(model.vision) is not None


class Twice(torch.nn.Linear):
    """A layer of one's own."""

    def forward(self, input):
        return 2 * super().forward(input)


@needs_compiled
@pytest.mark.parametrize("change", ["wrapped", "subclass", "no bias", "hook", "hook before"])
def test_layers_that_compute_something_else_are_left_to_torch(change):
    model = tiny().model
    assert model.one_crop.of(model.vision) is not None
    seen, block = [], model.vision.get_submodule("blocks.1")
    if change == "wrapped":
        block.wo = torch.nn.Sequential(block.get_submodule("wo"), torch.nn.Tanh())
    elif change == "subclass":
        block.wo = Twice(64, 64).requires_grad_(False)
    elif change == "no bias":
        block.wo = torch.nn.Linear(64, 64, bias=False).requires_grad_(False)
    elif change == "hook":
        handle = block.register_forward_hook(lambda *_: seen.append(1))
    else:
        handle = block.register_forward_pre_hook(lambda *_: seen.append(1))
    assert model.one_crop.of(model.vision) is None
    model.overview(picture(), "how many?")
    if change.startswith("hook"):
        assert seen == [1]
        handle.remove()
        # what was there is looked at again once a layer changes
        block.register_module("wo", block.get_submodule("wo"))


@needs_compiled
def test_copies_have_weights_of_their_own():
    model = tiny().model
    kept, (patches, mask) = model.one_crop.of(model.vision), crop()
    twin = copy.deepcopy(model)
    assert twin.one_crop._kept is None
    assert pickle.loads(pickle.dumps(model.one_crop))._kept is None
    with torch.no_grad():
        twin.vision.pool_out.weight.zero_()
    assert model.one_crop.of(model.vision) is kept
    own = twin.one_crop.of(twin.vision)
    assert own is not None
    assert_close(own.read(patches, mask), by_torch(twin.vision, patches, mask))


@needs_compiled
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["patch_embedding.weight", "blocks.0.wk.bias", "pool_k.bias", "project_up.weight"]
)
def test_a_broken_number_stays_broken(name, kind):
    vision = tower()
    with torch.no_grad():
        vision.get_parameter(name).flatten()[0] = float("nan")
    patches, mask = crop()
    found, expected = OneCrop(vision, kind).read(patches, mask), by_torch(vision, patches, mask)
    for mine, theirs in zip(found, expected, strict=True):
        assert np.isnan(np.asarray(mine)).any() == np.isnan(np.asarray(theirs)).any()
    assert np.isnan(np.asarray(found[1])).any()


@needs_compiled
def test_threads_share_one_tower():
    vision, crops = tower(), [crop(seed=seed) for seed in range(8)]
    compiled = OneCrop(vision)
    alone = [compiled.read(*each) for each in crops]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda place: compiled.read(*crops[place % 8]), range(200)))
    for place, found in enumerate(together):
        for mine, theirs in zip(found, alone[place % 8], strict=True):
            np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))


@pytest.mark.parametrize(
    "options",
    [
        SMALL,
        MOLMOE_1B,
        replace(TINY, vit_mlp=200),
        replace(TINY, pool_heads=8),
        replace(TINY, crop_size=20),
        replace(TINY, vit_blocks=64),
        replace(TINY, vit_blocks=9, vit_width=32, vit_heads=1, vit_features=tuple(range(9))),
        replace(TINY, crop_size=72),
        replace(TINY, width=4112),
    ],
    ids=[
        "narrow-heads",
        "large",
        "odd-mlp",
        "narrow-pool-heads",
        "odd-grid",
        "deep",
        "parts",
        "fine",
        "wide",
    ],
)
def test_other_towers_are_left_to_torch(options):
    with torch.device("meta"):
        vision = VisionTower(options).requires_grad_(False)
    assert not OneCrop.serves(vision)
    if options is not MOLMOE_1B:
        vision = vision.to_empty(device="cpu")
        assert not OneCrop.serves(vision)
        assert KeptCrop().of(vision) is None


def test_importing_it_watches_nothing():
    code = """if True:
        import paceline.models.molmoe.one_crop
        from torch.nn.modules import module
        print(len(module._global_parameter_registration_hooks), len(module._global_module_registration_hooks))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0"]


def test_numbers_without_a_count_of_writes_are_left_to_torch():
    vision = tower()
    assert OneCrop.serves(vision)
    with torch.inference_mode():
        vision.pool_out.weight = torch.nn.Parameter(torch.ones(64, 64), requires_grad=False)
    assert not OneCrop.serves(vision)


def test_it_is_compiled_where_it_can_be():
    flags = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not flags.exists() or shutil.which("gcc") is None:
        pytest.skip("nothing is compiled for this system")
    assert bool(KINDS) == (" avx2 " in flags.read_text())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_numbers_are_left_to_torch(dtype):
    model = tiny()
    model.overview(picture(), "how many?")
    model.model.to(dtype)
    assert model.model.one_crop.of(model.model.vision) is None
    model.model.to(torch.float32)
    assert (model.model.one_crop.of(model.model.vision) is None) == (not KINDS)


def test_without_the_compiled_part_torch_looks(monkeypatch):
    expected = tiny().overview(picture(), "how many?")
    monkeypatch.setitem(sys.modules, "paceline.models.molmoe._one_crop", None)
    model = tiny()
    assert model.model.one_crop.of(model.model.vision) is None
    assert_close([model.overview(picture(), "how many?").image_features], [expected.image_features])
    assert OneCrop.compiled() == ()


@needs_compiled
def test_wrong_arguments_are_refused():
    read, (patches, mask) = OneCrop(tower())._read, crop()
    outputs = [np.empty(count, np.float32) for count in (65 * 128, 16 * 96, 96)]
    read(patches, mask, *outputs)
    with pytest.raises(ValueError, match="patches: got"):
        read(patches[:60], mask, *outputs)
    with pytest.raises(ValueError, match="patches: got"):
        read(patches.astype(np.float64), mask, *outputs)
    with pytest.raises(ValueError, match="mask: got"):
        read(patches, mask[:3], *outputs)
    with pytest.raises(ValueError, match="tokens: got"):
        read(patches, mask, outputs[0], *outputs[:2])
    with pytest.raises(ValueError, match="contiguous"):
        read(patches, mask, *outputs[:2], np.empty(192, np.float32)[::2])
    with pytest.raises(TypeError, match="expected patches, mask"):
        read(patches, mask)
    with pytest.raises(ImportError, match="kernels: got thirds"):
        OneCrop(tower(), "thirds")
    with pytest.raises(ValueError, match="sizes: expected"):
        OneCrop(tower(replace(TINY, vit_mlp=200)))


@needs_compiled
def test_the_first_overview_of_a_random_model_of_served_widths():
    options = replace(TINY, num_blocks=6, num_experts=8, top_k=4)
    model = ElasticMolmoE(random_model(options).requires_grad_(False), name="random", knobs=KNOBS)
    overview = model.overview(picture(), "how many?")
    assert model.model.one_crop.of(model.model.vision) is not None
    np.testing.assert_allclose(
        overview.image_features, overview.state.tokens.mean(dim=0).numpy(), rtol=1e-5, atol=1e-6
    )


@needs_compiled
@pytest.mark.parametrize("place", [0, -1], ids=["cheapest", "full"])
def test_the_overview_goes_through_one_tower_once(place, monkeypatch):
    model = tiny()
    vision, looked, crops = model.model.vision, [], []
    read = OneCrop.read
    monkeypatch.setattr(OneCrop, "read", lambda *words: (looked.append(1), read(*words))[1])
    configuration = [model.knobs.cheapest, model.knobs.full][place]
    overview = model.overview(picture(1, 150, 260), "how many?")
    vision.patch_embedding.register_forward_hook(lambda _m, _i, out: crops.append(len(out)))
    assert (looked, crops) == ([1], [])
    generation = model.generate(overview, configuration, 2)
    assert looked == [1]
    assert sum(crops) == generation.workload.tiles - 1
