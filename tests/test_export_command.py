"""`paceline export`: what it writes, records and refuses."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

import controllers
from command_line import message, run, run_json
from paceline.errors import ExportError
from paceline.export import gates, precisions
from paceline.export.contexts import drawn_requests
from paceline.export.gates import Gate, fastest
from paceline.outcomes.store import write_table
from paceline.outcomes.table import CELL_FIELDS
from paceline.report.export_table import export_table
from paceline.runtime.controller import Controller
from paceline.workflows.exporting import ExportOptions, export_controller


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A controller and outcomes, in one directory."""
    path = tmp_path_factory.mktemp("export")
    write_table(path / "outcomes", controllers.table())
    controllers.controller().save(path / "controller")
    return path


@pytest.fixture
def copied(files, tmp_path):
    return shutil.copytree(files / "controller", tmp_path / "controller")


def test_export_adds_checked_files_to_the_controller(copied, files):
    before = Controller.load(copied)
    value = run_json("export", copied, files / "outcomes", "--requests", 300)
    assert value["requests"] == 300
    assert value["opset"] == 18
    by_precision = {gate["precision"]: gate for gate in value["gates"]}
    assert list(by_precision) == ["fp32", "fp16", "int8_dynamic", "int8_static"]
    assert by_precision["fp32"]["passed"]
    assert by_precision["fp32"]["score_error"] <= gates.SCORE_TOLERANCE
    for gate in value["gates"]:
        assert (copied / gate["file"]).stat().st_size == gate["size_bytes"]
        assert gate["passed"] == (gate["reason"] == "passed")
        assert 0.0 <= gate["agreement"] <= 1.0
        assert gate["microseconds"] > 0.0
    chosen = {gate["file"]: gate for gate in value["gates"]}[value["chosen"]]
    assert chosen["passed"]
    assert chosen["microseconds"] == min(gate["microseconds"] for gate in value["gates"] if gate["passed"])
    stored = json.loads((copied / "controller.json").read_text())
    assert stored["exports"]["gates"] == value["gates"]
    assert Controller.load(copied).fingerprint == before.fingerprint


