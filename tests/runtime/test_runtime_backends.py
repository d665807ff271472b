"""Backends of a controller: they agree, "auto" measures once, files that changed are refused, nobody executes code."""

import dataclasses
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

import paceline.runtime.backends as backends
from controllers import context, controller, table
from paceline.errors import ControllerError, DependencyError
from paceline.policies.native_policy import NativePolicy, compiled
from paceline.runtime.backends import with_backend
from paceline.runtime.controller import Controller
from paceline.runtime.decision import Context
from paceline.runtime.exports import decided_digest
from paceline.runtime.onnx_backend import PROVIDERS, OnnxWeigher, open_session
from paceline.workflows.exporting import ExportOptions, export_controller
from policy_forms import FORMS, form_context, form_controller, form_spec

REQUESTS = (
    {"budget_ms": 40.0},
    {"budget": "60%", "elapsed_ms": 4.0, "slowdown": 1.1},
    {},
    {"average": 30.0},
    {"first_token_budget_ms": 25.0},
    {"budget_ms": 0.5},
    {"budget_ms": 0.5, "when_infeasible": "best_effort"},
    {"average": 0.01},
)


NATIVE = ("native",) if compiled() is not None else ()
"""Installed without a C compiler there is one backend less."""


@cache
def _directory(root: Path) -> Path:
    out = root / "exported"
    export_controller(controller(), table(), out, ExportOptions(requests=200, calibration_requests=100))
    return out


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    return _directory(tmp_path_factory.mktemp("backends"))


@pytest.fixture
def copied(exported, tmp_path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copied"))


def test_every_backend_decides_alike(exported):
    loaded = [Controller.load(exported, backend=name) for name in ("numpy", *NATIVE, "torch")]
    loaded.append(Controller.load(exported, backend="onnx", precision="fp32"))
    assert [each.backend for each in loaded] == ["numpy", *NATIVE, "torch", "onnx"]
    for index in range(25):
        for request in REQUESTS:
            ours, *others = (each.decide(context(index), **request) for each in loaded)
            for theirs in others:
                assert (theirs.action, theirs.reason) == (ours.action, ours.reason)
                assert (theirs.feasible, theirs.price) == (ours.feasible, ours.price)
                seen, expected = theirs.candidates, ours.candidates
                np.testing.assert_allclose(seen.values, expected.values, atol=1e-5)
                np.testing.assert_allclose(theirs.upper_ms, ours.upper_ms, rtol=1e-5)
                np.testing.assert_array_equal(seen.feasible, expected.feasible)


@pytest.mark.parametrize("form", FORMS)
def test_torch_decides_as_numpy_for_every_form(form):
    ours = form_controller(form)
    theirs = dataclasses.replace(ours, make_weigher=backends._torch_weigher)
    for request in ({"budget_ms": 40.0}, {"average": 20.0}):
        assert (
            theirs.decide(form_context(form), **request).action
            == ours.decide(form_context(form), **request).action
        )


@pytest.mark.skipif(not NATIVE, reason="installed without a C compiler")
@pytest.mark.parametrize("form", [form for form in FORMS if NativePolicy.serves(form_spec(form))])
def test_compiled_code_decides_as_numpy_for_every_form_that_it_serves(form):
    ours = form_controller(form)
    theirs = with_backend(ours, "native")
    assert theirs.backend == "native"
    for index in range(10):
        seen = form_context(form, index)
        for request in (*REQUESTS, {"average": 20.0, "elapsed_ms": 3.0}):
            expected, found = (each.decide(seen, **request) for each in (ours, theirs))
            assert (found.action, found.reason) == (expected.action, expected.reason)
            np.testing.assert_allclose(found.candidates.values, expected.candidates.values, atol=2e-5)


def test_a_policy_that_compiled_code_does_not_serve_is_refused_and_auto_passes_it_by(tmp_path):
    with pytest.raises(ControllerError, match="backend 'native': got a policy with head 'continuous'"):
        with_backend(form_controller("continuous"), "native")
    assert with_backend(form_controller("continuous"), cache_dir=tmp_path).backend == "numpy"


def test_an_installation_without_a_compiler_is_told_so_and_auto_does_without(exported, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "paceline.policies._native", None)
    with pytest.raises(DependencyError, match="backend 'native' needs the compiled part"):
        Controller.load(exported, backend="native")
    assert Controller.load(exported, cache_dir=tmp_path).backend in ("numpy", "onnx")


def test_a_backend_survives_another_machines_scale(exported):
    slow = {name: Controller.load(exported, backend=name) for name in ("numpy", *NATIVE, "onnx")}
    for name, each in slow.items():
        other = each.latency.rescaled(np.array([200.0, 210.0]), np.array([100.0, 100.0]))
        first = each.first_token_latency.rescaled(np.array([150.0]), np.array([100.0]))
        slow[name] = each.rescaled(latency=other, first_token_latency=first, overview_ms=2.0)
    for request in ({"budget_ms": 80.0}, {"first_token_budget_ms": 50.0}):
        ours, *others = (each.decide(context(), **request) for each in slow.values())
        assert [each.backend for each in slow.values()] == list(slow)
        for theirs in others:
            seen, expected = theirs.candidates, ours.candidates
            np.testing.assert_allclose(seen.mean_ms, expected.mean_ms, rtol=1e-5)
            np.testing.assert_allclose(seen.upper_ms, expected.upper_ms, rtol=1e-5)
            np.testing.assert_allclose(seen.first_upper_ms, expected.first_upper_ms, rtol=1e-5)
            assert theirs.action == ours.action


def test_many_threads_share_one_session(exported):
    loaded = Controller.load(exported, backend="onnx")
    jobs = [(index % 20, request) for index in range(200) for request in REQUESTS[:3]]
    serial = [loaded.decide(context(index), **request).action for index, request in jobs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda job: loaded.decide(context(job[0]), **job[1]).action, jobs))
    assert together == serial


