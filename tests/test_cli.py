"""The command line on the fake model: what every command prints, writes and answers."""

import errno
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import controllers
import paceline
import paceline.cli.app
import paceline.cli.output
import paceline.workflows.demo
from command_line import SleepingModel, message, put_fakes, run, run_json
from fakes import OVERVIEW_MS, FakeTask
from paceline.errors import PacelineError
from paceline.outcomes.store import read_table, write_table
from paceline.runtime.controller import Controller
from paceline.workflows.deciding import recorded_context
from paceline.workflows.training import profiled_overview_ms
from quick_options import QUICK_WORDS

TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def fake_model(monkeypatch, tmp_path):
    put_fakes(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "outcomes"
    write_table(path, controllers.table())
    return path


@pytest.fixture(scope="session")
def controller(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "controller"
    controllers.controller().save(path)
    return path


@pytest.fixture
def image(tmp_path):
    task = FakeTask()
    path = tmp_path / "scene.png"
    task.image(task.samples("test", 1)[0]).save(path)
    return path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--version"], f"paceline {paceline.__version__}"),
        (["--help"], "profile"),
        (["knobs", "fake"], "num_active_blocks  8, 12, 16"),
        *[([name, "--help"], "--json") for name in paceline.cli.app.COMMANDS],
    ],
)
def test_what_is_printed(words, expected):
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    assert expected in result.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fly"], "No such command 'fly'"),
        (["knobs"], "Missing argument 'MODEL'"),
        (["knobs", "fake", "--loud"], "No such option: --loud"),
        (["profile", "fake", "--task", "fake"], "Missing option '--out'"),
        (
            ["profile", "fake", "--task", "fake", "--out", "o", "--samples", "many"],
            "Invalid value for '--samples'",
        ),
    ],
)
def test_usage_errors_exit_with_2(words, expected):
    result = run(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert expected in result.stderr


def test_knobs_json():
    value = run_json("knobs", "fake")
    assert value["configurations"] == 27
    assert value["full"] == {"max_crops": 12, "top_k": 32, "num_active_blocks": 16}
    assert [knob["name"] for knob in value["knobs"]] == ["max_crops", "top_k", "num_active_blocks"]


PROFILE = ["profile", "fake", "--task", "fake", "--configurations", 6, "--samples", 40, "--timed-samples", 12]


def test_profile_writes_outcomes_and_says_so(tmp_path):
    value = run_json(*PROFILE, "--out", tmp_path / "o")
    assert (value["samples"], value["configurations"]) == (40, 6)
    table = read_table(tmp_path / "o")
    assert table.accuracy.shape == (40, 6)
    assert value["audit"]["timed_samples"] == 12
    assert profiled_overview_ms(tmp_path / "o") == OVERVIEW_MS
    again = run(*PROFILE, "--out", tmp_path / "o")
    assert again.exit_code == 0
    assert "finished already" in again.stderr


@pytest.mark.parametrize(
    ("plan", "more"),
    [("stratified", []), ("boundary", ["--scout-samples", 20]), ("successive", ["--bound", 0.2])],
)
def test_profile_by_an_adaptive_plan_says_how_it_ended(plan, more, tmp_path):
    words = [
        "profile",
        "fake",
        "--task",
        "fake",
        "--configurations",
        12,
        "--samples",
        40,
        "--timed-samples",
        20,
    ]
    value = run_json(*words, "--plan", plan, *more, "--out", tmp_path / "o")
    rounds = value["audit"]["plan"]["rounds"]
    assert value["configurations"] == sum(len(part["actions"]) for part in rounds)
    assert value["configurations"] == 12 or plan == "successive"
    assert read_table(tmp_path / "o").manifest.options["plan"] == plan
    again = run(*words, "--plan", plan, *more, "--out", tmp_path / "o")
    assert f"plan {plan}: {len(rounds) - 1} rounds, then {rounds[-1]['reason']}" in again.stdout


def test_train_then_evaluate_the_controller(outcomes, tmp_path):
    trained = run_json("train", outcomes, "--out", tmp_path / "c", "--epochs", 2, *QUICK_WORDS)
    assert trained["facts"]["algorithm"] == "grpo"
    assert Controller.load(tmp_path / "c").space.size == 27
    assert profiled_overview_ms(outcomes) is None  # this table came without phases
    value = run_json(
        "evaluate", tmp_path / "c", outcomes, "--replicates", 100, "--report", tmp_path / "report.html"
    )
    for mode in ("hard", "average"):
        names = {"paceline", "best_static", "full", "cheapest", "lookup", "oracle"}
        assert names <= set(value[mode]["accuracy"])
        lengths = {len(value[mode]["accuracy"][name]) for name in names}
        assert lengths == {len(value[mode]["budgets_ms"])}
        assert lengths.pop() >= 6
        assert len(value[mode]["closed_gap_ci"]) == len(value[mode]["closed_gap"])
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    text = run("evaluate", tmp_path / "c", outcomes, "--replicates", 100)
    assert text.exit_code == 0
    assert "accuracy in %" in text.stdout


def test_compare_judges_every_learner(outcomes, tmp_path):
    words = ["--replicates", 100, "--out", tmp_path / "results" / "compare.json"]
    value = run_json("compare", outcomes, *words, *QUICK_WORDS)
    assert {"paceline", "supervised", "lookup", "oracle"} <= set(value["hard"]["accuracy"])
    assert json.loads((tmp_path / "results" / "compare.json").read_text()) == value


def test_calibrate_writes_a_scaled_controller(controller, tmp_path, monkeypatch):
    put_fakes(monkeypatch, SleepingModel())
    value = run_json("calibrate", controller, "fake", "--out", tmp_path / "here")
    assert value["ratio"] > 0
    assert Controller.load(tmp_path / "here").scale != 1.0
    assert len(value["measured_ms"]) == len(value["predicted_ms"])


def decide_words(controller, image, *more):
    return ["decide", controller, "--image", image, "--prompt", "small question 1", "--model", "fake", *more]


def test_decide_respects_the_budget_and_explains(controller, image):
    tight = run_json(*decide_words(controller, image, "--no-calibrate", "--budget-ms", 6))
    loose = run_json(*decide_words(controller, image, "--no-calibrate", "--budget", "100%"))
    assert tight["reason"] == loose["reason"] == "policy"
    assert tight["upper_ms"] <= 6
    assert tight["feasible"] < loose["feasible"]
    assert loose["budget_ms"] == pytest.approx(loose["full_ms"])
    text = run(*decide_words(controller, image, "--no-calibrate", "--budget-ms", 6, "--explain"))
    assert text.exit_code == 0
    assert "over the budget" in text.stdout


def test_decide_for_a_recorded_sample_is_what_a_live_request_gets(controller, outcomes):
    table = read_table(outcomes)
    words = ["decide", controller, "--outcomes", outcomes, "--sample", table.sample_id[3], "--budget-ms", 6]
    made = run_json(*words)
    loaded = Controller.load(controller)
    expected = loaded.decide(recorded_context(table, loaded, table.sample_id[3]), budget_ms=6)
    assert made["configuration"] == dict(expected.configuration)
    assert made["upper_ms"] <= 6
    np.testing.assert_array_equal(
        recorded_context(table, loaded, table.sample_id[3]).image_features, table.image_features[3]
    )


def test_decide_by_any_backend(controller, outcomes):
    sample = read_table(outcomes).sample_id[3]
    words = ["decide", controller, "--outcomes", outcomes, "--sample", sample, "--budget-ms", 6]
    made = [run_json(*words, "--backend", name)["configuration"] for name in ("auto", "numpy", "torch")]
    assert made[0] == made[1] == made[2]
    for name, expected in (
        ("onnx", "has no exported files; export it with paceline export"),
        ("abacus", "backend: got 'abacus', expected one of ['auto', 'native', 'numpy', 'onnx', 'torch']"),
    ):
        said = run(*words, "--backend", name)
        assert said.exit_code == 2
        assert expected in message(said)


def test_decide_says_what_it_cannot_decide_about(controller, outcomes, image, tmp_path):
    both = ["--image", image, "--prompt", "x", "--outcomes", outcomes, "--sample", "y"]
    for words in ([], ["--image", image], ["--outcomes", outcomes], both):
        assert "expected --image FILE and --prompt TEXT, or --outcomes" in message(
            run("decide", controller, *words)
        )
    nobody = run("decide", controller, "--outcomes", outcomes, "--sample", "nobody")
    assert "sample: got 'nobody', expected one of" in message(nobody)
    table = read_table(outcomes)
    other = replace(table.manifest, options=table.manifest.options | {"features": {"kind": "columns"}})
    write_table(tmp_path / "other", replace(table, manifest=other))
    mixed = run("decide", controller, "--outcomes", tmp_path / "other", "--sample", table.sample_id[0])
    assert "features were made by columns" in message(mixed)


def test_decide_under_an_average_budget_has_a_price(controller, image):
    free = run_json(*decide_words(controller, image, "--no-calibrate"))
    priced = run_json(*decide_words(controller, image, "--no-calibrate", "--average-budget-ms", 4.2))
    assert free["price"] == 0
    assert priced["price"] > 0


def test_decide_calibrates_once_and_says_so(controller, image, monkeypatch):
    put_fakes(monkeypatch, SleepingModel())
    first, second = (run(*decide_words(controller, image, "--budget-ms", 60)) for _ in range(2))
    assert first.exit_code == second.exit_code == 0
    assert "calibrating" in first.stderr
    assert "calibrating" not in second.stderr
    assert "using the calibration" in second.stderr


def test_demo_runs_everything(tmp_path, monkeypatch):
    monkeypatch.setattr(paceline.workflows.demo, "load_model", lambda name: SleepingModel())
    monkeypatch.setattr(paceline.workflows.demo, "load_task", lambda name: FakeTask())
    value = run_json("demo", "--quick", "--out", tmp_path / "demo")
    for mode in ("hard", "average"):
        for name in (
            "paceline",
            "best_static",
            "full",
            "cheapest",
            "lookup",
            "supervised",
            "oracle",
            "stacking",
            "grpo_teacher",
        ):
            assert len(value[mode]["accuracy"][name]) == len(value[mode]["budgets_ms"])
        assert {"closed_gap", "closed_gap_ci"} <= set(value[mode])
        live = value["live"][mode]
        assert live["requests"] == 20
        assert 0 <= live["accuracy"] <= 1
        assert 0 <= live["best_static_accuracy"] <= 1
        assert {"violation_rate", "mean_latency_ms", "budget_ms"} <= set(live)
    assert 0 < value["overhead_share"] < 1
    assert set(value["seconds"]) == {"profile", "train", "compare", "live", "report"}
    assert Path(value["report"]).read_text().count("<img") == 3
    assert json.loads((tmp_path / "demo" / "results.json").read_text())["live"] == value["live"]
    assert Controller.load(value["controller"]).guard.overview_ms == OVERVIEW_MS


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (PacelineError("the moon is in the way"), 2, "error: the moon is in the way"),
        (KeyboardInterrupt(), 130, "error: interrupted; finished work is kept"),
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), 2, "error: /data/x: the disk is full"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/data/x"),
            2,
            "error: /data/x: Permission denied",
        ),
    ],
)
@pytest.mark.parametrize("command", paceline.cli.app.COMMANDS)
def test_every_command_translates_errors(
    command, error, code, expected, outcomes, controller, image, tmp_path, monkeypatch
):
    places = {
        "knobs": ("paceline.models.registry.load_model", ["fake"]),
        "profile": ("paceline.profiling.sweep.profile", [*PROFILE[1:], "--out", tmp_path]),
        "import": ("paceline.outcomes.importers.importing.import_outcomes", [outcomes, "--out", tmp_path]),
        "train": ("paceline.learning.train.train_controller_policy", [outcomes, "--out", tmp_path]),
        "reward-model": (
            "paceline.learning.reward_examples.read_reward_examples",
            [image, "--out", tmp_path],
        ),
        "evaluate": ("paceline.evaluation.evaluate.evaluate_controller", [controller, outcomes]),
        "compare": ("paceline.evaluation.compare.compare", [outcomes]),
        "export": (
            "paceline.workflows.exporting.export_controller",
            [controller, outcomes, "--out", tmp_path],
        ),
        "calibrate": ("paceline.runtime.adaptive.measure_machine", [controller, "fake"]),
        "decide": ("paceline.workflows.deciding.live_context", decide_words(controller, image)[1:]),
        "explain": ("paceline.workflows.explaining.explain_controller", [controller, outcomes]),
        "demo": ("paceline.workflows.demo.run_demo", ["--out", tmp_path]),
    }
    place, words = places[command]

    def fail(*args, **options):
        raise error

    monkeypatch.setattr(place, fail)
    if command == "train":
        monkeypatch.setattr("paceline.workflows.training.train_controller_policy", fail)
    result = run(command, *words)
    assert result.exit_code == code, result.exception
    assert expected in result.stderr
    assert result.stdout == ""


