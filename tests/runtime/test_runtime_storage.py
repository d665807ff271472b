"""Controller directories: round trips, and every way in which one can be damaged."""

import dataclasses
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from controllers import context, controller
from fakes import FAKE_SPACE, FakeModel
from paceline.errors import ControllerError, PacelineError
from paceline.knobs import Knob, KnobSpace
from paceline.runtime import storage
from paceline.runtime.adaptive import AdaptiveModel
from paceline.runtime.controller import Controller
from paceline.runtime.guard import Guard

FILES = ["controller.json", "latency.safetensors", "policy.safetensors"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("controllers") / "kept"
    controller().save(path)
    return path


@pytest.fixture
def directory(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "controller"))


def edit(directory, change, *, seal=True):
    """Change controller.json; `seal` makes the digest right again."""
    path = directory / "controller.json"
    value = json.loads(path.read_text())
    change(value)
    if seal:
        value.pop("digest", None)
        value["digest"] = storage._digest(value)
    path.write_text(json.dumps(value))


def reseal(directory, name):
    """Make the recorded hash of an array file right again."""
    data = (directory / name).read_bytes()
    facts = {"sha256": storage.sha256(data), "size_bytes": len(data)}
    edit(directory, lambda value: value["files"].update({name: facts}))


def test_a_loaded_controller_decides_as_the_saved_one(saved):
    assert sorted(path.name for path in saved.iterdir()) == FILES
    loaded = Controller.load(saved)
    asked: list[dict[str, Any]] = [
        {"budget_ms": 8.0},
        {"average": 6.0},
        {"budget": "medium"},
        {"first_token_budget_ms": 7.0},
    ]
    for index, budgets in itertools.product(range(20), asked):
        ours = loaded.decide(context(index), **budgets)
        theirs = controller().decide(context(index), **budgets)
        assert ours.action == theirs.action
        assert ours.upper_ms == theirs.upper_ms
        np.testing.assert_allclose(ours.candidates.values, theirs.candidates.values, atol=1e-5)
    assert loaded.guard == controller().guard
    assert loaded.block_ranking == controller().block_ranking
    assert loaded.provenance == controller().provenance
    assert loaded.fingerprint == controller().fingerprint


def test_saving_again_replaces_and_keeps_other_files(directory):
    (directory / "report.html").write_text("mine")
    changed = controller().rescaled(
        latency=controller().latency.rescaled(np.array([2.0]), np.array([1.0])),
        first_token_latency=controller().first_token_latency,
        overview_ms=2.5,
    )
    changed.save(directory)
    assert Controller.load(directory).scale == 2.0
    assert Controller.load(directory).guard.overview_ms == 2.5
    assert sorted(path.name for path in directory.iterdir()) == sorted([*FILES, "report.html"])


def test_files_of_the_controller_before_do_not_stay(directory):
    (directory / "policy.onnx").write_bytes(b"decides as the old one")
    (directory / "mine.onnx").write_bytes(b"of somebody else")

    def exported(value):
        value["files"]["policy.onnx"] = {"sha256": "0", "size_bytes": 22}
        value["files"] |= {name: {} for name in ("..", "", "../mine.onnx", "report.html")}

    edit(directory, exported)
    (directory / "report.html").write_text("mine")
    controller().save(directory)
    assert sorted(path.name for path in directory.iterdir()) == sorted([*FILES, "mine.onnx", "report.html"])
    (directory / "d.onnx").mkdir()
    refused = {"a\0.onnx": {}, "d.onnx": {}}
    for before in ("damaged", '{"files": null}', '{"files": 3}', json.dumps({"files": refused})):
        (directory / "controller.json").write_text(before)
        controller().save(directory)
        assert Controller.load(directory).fingerprint == controller().fingerprint


def test_what_a_decision_hands_out_does_not_change_the_controller():
    owner = controller()
    made = owner.decide(context(), budget_ms=50.0)
    for array in (made.candidates.actions, made.candidates.mean_ms, owner.actions):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 7


def test_a_save_that_fails_leaves_no_temporary_file(directory, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("paceline.runtime.storage.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        controller().save(directory)
    assert sorted(path.name for path in directory.iterdir()) == FILES
    assert Controller.load(directory).fingerprint == controller().fingerprint


def test_shipped_controllers_load_by_name(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "SHIPPED", tmp_path)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved, tmp_path / "small")
    assert storage.shipped_controllers() == ["small"]
    assert Controller.load("small").fingerprint == controller().fingerprint
    with pytest.raises(ControllerError, match=r"controller 'huge': no such directory.*\['small'\]"):
        Controller.load("huge")


def test_a_newer_schema_is_refused_with_its_version(directory):
    edit(directory, lambda value: value.update(schema_version=7, novelty=1), seal=False)
    with pytest.raises(ControllerError, match="schema version 7 is newer than 2"):
        Controller.load(directory)


@pytest.mark.parametrize("name", FILES)
def test_missing_files(directory, name):
    (directory / name).unlink()
    with pytest.raises(ControllerError, match=rf"{name}.*missing"):
        Controller.load(directory)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0, 0.5, 0.999])