@pytest.fixture
def large(monkeypatch) -> None:
    """Policies count as large, so that "auto" measures exported files."""
    monkeypatch.setattr(backends, "SMALL_WEIGHTS", 0)


def test_auto_measures_once_and_remembers(exported, tmp_path, monkeypatch, large):
    measured = []

    def measure(owner, candidates):
        assert candidates == ["numpy", *NATIVE, "onnx"]
        measured.append(owner)
        return {"numpy": 50.0, "onnx": 40.0}

    monkeypatch.setattr(backends, "_measure", measure)
    for _ in range(3):
        assert Controller.load(exported, cache_dir=tmp_path).backend == "onnx"
    assert len(measured) == 1
    [kept] = tmp_path.glob("*.json")
    assert json.loads(kept.read_text()) == {"backend": "onnx", "microseconds": {"numpy": 50.0, "onnx": 40.0}}
    kept.write_text('{"backend": "fortran"}')
    assert Controller.load(exported, cache_dir=tmp_path).backend == "onnx"
    assert len(measured) == 2


def test_auto_chooses_the_faster_by_real_measurements(exported, tmp_path, large):
    assert Controller.load(exported, cache_dir=tmp_path).backend in ("numpy", *NATIVE, "onnx")
    [kept] = tmp_path.glob("*.json")
    value = json.loads(kept.read_text())
    times = value["microseconds"]
    assert list(times) == ["numpy", *NATIVE, "onnx"]
    assert value["backend"] == min(times, key=times.get)
    assert all(0.0 < taken < 1e5 for taken in times.values())


@pytest.mark.skipif(not NATIVE, reason="installed without a C compiler")
def test_auto_does_not_measure_the_file_of_a_small_policy_that_compiled_code_serves(exported, tmp_path):
    Controller.load(exported, cache_dir=tmp_path)
    [kept] = tmp_path.glob("*.json")
    assert list(json.loads(kept.read_text())["microseconds"]) == ["numpy", "native"]


@pytest.mark.skipif(not NATIVE, reason="installed without a C compiler")
def test_auto_without_files_chooses_between_numpy_and_compiled_code(tmp_path):
    controller().save(tmp_path / "plain")
    Controller.load(tmp_path / "plain", cache_dir=tmp_path / "cache")
    [kept] = (tmp_path / "cache").glob("*.json")
    assert list(json.loads(kept.read_text())["microseconds"]) == ["numpy", "native"]