def test_export_says_in_a_table_what_was_chosen_and_why_others_were_not(files, tmp_path):
    said = run(
        "export", files / "controller", files / "outcomes", "--out", tmp_path / "out", "--requests", 100
    )
    assert said.exit_code == 0, said.stderr
    lines = said.stdout.splitlines()
    assert lines[0].split() == "file size score error agreement accuracy one request check".split()
    assert [line.split()[0] for line in lines[1:5]] == [
        "policy.onnx",
        "policy.fp16.onnx",
        "policy.int8.onnx",
        "policy.int8_static.onnx",
    ]
    assert lines[5].endswith("of 100 requests compared with torch; opset 18")
    assert not (files / "controller" / "policy.onnx").exists()
    assert (tmp_path / "out" / "policy.onnx").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--opset", 5), "opset: got 5, expected an integer from 18 to"),
        (("--opset", 500), "opset: got 500, expected an integer from 18 to"),
        (("--requests", 0), "requests: got 0, expected a whole number of at least 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(files, tmp_path, words, expected):
    said = run("export", files / "controller", files / "outcomes", "--out", tmp_path / "out", *words)
    assert said.exit_code == 2
    assert expected in message(said)
    assert not (tmp_path / "out" / "policy.onnx").exists()


def test_a_shipped_controller_is_not_written_into(files):
    said = run("export", "tiny", files / "outcomes")
    assert said.exit_code == 2
    assert "'tiny' is part of the package; name a directory for a copy of it with --out" in message(said)


def test_outcomes_are_not_written_into(files):
    outcomes = files / "outcomes"
    before = sorted(path.name for path in outcomes.iterdir())
    said = run("export", files / "controller", outcomes, "--out", outcomes)
    assert said.exit_code == 2
    assert "holds outcomes (manifest.json)" in message(said)
    assert sorted(path.name for path in outcomes.iterdir()) == before


def test_outcomes_of_another_controller_are_refused(files, tmp_path):
    said = run("export", "tiny", files / "outcomes", "--out", tmp_path)
    assert said.exit_code == 2
    assert "name the outcomes it was trained on" in message(said)


def test_outcomes_without_the_controllers_configurations_are_refused(files, tmp_path):
    table = controllers.table()
    kept = np.arange(len(table.actions)) > 1
    part = {name: getattr(table, name)[:, kept] for name in CELL_FIELDS}
    write_table(tmp_path / "part", replace(table, actions=table.actions[kept], **part))
    said = run("export", files / "controller", tmp_path / "part", "--out", tmp_path / "out")
    assert said.exit_code == 2
    assert "export: 2 of the controller's" in message(said)
    assert "configurations were not tested in the outcomes" in message(said)


def test_outcomes_with_features_of_another_maker_are_refused(files, tmp_path):
    table = controllers.table()
    options = table.manifest.options | {"features": {"kind": "columns"}}
    write_table(tmp_path / "other", replace(table, manifest=replace(table.manifest, options=options)))
    said = run("export", files / "controller", tmp_path / "other", "--out", tmp_path / "out")
    assert said.exit_code == 2
    assert "their features were made by columns" in message(said)


def test_outcomes_without_validation_samples_are_refused(files, tmp_path):
    write_table(tmp_path / "train", controllers.table().split_rows("train"))
    said = run("export", files / "controller", tmp_path / "train", "--out", tmp_path / "out")
    assert said.exit_code == 2
    assert "split 'validation' of the outcomes has no samples" in message(said)


def test_without_onnx_the_extra_is_named(files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    said = run("export", files / "controller", files / "outcomes", "--out", tmp_path / "out")
    assert said.exit_code == 2
    assert "pip install 'paceline[onnx]'" in message(said)


def test_without_onnxruntime_the_backend_names_the_extra(files, copied, monkeypatch):
    run_json("export", copied, files / "outcomes", "--requests", 50)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    said = run("evaluate", copied, files / "outcomes")  # the default does not need it
    assert said.exit_code == 0, message(said)
    words = ("--outcomes", files / "outcomes", "--sample", "train-0-0", "--backend", "onnx")
    said = run("decide", copied, *words)
    assert said.exit_code == 2
    assert (
        "backend 'onnx' needs onnxruntime, which is not installed; install it with: pip install"
        in message(said)
    )


def test_decide_takes_the_precision_and_the_provider_of_an_exported_file(files, copied):
    run_json("export", copied, files / "outcomes", "--requests", 50)
    words = ("decide", copied, "--outcomes", files / "outcomes", "--sample", "train-0-0", "--budget-ms", 40)
    value = run_json(*words, "--backend", "onnx", "--precision", "fp32")
    assert value["configuration"] == run_json(*words, "--backend", "numpy")["configuration"]
    said = run(*words, "--backend", "onnx", "--provider", "npu")
    assert said.exit_code == 2
    assert "provider: got 'npu', expected one of" in message(said)


SPEEDS = {"fp32": 50.0, "int8_dynamic": 40.0}


@pytest.mark.parametrize(
    ("precision", "error", "agreement", "difference", "speeds", "expected"),
    [
        ("fp32", 9e-6, 0.99, None, SPEEDS, "passed"),
        ("fp32", 9e-6, 0.9899, 0.0, SPEEDS, "disagrees: 98.99% of its decisions are torch's"),
        ("fp32", 9e-6, 1.0, 0.0021, SPEEDS, "accuracy: its decisions are +0.21 points from torch's"),
        ("fp32", None, 1.0, 0.0, SPEEDS, "scores: some are not finite"),
        ("fp16", None, 1.0, 0.0, SPEEDS, "scores: some are not finite"),
        ("fp32", 2e-5, 1.0, 0.0, SPEEDS, "differs from torch: scores by up to 2e-05, expected 1e-05 at most"),
        ("int8_dynamic", 0.1, 0.99, 0.002, SPEEDS, "passed"),
        ("int8_dynamic", 0.1, 1.0, None, SPEEDS, "accuracy: not known of any of its decisions"),
        ("int8_dynamic", 0.1, 0.9899, 0.0, SPEEDS, "disagrees: 98.99% of its decisions are torch's"),
        ("int8_dynamic", 0.1, 1.0, 0.0021, SPEEDS, "accuracy: its decisions are +0.21 points from torch's"),
        ("int8_dynamic", 0.1, 1.0, -0.0021, SPEEDS, "accuracy: its decisions are -0.21 points from torch's"),
        (
            "int8_dynamic",
            0.1,
            1.0,
            0.0,
            {**SPEEDS, "int8_dynamic": 50.0},
            "slower: 50.0 us per request against 50.0",
        ),
    ],
)
def test_each_check_refuses_on_its_own(precision, error, agreement, difference, speeds, expected):
    assert gates._reason(precision, error, agreement, difference, speeds).startswith(expected)


def gate(precision: str, microseconds: float, passed: bool) -> Gate:
    return Gate(
        precision=precision,
        file=f"{precision}.onnx",
        size_bytes=1,
        score_error=0.0,
        agreement=1.0,
        accuracy_difference=None,
        microseconds=microseconds,
        passed=passed,
        reason="passed" if passed else "disagrees",
    )


def test_the_fastest_that_passed_decides():
    assert (
        fastest([gate("fp32", 9.0, True), gate("fp16", 8.0, True), gate("int8", 2.0, False)]).precision
        == "fp16"
    )
    with pytest.raises(ExportError, match=r"no exported file passed its checks: fp32.onnx disagrees"):
        fastest([gate("fp32", 9.0, False)])


class Leaning:
    """A session that is wrong about a share of the requests it answers one by one, or together."""

    def __init__(self, reference, known, *, alone, together):
        self.reference, self.known, self.shares, self.asked = (
            reference,
            known,
            {True: alone, False: together},
            0,
        )

    def run(self, names, inputs):
        count = len(inputs["price"])
        rows = np.arange(self.asked, self.asked + count) % len(self.reference.column)
        self.asked += count
        wrong = rows < self.shares[count == 1] * len(self.reference.column)
        column = np.where(
            wrong, (self.reference.column[rows] + 1) % len(self.known), self.reference.column[rows]
        )
        return [
            self.reference.scores[rows],
            np.where(self.reference.column[rows] < 0, -1, self.known[column]),
        ]


@pytest.mark.parametrize(("alone", "together", "least"), [(0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.0, 0.0, 1.0)])
def test_agreement_is_the_less_of_one_by_one_and_together(alone, together, least, monkeypatch):
    made, table = controllers.controller(), controllers.table()
    source = precisions.Source(
        spec=made.policy.spec,
        arrays=made.policy.arrays,
        latency=made.latency,
        first_token_latency=made.first_token_latency,
        metadata={},
    )
    requests = drawn_requests(
        table, source.spec, split="validation", count=80, seed=0, scales=(1.0, 1.0), margins=(1.0, 1.0)
    )
    reference = gates.Reference.of(source, requests)
    fits = float(np.mean(reference.column >= 0))
    leaning = Leaning(reference, np.array(source.spec.actions), alone=alone, together=together)
    monkeypatch.setattr(gates, "session", lambda _: leaning)
    monkeypatch.setattr(gates, "_speeds", lambda sessions, _: dict.fromkeys(sessions, 1.0))
    [found] = gates.check_models(source, {"fp32": b""}, {"fp32": "policy.onnx"}, requests)
    assert found.agreement == pytest.approx(1.0 - (1.0 - least) * fits, abs=0.1)
    assert found.passed == (least == 1.0)


def test_a_precision_that_cannot_hold_the_numbers_is_told_so_and_the_others_decide(files, tmp_path):
    """The same function with a first layer that float16 cannot hold."""
    made = controllers.controller()
    arrays = dict(made.policy.arrays)
    for name, factor in (("input.weight", 3e4), ("input.bias", 3e4), ("fusion.weight", 1 / 3e4)):
        arrays[name] = (arrays[name] * factor).astype(np.float32)
    wide = replace(made, policy=type(made.policy)(made.policy.spec, arrays))
    exported = export_controller(
        wide, controllers.table(), tmp_path, ExportOptions(requests=40, calibration_requests=40)
    )
    half = next(each for each in exported.gates if each.precision == "fp16")
    assert (half.score_error, half.passed) == (None, False)
    assert half.reason.startswith("scores: some are not finite")
    record = exported.controller.exports
    assert record is not None
    assert "none" in "\n".join(export_table(record.record))
    assert Controller.load(tmp_path, backend="onnx").backend == "onnx"


def test_an_export_that_is_stopped_leaves_the_controller_as_it_was(files, copied, monkeypatch):
    table, options = controllers.table(), ExportOptions(requests=40, calibration_requests=40)
    export_controller(Controller.load(copied, backend="numpy"), table, copied, options)
    before = {path.name: path.read_bytes() for path in copied.iterdir()}

    def stopped(*_):
        raise KeyboardInterrupt

    other = ExportOptions(requests=40, calibration_requests=40, seed=3)
    for place in ("paceline.runtime.storage.os.fsync", "paceline.workflows.exporting.OnnxWeigher"):
        with monkeypatch.context() as patched:
            patched.setattr(place, stopped)
            with pytest.raises(KeyboardInterrupt):
                export_controller(Controller.load(copied, backend="numpy"), table, copied, other)
        assert {path.name: path.read_bytes() for path in copied.iterdir()} == before
    assert Controller.load(copied, backend="onnx").backend == "onnx"


def test_a_quantiser_that_fails_is_told_with_both_versions(files, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("tensor is stored elsewhere")

    monkeypatch.setattr("onnxruntime.quantization.quantize_dynamic", broken)
    said = run("export", files / "controller", files / "outcomes", "--out", tmp_path / "o", "--requests", 60)
    assert said.exit_code == 2
    assert "cannot make int8_dynamic of it with onnx" in message(said)
    assert "tensor is stored elsewhere" in message(said)


def test_a_file_with_other_weights_fails_against_torch(monkeypatch, files, tmp_path):
    """The comparison can fail: weights that were changed on the way are found out."""
    honest = precisions.Source.__init__

    def altered(self, **values):
        values["arrays"] = {k: v * 1.001 for k, v in values["arrays"].items()}
        honest(self, **values)

    original = gates.Reference.of

    def reference(source, requests):
        arrays = {k: v / 1.001 for k, v in source.arrays.items()}
        kept = object.__new__(precisions.Source)
        honest(
            kept,
            spec=source.spec,
            arrays={k: v.astype("float32") for k, v in arrays.items()},
            latency=source.latency,
            first_token_latency=source.first_token_latency,
            metadata={},
        )
        return original(kept, requests)

    monkeypatch.setattr(precisions.Source, "__init__", altered)
    monkeypatch.setattr(gates.Reference, "of", staticmethod(reference))
    said = run("export", files / "controller", files / "outcomes", "--out", tmp_path / "o", "--requests", 60)
    assert said.exit_code == 2
    assert "policy.onnx differs from torch" in message(said)
    assert not (tmp_path / "o" / "policy.onnx").exists()