def test_truncated_files(directory, name, kept):
    data = (directory / name).read_bytes()
    (directory / name).write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ControllerError, match=r"not JSON|truncated"):
        Controller.load(directory)


@pytest.mark.parametrize("name", ["latency.safetensors", "policy.safetensors"])
def test_changed_arrays(directory, name):
    data = bytearray((directory / name).read_bytes())
    data[-3] ^= 1
    (directory / name).write_bytes(data)
    with pytest.raises(ControllerError, match=rf"{name}: its contents do not match the hash"):
        Controller.load(directory)


def test_not_safetensors(directory):
    (directory / "policy.safetensors").write_bytes(b"\x80\x04 a pickle")
    reseal(directory, "policy.safetensors")
    with pytest.raises(ControllerError, match="not a safetensors file"):
        Controller.load(directory)


def test_a_description_nested_without_end(directory):
    (directory / "controller.json").write_text("[" * 200_000)
    with pytest.raises(ControllerError, match="not JSON"):
        Controller.load(directory)


def test_a_changed_description(directory):
    edit(directory, lambda value: value["guard"].update(overview_ms=50.0), seal=False)
    with pytest.raises(ControllerError, match="do not match their digest"):
        Controller.load(directory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("prices"), r"missing keys \['prices'\]"),
        (lambda v: v.update(extra=1), r"unknown keys \['extra'\]"),
        (lambda v: v.update(format="something"), "not a controller"),
        (lambda v: v.update(schema_version="1"), "schema_version is '1'"),
        (lambda v: v.update(schema_version=0), "schema_version is 0"),
        (lambda v: v.update(files={}), "not a controller|damaged"),
        (lambda v: v["knobs"][0].update(options=[2, 6]), "another knob space"),
        (lambda v: v["knobs"][0].update(name="crops"), "another knob space"),
        (lambda v: v["policy"].update(actions=list(range(26))), "policy array"),
        (lambda v: v["policy"].update(actions=list(range(1, 28))), "another knob space"),
        (lambda v: v["policy"].update(actions=list(range(27))[::-1]), "ascending ids"),
        (lambda v: v["policy"].update(image_width=4), "policy array feature_mean"),
        (lambda v: v["policy"].pop("hidden"), "policy specification"),
        (lambda v: v["guard"].update(overview_ms=-1.0), "guard: overview_ms is -1.0"),
        (lambda v: v["guard"].update(overview_ms=None), "guard: overview_ms is None"),
        (lambda v: v["guard"].update(margin=1.0), "not a controller .*margin"),
        (lambda v: v.update(guard={}), r"guard has \[\], expected exactly .*'overview_ms'"),
        (lambda v: v["guard"].update(classes=[]), r"guard: classes are \[\]"),
        (lambda v: v["guard"].update(classes={"low": 10**400}), "not a controller"),
        (lambda v: v.update(metrics=[1]), r"metrics is \[1\], expected an object"),
        (lambda v: v.update(provenance="mine"), "provenance is 'mine', expected an object"),
        (lambda v: v["provenance"].update(profile="mine"), "profile is 'mine', expected an object or null"),
        (lambda v: v["provenance"].update(training=[1]), r"training is \[1\], expected an object or null"),
        (lambda v: v.update(block_ranking="123"), "block_ranking is '123', expected a list"),
        (lambda v: v.update(exports=[]), r"exports is \[\], expected an object or null"),
        (lambda v: v.update(files=[]), r"files is \[\], expected an object"),
        (
            lambda v: v["policy"].update(budget_dimensions=3),
            "budget_dimensions: got 3, expected 1 or an even",
        ),
        (lambda v: v["prices"].update(prices=[0.0]), "prices: got"),
        (lambda v: v["prices"]["prices"].reverse(), "prices that never rise"),
        (lambda v: v["prices"].update(budgets_ms="no"), "not a controller"),
        (lambda v: v.update(block_ranking=["first"]), "not a controller"),
        (lambda v: v["policy"].update(full_latency_ms=10**400), "not a controller"),
    ],
)
def test_a_description_that_breaks_the_contract(directory, change, message):
    edit(directory, change)
    with pytest.raises(ControllerError, match=message):
        Controller.load(directory)