def test_other_errors_stay_tracebacks(monkeypatch):
    monkeypatch.setattr("paceline.models.registry.load_model", lambda name: 1 / 0)
    assert isinstance(run("knobs", "fake").exception, ZeroDivisionError)
    monkeypatch.setattr(
        "paceline.models.registry.load_model", lambda name: (_ for _ in ()).throw(OSError(5, "io"))
    )
    assert isinstance(run("knobs", "fake").exception, OSError)


def test_json_refuses_nan():
    with pytest.raises(ValueError, match="JSON"):
        paceline.cli.output.to_json({"gap": float("nan")})


def start_profile(out):
    words = [sys.executable, TESTS / "fake_paceline.py", *PROFILE, "--shard-samples", 4, "--out", out]
    process = subprocess.Popen(
        [str(word) for word in words],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell's background job ignores Ctrl-C, and so would every process below it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while len(list(out.glob("shards/*.parquet"))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_while_profiling_keeps_finished_shards(tmp_path, number, code, word):
    process = start_profile(tmp_path / "o")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"error: {word}; finished work is kept" in err
    assert out == ""
    kept = {path.name: path.read_bytes() for path in (tmp_path / "o").glob("shards/*.parquet")}
    assert kept
    resumed = run(*PROFILE, "--shard-samples", 4, "--out", tmp_path / "o")
    assert resumed.exit_code == 0, resumed.stderr
    assert "were finished before; going on" in resumed.stderr
    assert read_table(tmp_path / "o").accuracy.shape == (40, 6)


def test_a_full_disk_while_profiling_keeps_finished_shards(tmp_path, monkeypatch):
    import paceline.outcomes.files

    real, calls = paceline.outcomes.files.sync, []

    def full(path):
        calls.append(path)
        if len(list((tmp_path / "o").glob("shards/*.parquet"))) >= 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path)

    monkeypatch.setattr(paceline.outcomes.files, "sync", full)
    words = [*PROFILE, "--shard-samples", 4, "--out", tmp_path / "o"]
    assert "the disk is full; finished work is kept" in message(run(*words))
    monkeypatch.setattr(paceline.outcomes.files, "sync", real)
    resumed = run(*words)
    assert resumed.exit_code == 0, resumed.stderr
    assert "3 of 10 shards were finished before" in resumed.stderr


def test_a_full_disk_for_results(outcomes):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    words = ["compare", outcomes, "--replicates", 100, "--algorithms", "supervised", "--out", "/dev/full"]
    assert "the disk is full" in message(run(*words))