def test_auto_with_nothing_else_is_numpy_and_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "paceline.policies._native", None)
    controller().save(tmp_path / "plain")
    assert Controller.load(tmp_path / "plain", cache_dir=tmp_path / "cache").backend == "numpy"
    assert not (tmp_path / "cache").exists()


def test_auto_does_without_a_library_that_cannot_be_imported(exported, tmp_path, monkeypatch, large, caplog):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(backends, "find_spec", lambda _: True)
    assert Controller.load(exported, cache_dir=tmp_path).backend in ("numpy", *NATIVE)
    assert "choosing among the others" in caplog.text
    [kept] = tmp_path.glob("*.json")
    assert list(json.loads(kept.read_text())["microseconds"]) == ["numpy", *NATIVE]


@pytest.mark.parametrize("builds", [["onnxruntime-gpu"], ["onnxruntime", "onnxruntime-gpu"], []])
def test_auto_knows_builds_of_onnx_runtime_by_other_names(exported, tmp_path, monkeypatch, large, builds):
    def version(name):
        if name not in builds:
            raise backends.PackageNotFoundError(name)
        return "1.23"

    monkeypatch.setattr(backends, "version", version)
    assert backends._onnxruntime_builds() == [f"{name} 1.23" for name in builds]
    Controller.load(exported, cache_dir=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_a_kept_choice_nested_without_end_is_measured_again(exported, tmp_path, caplog):
    Controller.load(exported, cache_dir=tmp_path)
    for kept in tmp_path.glob("*.json"):
        kept.write_text("[" * 200_000)
        Controller.load(exported, cache_dir=tmp_path)
        assert "measuring again" in caplog.text


def test_a_cache_that_cannot_be_written_is_said_and_no_error(exported, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    assert Controller.load(exported, cache_dir=tmp_path / "file" / "below").backend in (
        "numpy",
        *NATIVE,
        "onnx",
    )
    assert "the choice of backend could not be kept" in caplog.text


def test_saving_takes_the_files_along(exported, tmp_path):
    Controller.load(exported, backend="numpy").save(tmp_path / "again")
    again = Controller.load(tmp_path / "again", backend="onnx")
    assert (
        again.decide(context(), budget_ms=40.0).action
        == Controller.load(exported, backend="numpy").decide(context(), budget_ms=40.0).action
    )
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == sorted(
        path.name for path in exported.iterdir()
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"backend": "jax"}, "backend: got 'jax', expected one of"),
        ({"backend": "onnx", "provider": "npu"}, "provider: got 'npu', expected one of"),
        (
            {"backend": "onnx", "provider": "tensorrt"},
            "provider 'tensorrt': .* is not present in this ONNX Runtime",
        ),
        ({"backend": "onnx", "precision": "int4"}, "precision: got 'int4', expected one of"),
        ({"backend": "numpy", "precision": "fp16"}, "which only backend 'onnx' reads"),
        ({"provider": "cuda"}, "which only backend 'onnx' reads"),
        ({"backend": "onnx", "provider": []}, r"provider: got \[\], expected one of"),
        ({"backend": "onnx", "precision": []}, r"precision: got \[\], expected one of"),
        ({"backend": ["numpy"]}, r"backend: got \['numpy'\], expected one of"),
        ({"cache_dir": 5}, "cache_dir: got 5, expected a directory"),
    ],
)
def test_what_does_not_exist_is_refused(exported, options, expected):
    with pytest.raises(ControllerError, match=expected):
        Controller.load(exported, **options)


def test_onnx_without_exported_files_is_refused(tmp_path):
    controller().save(tmp_path)
    with pytest.raises(ControllerError, match="has no exported files; export it with paceline export"):
        Controller.load(tmp_path, backend="onnx")


def damage(directory: Path, how: str) -> None:
    chosen = directory / json.loads((directory / "controller.json").read_text())["exports"]["chosen"]
    data = chosen.read_bytes()
    match how:
        case "missing":
            chosen.unlink()
        case "truncated":
            chosen.write_bytes(data[:-10])
        case "changed":
            chosen.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("missing", "the file is missing; export the controller again"),
        ("truncated", r"got \d+ bytes, expected \d+; the file is truncated"),
        ("changed", "do not match the hash in controller.json"),
    ],
)
def test_a_damaged_file_is_refused(copied, how, expected):
    damage(copied, how)
    with pytest.raises(ControllerError, match=expected):
        Controller.load(copied, backend="onnx")
    Controller.load(copied, backend="numpy")  # which does not read it