def test_wrong_arrays(directory):
    path = directory / "policy.safetensors"
    arrays = load_file(path)
    arrays["head.bias"] = np.full_like(arrays["head.bias"], np.nan)
    save_file(arrays, path)
    reseal(directory, path.name)
    with pytest.raises(ControllerError, match=r"head\.bias: holds NaN"):
        Controller.load(directory)


def test_a_latency_estimate_without_first_tokens(directory):
    path = directory / "latency.safetensors"
    save_file({k: v for k, v in load_file(path).items() if k.startswith("whole.")}, path)
    reseal(directory, path.name)
    with pytest.raises(ControllerError, match="latency estimate: arrays .* are missing"):
        Controller.load(directory)


def test_a_path_that_is_no_controller(tmp_path):
    with pytest.raises(ControllerError, match=r"controller\.json is missing"):
        Controller.load(tmp_path)
    (tmp_path / "file").write_text("text")
    with pytest.raises(ControllerError, match=r"controller\.json is missing"):
        Controller.load(tmp_path / "file")


@pytest.mark.parametrize("name", [None, 3, b"tiny", ["tiny"]])
def test_what_is_neither_a_path_nor_a_name(name):
    with pytest.raises(
        ControllerError, match=r"controller: got .*, expected the path of a directory or the name"
    ):
        Controller.load(name)


def test_the_kept_backend_may_be_in_a_directory_named_by_a_text(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("paceline.runtime.backends._candidates", lambda _: ["numpy", "torch"])
    Controller.load(saved, cache_dir="cache")
    assert len(list((tmp_path / "cache").glob("*.json"))) == 1


def test_a_latency_estimate_that_nothing_can_have_fitted(directory):
    path = directory / "latency.safetensors"
    arrays = load_file(path)
    save_file(arrays | {"whole.upper_ratio": -arrays["whole.upper_ratio"]}, path)
    reseal(directory, path.name)
    with pytest.raises(
        ControllerError, match=r"latency estimate: upper_ratio holds -\d.*, expected 1 or more"
    ):
        Controller.load(directory)


def test_metrics_that_are_no_json(tmp_path):
    odd = dataclasses.replace(controller(), metrics={"accuracy": float("nan")})
    with pytest.raises(ControllerError, match="cannot be stored as JSON"):
        odd.save(tmp_path / "odd")
    assert not (tmp_path / "odd").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"overview_ms": -1.0}, "overview_ms is -1.0"), ({"classes": {"low": 0.0}}, "class 'low' is 0.0")],
)
def test_guard_values(options, message):
    with pytest.raises(ControllerError, match=message):
        Guard(**options)


def test_a_model_with_other_knobs():
    class Other(FakeModel):
        @property
        def knobs(self):
            return KnobSpace((*FAKE_SPACE.knobs[:2], Knob(name="depth", options=(8, 16))))

    with pytest.raises(
        ControllerError, match=r"num_active_blocks \[8, 12, 16\].*the model fake has.*depth \[8, 16\]"
    ):
        AdaptiveModel(Other(), controller())


def test_estimates_of_another_space():
    space = KnobSpace((*FAKE_SPACE.knobs[:2], Knob(name="depth", options=(8, 12, 16))))
    with pytest.raises(PacelineError, match="latency estimate is of another knob space"):
        dataclasses.replace(controller(), space=space)


def test_loading_and_deciding_need_numpy_alone(saved, tmp_path):
    request = context(3)
    save_file(
        {name: np.asarray(getattr(request, name)) for name in request.__slots__},
        tmp_path / "request.safetensors",
    )
    script = f"""
import json, sys
from safetensors.numpy import load_file
from paceline.runtime.controller import Controller
from paceline.runtime.average import AverageBudget
from paceline.runtime.decision import Context
controller = Controller.load({str(saved)!r})
context = Context(**load_file({str(tmp_path / "request.safetensors")!r}))
made = controller.decide(context, budget_ms=9.0, average=AverageBudget(6.0), elapsed_ms=2.0)
made.explain()
print(json.dumps([made.action, sorted({{name.split(".")[0] for name in sys.modules}})]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    action, modules = json.loads(done.stdout)
    expected = controller().decide(request, budget_ms=9.0, average=6.0, elapsed_ms=2.0)
    assert action == expected.action
    heavy = {
        "torch",
        "pandas",
        "polars",
        "pyarrow",
        "PIL",
        "scipy",
        "sklearn",
        "typer",
        "rich",
    }
    assert set(modules) & heavy == set()
