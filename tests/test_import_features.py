"""Features of imported samples from a model, and the refusal to mix those of different makers."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from command_line import TalkingModel, message, put_fakes, run, run_json
from fakes import fake_table
from paceline.errors import ControllerError, OutcomesError
from paceline.images import open_image
from paceline.models.registry import load_model
from paceline.outcomes.combining import combine_tables
from paceline.outcomes.feature_makers import feature_maker
from paceline.outcomes.store import read_table, write_table
from paceline.profiling.image_features import ModelFeatures
from paceline.runtime.adaptive import AdaptiveModel
from paceline.runtime.controller import Controller
from quick_options import QUICK_WORDS
from result_files import Layout, World, edit, write_exp5, write_exp6

WORLD = World(count=9, images=5)


@pytest.fixture
def folder(tmp_path):
    """Result files, and the images they are about."""
    write_exp5(tmp_path / "results", WORLD, Layout())
    write_exp6(tmp_path / "results", WORLD, Layout())
    pictures(tmp_path / "pictures", "COCO_val2014_{:012d}.png")
    return tmp_path


def pictures(folder, pattern):
    rng = np.random.default_rng(0)
    for i in range(WORLD.images):
        path = folder / pattern.format(WORLD.image_id(i))
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40 + 8 * i, 64, 3), dtype=np.uint8)).save(path)
    return folder


def words(folder, model="fake", out="out"):
    images = ["--features", model, "--images", folder / "pictures"]
    return ["import", folder / "results", *images, "--out", folder / out]


def test_features_are_those_of_a_live_request(folder):
    value = run_json(*words(folder, "tiny"))
    table, model = read_table(folder / "out"), load_model("tiny")
    numbers = {f"coco_2014_vqa/{WORLD.question_id(i)}": i for i in range(WORLD.count)}
    for row, name in enumerate(table.sample_id.tolist()):
        i = numbers[name]
        file = folder / "pictures" / f"COCO_val2014_{WORLD.image_id(i):012d}.png"
        live = model.overview(open_image(file), WORLD.question(i))
        np.testing.assert_array_equal(table.image_features[row], live.image_features)
        np.testing.assert_array_equal(table.question_features[row], live.question_features)
    described = table.manifest.options["features"]
    assert described == value["features"]
    assert described["kind"] == "model"
    assert described["model"]["name"] == "tiny"
    assert described["images"] == 5
    assert table.manifest.image_width == table.image_width > 0


@pytest.mark.parametrize("pattern", ["{}.jpg", "coco_2014_vqa/{}.png", "deep/er/{}.png", "val_{:08d}.webp"])
def test_how_images_are_named(pattern, tmp_path):
    model = TalkingModel()
    maker = ModelFeatures(model, pictures(tmp_path, pattern))
    features, width, described = maker.make(["coco_2014_vqa"] * 2, ["100", "104"], ["plain a", "deep b"])
    assert features.shape == (2, 8)
    assert width == 3
    assert described["images"] == 2


def test_an_exact_name_wins_over_a_number(tmp_path):
    pictures(tmp_path, "{}.png")
    pictures(tmp_path, "other_{:05d}.png")
    maker = ModelFeatures(TalkingModel(), tmp_path)
    assert maker.make(["d"], ["101"], ["plain"])[2]["images"] == 1


def test_a_number_that_fits_two_files(tmp_path):
    pictures(tmp_path, "one_{:05d}.png")
    pictures(tmp_path, "two_{:05d}.png")
    maker = ModelFeatures(TalkingModel(), tmp_path)
    with pytest.raises(OutcomesError, match="one_00100.png, .*two_00100.png all fit one image"):
        maker.make(["d"], ["100"], ["plain"])


def test_a_table_with_an_image_column(tmp_path):
    rows = ["id,model,correct,runtime_s,picture,text"]
    for i in range(10):
        rows += [f"s{i},{m},{k},{1 + k},{100 + i % 5},plain {i}" for k, m in enumerate(("small", "large"))]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    pictures(tmp_path / "pictures", "{}.png")
    base = ["import", tmp_path / "t.csv", "--sample", "id", "--knobs", "model", "--quality", "correct"]
    base += [
        "--latency",
        "runtime_s",
        "--features",
        "tiny",
        "--images",
        tmp_path / "pictures",
        "--out",
        tmp_path / "o",
    ]
    assert "10 of 10 samples name no image" in message(run(*base, "--question", "text"))
    assert "10 of 10 samples name no question" in message(run(*base, "--image", "picture"))
    run_json(*base, "--question", "text", "--image", "picture")
    assert read_table(tmp_path / "o").image_width > 0


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("no folder", "--images: .* is no folder"),
        ("no model", "--images: got no --features, expected the model"),
        ("unknown model", "neither a known model"),
        ("missing images", "has no file for 2 images .100, 102., expected names such as 100.jpg"),
        ("damaged image", "COCO_val2014_000000000101.png: .*image"),
        ("columns", "names columns of a table, got .*results; with --images DIR it names the model"),
    ],
)
def test_what_is_refused(fault, expected, folder, monkeypatch):
    put_fakes(monkeypatch)
    said = words(folder)
    images = sorted((folder / "pictures").iterdir())
    if fault == "no folder":
        said[said.index("--images") + 1] = folder / "nothing"
    elif fault == "no model":
        del said[2:4]
    elif fault == "unknown model":
        said[3] = "f0..f3"
    elif fault == "missing images":
        images[0].unlink()
        images[2].unlink()
    elif fault == "damaged image":
        images[1].write_bytes(b"no image")
    else:
        del said[4:6]
    told = message(run(*said))
    assert re.search(expected, told), told
    assert not (folder / "out").exists()


def test_training_refuses_features_of_different_makers(tmp_path, monkeypatch):
    put_fakes(monkeypatch)
    write_table(tmp_path / "sweep", fake_table(30, 8, 8, 1))
    write_table(tmp_path / "more", fake_table(30, 8, 8, 2))
    write_table(tmp_path / "other", fake_table(30, 8, 8, 3))
    edit(tmp_path / "other" / "manifest.json", lambda value: value["model"].update(weights="new"))
    quick = ["--epochs", 1, "--out", tmp_path / "controller", *QUICK_WORDS]
    told = message(run("train", tmp_path / "sweep", tmp_path / "other", *quick))
    assert "features were made by the model fake (new) (8 columns)" in told
    assert "those of" in told
    assert not (tmp_path / "controller").exists()
    facts = run_json("train", tmp_path / "sweep", tmp_path / "more", *quick)["facts"]
    assert facts["samples"] == {"train": 60, "validation": 16}


def test_tables_that_do_not_belong_together():
    table, other = fake_table(8, 2, 2, 1), fake_table(8, 2, 2, 2)
    assert combine_tables([table], ["a"]) is table
    both = combine_tables([table, other], ["a", "b"])
    assert both.samples == 24
    assert both.manifest.options["combined"] == ["a", "b"]
    with pytest.raises(OutcomesError, match="12 samples are in two of the directories"):
        combine_tables([table, table], ["a", "b"])
    other.manifest.hardware["processor"] = "another"
    with pytest.raises(OutcomesError, match="b: its processor is another, that of a is None"):
        combine_tables([table, other], ["a", "b"])


def test_makers():
    sweep = {"name": "tiny", "revision": "ab", "device": "cuda"}
    imported = {
        "features": {"kind": "model", "model": {"name": "tiny", "revision": "ab"}, "width": 3, "images": 7}
    }
    assert feature_maker(sweep, {}) == feature_maker({"name": "MolmoE"}, imported)
    texts = [{"features": {"kind": "tf-idf", "fitted_on": digest}} for digest in ("one", "two")]
    assert feature_maker({}, texts[0]) != feature_maker({}, texts[1])


def test_a_live_model_refuses_features_that_it_does_not_make(folder):
    controller = Controller.load("tiny")
    profile = {**controller.provenance["profile"], "features": {"kind": "tf-idf + SVD of the question"}}
    changed = json.loads(json.dumps(dict(controller.provenance) | {"profile": profile}))
    object.__setattr__(controller, "provenance", changed)
    with pytest.raises(
        ControllerError, match="features made by tf-idf .*; import the outcomes again with --features tiny"
    ):
        AdaptiveModel(load_model("tiny"), controller)