def test_a_file_of_another_controller_is_refused(exported):
    loaded = Controller.load(exported, backend="onnx")
    arrays = dict(loaded.policy.arrays)
    arrays["head.bias"] = arrays["head.bias"] + np.float32(0.1)
    policy = type(loaded.policy)(loaded.policy.spec, arrays)
    with pytest.raises(ControllerError, match="exported from another policy or latency estimate"):
        dataclasses.replace(loaded, policy=policy)


def test_an_operator_set_that_the_runtime_lacks_is_refused(exported):
    model = onnx.load(exported / "policy.onnx")
    model.opset_import[0].version = 999
    with pytest.raises(ControllerError, match=r"cannot run it .*Opset 999 .* till opset \d+") as caught:
        open_session(model.SerializeToString(), "policy.onnx")
    assert "std::" not in str(caught.value)
    model.opset_import[0].version, model.ir_version = 18, 99
    with pytest.raises(ControllerError, match=r"cannot run it \(Unsupported model IR version: 99, max"):
        open_session(model.SerializeToString(), "policy.onnx")


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_cannot_be_loaded_is_refused_and_not_replaced(
    exported, provider, monkeypatch, capsys
):
    import onnxruntime

    built = [*PROVIDERS.values()]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: built)
    with pytest.raises(ControllerError, match=f"provider '{provider}': .* could not be loaded here"):
        Controller.load(exported, backend="onnx", provider=provider)
    assert capsys.readouterr().out == ""


def tampered(model: onnx.ModelProto, how: str) -> None:
    match how:
        case "output renamed":
            [node] = [node for node in model.graph.node if node.output[0] == "scores"]
            model.graph.output[0].name = node.output[0] = "marks"
        case "one input more":
            model.graph.input.add().CopyFrom(model.graph.input[0])
            model.graph.input[-1].name = "mood"
        case "description that is no text":
            metadata = model.metadata_props.add()
            metadata.key, metadata.value = "maker", "Qq"
        case "another action":
            [ids] = [
                part for part in model.graph.initializer if list(part.dims) == [len(controller().actions)]
            ]
            ids.raw_data = (onnx.numpy_helper.to_array(ids) + 100_000).tobytes()


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("output renamed", "policy.onnx: marks is .*, expected no such part; the file was changed"),
        ("one input more", "policy.onnx: mood is .*, expected no such part; the file was changed"),
        ("description that is no text", "policy.onnx: its description is no text"),
        ("another action", "policy.onnx: it chose action 1000.., which the policy lacks"),
    ],
)
def test_a_file_that_was_changed_with_its_hash_is_refused(copied, how, expected):
    """Whoever changes a file can change the record of its hash as well."""
    model = onnx.load(copied / "policy.onnx")
    tampered(model, how)
    data = model.SerializeToString().replace(b"Qq", b"\xff\xfe")
    loaded = Controller.load(copied, backend="numpy")

    def decided() -> object:
        weigher = OnnxWeigher(loaded, open_session(data, "policy.onnx"), "policy.onnx")
        return dataclasses.replace(loaded, make_weigher=lambda owner: weigher).decide(context(), budget_ms=40)

    with pytest.raises(ControllerError, match=expected):
        decided()


def test_auto_refuses_a_damaged_file_whatever_it_kept(copied, tmp_path, monkeypatch):
    monkeypatch.setattr(backends, "_measure", lambda owner, names: {"numpy": 1.0, "onnx": 2.0})
    assert Controller.load(copied, cache_dir=tmp_path / "kept").backend == "numpy"
    damage(copied, "truncated")
    for cache_dir in (tmp_path / "kept", tmp_path / "fresh"):
        with pytest.raises(ControllerError, match="the file is truncated"):
            Controller.load(copied, cache_dir=cache_dir)


def test_a_file_that_is_no_model_is_refused():
    with pytest.raises(ControllerError, match="other.onnx: ONNX Runtime .* cannot run it"):
        open_session(b"no model at all", "other.onnx")


@pytest.mark.parametrize("name", ["image_features", "question_features"])
def test_features_that_are_no_numbers_are_refused_by_every_backend(exported, name):
    features = np.array(getattr(context(), name))
    for backend in ("numpy", *NATIVE, "torch", "onnx"):
        loaded = Controller.load(exported, backend=backend)
        broken, narrow = features.copy(), features[:-1]
        broken[0] = np.nan
        with pytest.raises(ControllerError, match="features: got NaN or infinity"):
            loaded.decide(dataclasses.replace(context(), **{name: broken}))
        with pytest.raises(ControllerError, match=f"{name}: got shape"):
            loaded.decide(dataclasses.replace(context(), **{name: narrow}))


def test_huge_but_finite_features_are_served():
    features = np.full_like(context().image_features, 1e30)  # its square is beyond float32
    decision = controller().decide(dataclasses.replace(context(), image_features=features), budget_ms=40.0)
    assert np.isfinite(decision.score)


def test_the_digest_is_of_what_decides_but_not_of_the_machine():
    own = decided_digest(controller())
    slower = controller().latency.rescaled(np.array([2.0]), np.array([1.0]))
    assert decided_digest(dataclasses.replace(controller(), latency=slower)) == own
    arrays = {k: v.copy() for k, v in controller().policy.arrays.items()}
    arrays["fusion.weight"][0, 0, 0] += 1.0
    policy = type(controller().policy)(controller().policy.spec, arrays)
    assert decided_digest(dataclasses.replace(controller(), policy=policy)) != own
    assert OnnxWeigher.backend == "onnx"


def test_deciding_loads_neither_torch_nor_pandas(exported, tmp_path):
    code = """
import sys
import numpy as np
from paceline.runtime.backends import with_backend
from paceline.runtime.controller import Controller
from paceline.runtime.decision import Context
loaded = Controller.load(sys.argv[1], backend=sys.argv[2], cache_dir=sys.argv[3])
spec, count = loaded.policy.spec, len(loaded.actions)
ones = np.ones(count, dtype=np.int64)
context = Context(image_features=np.zeros(spec.image_width, np.float32),
    question_features=np.zeros(spec.question_width, np.float32), tiles=ones, vision_tokens=ones, prompt_tokens=ones)
loaded.decide(context, budget_ms=1e4)
print(*(name for name in ("torch", "pandas", "onnx", "onnxruntime", "pyarrow", "sklearn") if name in sys.modules))
"""
    found = {
        backend: subprocess.run(
            [sys.executable, "-c", code, str(exported), backend, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for backend in ("numpy", *NATIVE, "onnx", *(("auto",) if NATIVE else ()))
    }
    assert found == {**{key: [] for key in found}, "onnx": ["onnxruntime"]}


def test_the_shipped_controller_is_small_and_was_checked():
    loaded = Controller.load("tiny", backend="numpy")
    assert loaded.exports is not None
    directory = loaded.exports.directory
    assert sum(path.stat().st_size for path in directory.iterdir()) <= 5e6
    gates = {gate["precision"]: gate for gate in loaded.exports.gates}
    assert loaded.exports.record["requests"] == 2000
    assert gates["fp32"]["passed"]
    assert gates["fp32"]["score_error"] <= 1e-5
    assert all(gate["passed"] or gate["reason"] for gate in gates.values())
    by_file = with_backend(loaded, "onnx", precision="fp32")
    count, spec = len(loaded.actions), loaded.policy.spec
    rng = np.random.default_rng(0)
    for budget in (10.0, 20.0, 30.0, 45.0):
        seen = Context(
            image_features=rng.normal(size=spec.image_width).astype(np.float32),
            question_features=rng.normal(size=spec.question_width).astype(np.float32),
            tiles=rng.integers(1, 13, count),
            vision_tokens=rng.integers(16, 150, count),
            prompt_tokens=rng.integers(40, 200, count),
        )
        ours, theirs = (each.decide(seen, budget_ms=budget).candidates for each in (loaded, by_file))
        np.testing.assert_allclose(theirs.values, ours.values, atol=1e-5)
        np.testing.assert_array_equal(theirs.feasible, ours.feasible)
