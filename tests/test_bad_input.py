"""Whatever a user gets wrong ends in one clear message and exit code 2. Ctrl-C and full disks: test_cli.py."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import controllers
from command_line import message, put_fakes, run, run_json
from fakes import FAKE_SPACE, FakeTask
from molmoe_models import random_model
from paceline.knobs import Knob, KnobSpace
from paceline.models.molmoe.elastic import ElasticMolmoE
from paceline.models.molmoe.options import TINY
from paceline.outcomes.store import write_table


@pytest.fixture(autouse=True)
def fake_model(monkeypatch, tmp_path):
    put_fakes(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def good_outcomes(tmp_path_factory):
    path = tmp_path_factory.mktemp("bad_input") / "outcomes"
    write_table(path, controllers.table())
    return path


@pytest.fixture
def outcomes(good_outcomes, tmp_path):
    return shutil.copytree(good_outcomes, tmp_path / "outcomes")


@pytest.fixture(scope="session")
def good_controller(tmp_path_factory):
    path = tmp_path_factory.mktemp("bad_input") / "controller"
    controllers.controller().save(path)
    return path


@pytest.fixture
def controller(good_controller, tmp_path):
    return shutil.copytree(good_controller, tmp_path / "controller")


@pytest.fixture
def image(tmp_path):
    task = FakeTask()
    path = tmp_path / "scene.png"
    task.image(task.samples("test", 1)[0]).save(path)
    return path


# Names and options


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["knobs", "giant"], "model 'giant': neither a known model"),
        (["knobs", ""], "model"),
        (["profile", "giant", "--task", "digits", "--out", "OUT"], "model 'giant'"),
        (["profile", "fake", "--task", "chess", "--out", "OUT"], "task: got 'chess', expected one of"),
        (["profile", "fake", "--task", "fake", "--out", "OUT", "--plan", "random"], "plan: got 'random'"),
        (["profile", "fake", "--task", "fake", "--out", "OUT", "--configurations", 28], "expected 2 to 27"),
        (
            [
                "profile",
                "fake",
                "--task",
                "fake",
                "--out",
                "OUT",
                "--plan",
                "boundary",
                "--configurations",
                28,
            ],
            "expected 2 to 27",
        ),
        (
            ["profile", "fake", "--task", "fake", "--out", "OUT", "--plan", "successive", "--bound", 0],
            "bound: got 0.0, expected a difference in accuracy, above 0 and below 1",
        ),
        (
            ["profile", "fake", "--task", "fake", "--out", "OUT", "--plan", "successive", "--bound", -0.1],
            "bound: got -0.1",
        ),
        (["profile", "fake", "--task", "fake", "--out", "OUT", "--bound", 0.1], "bound: plan lhs has none"),
        (
            ["profile", "fake", "--task", "fake", "--out", "OUT", "--scout-samples", 50],
            "scout_samples: plan lhs needs none",
        ),
        (
            [
                "profile",
                "fake",
                "--task",
                "fake",
                "--out",
                "OUT",
                "--plan",
                "stratified",
                "--timed-samples",
                0,
            ],
            "timed_samples: got 0, expected 8 or more",
        ),
        (
            ["profile", "fake", "--task", "fake", "--out", "OUT", "--configurations", 0],
            "configurations: got 0",
        ),
        (["profile", "fake", "--task", "fake", "--out", "OUT", "--samples", 0], "samples: got 0"),
        (
            ["profile", "fake", "--task", "fake", "--out", "OUT", "--samples", 5, "--timed-samples", 6],
            "at most the 5",
        ),
        (["train", "nowhere", "--out", "OUT"], "nowhere"),
        (
            ["train", "OUTCOMES", "--out", "OUT", "--algorithm", "magic"],
            "algorithm: got 'magic', expected one of",
        ),
        (["train", "OUTCOMES", "--out", "OUT", "--head", "two"], "head: got 'two'"),
        (["train", "OUTCOMES", "--out", "OUT", "--reward", "v3"], "reward: got 'v3'"),
        (["train", "OUTCOMES", "--out", "OUT", "--group-size", 1], "group_size: got 1"),
        (["train", "OUTCOMES", "--out", "OUT", "--violation-rate", 1.5], "violation rate"),
        (["compare", "OUTCOMES", "--algorithms", "grpo,magic"], "learners: got 'grpo,magic'"),
        (["compare", "OUTCOMES", "--algorithms", "grpo,grpo"], "each once"),
        (["compare", "OUTCOMES", "--replicates", 1], "replicates: got 1"),
        (["evaluate", "nowhere", "OUTCOMES"], "nowhere"),
        (["evaluate", "CONTROLLER", "OUTCOMES", "--seed", -1], "seed: got -1, expected a whole number"),
        (["evaluate", "CONTROLLER", "OUTCOMES", "--replicates", 1], "replicates: got 1"),
        (["explain", "CONTROLLER", "OUTCOMES", "--seed", -1], "seed: got -1, expected a whole number"),
        (
            ["export", "CONTROLLER", "OUTCOMES", "--out", "OUT", "--seed", -1],
            "seed: got -1, expected a whole",
        ),
        (["calibrate", "CONTROLLER", "giant"], "model 'giant'"),
        (["calibrate", "nowhere", "fake"], "nowhere"),
    ],
)
def test_names_and_options(words, expected, outcomes, controller, tmp_path):
    places = {"OUT": tmp_path / "out", "OUTCOMES": outcomes, "CONTROLLER": controller}
    assert expected in message(run(*(places.get(str(word), word) for word in words)))
    assert not (tmp_path / "out").exists()


def test_a_file_where_a_directory_should_be(outcomes, image):
    assert str(image) in message(run("profile", "fake", "--task", "fake", "--out", image))
    assert str(image) in message(run("train", image, "--out", "x"))
    assert str(image) in message(run("train", outcomes, "--epochs", 0, "--out", image / "x"))


@pytest.mark.parametrize(
    "words",
    [
        ["export", "CONTROLLER", "OUTCOMES", "--out", "FILE"],
        ["train", "OUTCOMES", "--out", "FILE"],
        ["train", "OUTCOMES", "--out", "OUT", "--checkpoints", "FILE"],
        ["calibrate", "CONTROLLER", "fake", "--out", "FILE"],
        ["compare", "OUTCOMES", "--plots", "FILE"],
        ["demo", "--quick", "--out", "FILE"],
        ["compare", "OUTCOMES", "--out", "OUTCOMES"],
        ["compare", "OUTCOMES", "--report", "OUTCOMES"],
        ["evaluate", "CONTROLLER", "OUTCOMES", "--report", "OUTCOMES"],
        ["explain", "CONTROLLER", "OUTCOMES", "--report", "OUTCOMES"],
        ["decide", "CONTROLLER", "--image", "FILE", "--prompt", "small 1", "--report", "OUTCOMES"],
    ],
)
def test_a_wrong_kind_of_place_is_said_before_any_work(
    words, outcomes, controller, image, tmp_path, monkeypatch
):
    def work(*_, **__):
        raise AssertionError

    for place in (
        "paceline.outcomes.store.read_table",
        "paceline.runtime.adaptive.measure_machine",
        "paceline.workflows.deciding.live_context",
        "paceline.workflows.demo.run_demo",
    ):
        monkeypatch.setattr(place, work)
    places = {"OUT": tmp_path / "out", "OUTCOMES": outcomes, "CONTROLLER": controller, "FILE": image}
    place, expected = (outcomes, "Is a directory") if words[-1] == "OUTCOMES" else (image, "Not a directory")
    assert f"error: {place}: {expected}" in message(run(*(places.get(word, word) for word in words)))


def test_another_sweep_in_the_directory(tmp_path):
    words = [
        "profile",
        "fake",
        "--task",
        "fake",
        "--configurations",
        4,
        "--samples",
        20,
        "--timed-samples",
        8,
    ]
    run_json(*words, "--out", tmp_path / "o")
    before = {path: path.read_bytes() for path in (tmp_path / "o").rglob("*") if path.is_file()}
    assert "holds another sweep" in message(run(*words, "--seed", 1, "--out", tmp_path / "o"))
    assert before == {path: path.read_bytes() for path in (tmp_path / "o").rglob("*") if path.is_file()}


# Budgets


def decide(controller, image, *more, prompt="small question 1"):
    words = ["decide", controller, "--image", image, "--prompt", prompt, "--model", "fake", "--no-calibrate"]
    return run(*words, *more)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--budget-ms", "0", "budget_ms: got 0 ms"),
        ("--budget-ms", "-5", "budget_ms: got -5 ms"),
        ("--budget-ms", "nan", "budget_ms: got nan ms"),
        ("--budget-ms", "inf", "budget_ms: got inf ms"),
        ("--first-token-budget-ms", "0", "first_token_budget_ms: got 0 ms"),
        ("--first-token-budget-ms", "nan", "first_token_budget_ms: got nan ms"),
        ("--average-budget-ms", "-1", "average_budget_ms: got -1 ms"),
        ("--average-budget-ms", "nan", "average_budget_ms: got nan ms"),
        ("--budget", "0%", "got '0%', expected a positive, finite share"),
        ("--budget", "-80%", "got '-80%', expected a positive, finite share"),
        ("--budget", "-10ms", "got '-10ms', expected a positive, finite time"),
        ("--budget", "soon", "budget: got 'soon'"),
        ("--when-infeasible", "panic", "when_infeasible: got 'panic'"),
    ],
)
def test_budgets(option, value, expected, controller, image):
    assert expected in message(decide(controller, image, option, value))


def test_two_budgets_at_once(controller, image):
    assert "expected one of them" in message(decide(controller, image, "--budget-ms", 9, "--budget", "80%"))


def test_a_budget_below_the_cheapest(controller, image):
    assert "none of 27 configurations fits" in message(
        decide(controller, image, "--budget-ms", 0.5, "--when-infeasible", "reject")
    )
    for policy in ("cheapest", "best_effort"):
        result = decide(controller, image, "--budget-ms", 0.5, "--when-infeasible", policy, "--json")
        assert result.exit_code == 0
        chosen = json.loads(result.stdout)
        assert chosen["reason"] == policy
        assert chosen["configuration"] == FAKE_SPACE.cheapest


# Images


def write_image(path, fault):
    if fault == "empty":
        path.write_bytes(b"")
    elif fault == "text":
        path.write_text("not an image\n")
    elif fault == "truncated":
        Image.effect_noise((64, 64), 50).save(path)
        path.write_bytes(path.read_bytes()[:1500])
    elif fault == "one pixel":
        Image.new("RGB", (1, 1)).save(path)
    elif fault == "huge":
        Image.new("1", (20_000, 20_000)).save(path)
    elif fault == "directory":
        path.mkdir()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("missing", "cannot be read"),
        ("directory", "cannot be read"),
        ("empty", "is empty"),
        ("text", "not an image"),
        ("truncated", "damaged"),
        ("one pixel", "1 x 1 pixels"),
        ("huge", "shrink it first"),
    ],
)
def test_images(fault, expected, controller, tmp_path):
    path = tmp_path / "picture.png"
    write_image(path, fault)
    told = message(decide(controller, path))
    assert "picture.png" in told
    assert expected in told


# Prompts


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", "prompt"),
        ("   ", "prompt"),
        ("how many digits " * 6250, "100,000 characters, expected at most"),
        ("digits " * 1000, "tokens, expected at most"),
    ],
)
def test_prompts(prompt, expected, controller, tmp_path, monkeypatch):
    model = ElasticMolmoE(random_model(TINY), name="random", knobs=FAKE_SPACE)
    put_fakes(monkeypatch, model)
    path = tmp_path / "picture.png"
    Image.new("RGB", (64, 64)).save(path)
    assert expected in message(decide(controller, path, prompt=prompt))


# Outcomes


def edit_table(path, change):
    pq.write_table(change(pq.read_table(path)), path)


def with_value(column, row, value):
    def change(table):
        values = table.column(column).to_numpy(zero_copy_only=False).copy()
        values[row] = value
        return table.set_column(table.column_names.index(column), column, pa.array(values))

    return change


def edit_manifest(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def damage(outcomes, fault):
    table, manifest = outcomes / "outcomes.parquet", outcomes / "manifest.json"
    if fault == "missing column":
        edit_table(table, lambda t: t.drop_columns(["accuracy"]))
    elif fault == "missing sample column":
        edit_table(outcomes / "samples.parquet", lambda t: t.drop_columns(["kind"]))
    elif fault == "NaN accuracy":
        edit_table(table, with_value("accuracy", 3, np.nan))
    elif fault == "accuracy 57":
        edit_table(table, with_value("accuracy", 3, 57.0))
    elif fault == "duplicate rows":
        edit_table(table, lambda t: pa.concat_tables([t, t.slice(0, 1)]))
    elif fault == "negative latency":
        edit_table(table, with_value("latency_ms", 0, -1.0))
    elif fault == "outside the space":
        edit_table(table, with_value("max_crops", 0, 5))
    elif fault == "newer schema":
        edit_manifest(manifest, schema_version=99)
    elif fault == "no manifest":
        manifest.unlink()
    elif fault == "broken manifest":
        manifest.write_text(manifest.read_text()[:40])
    elif fault == "truncated":
        table.write_bytes(table.read_bytes()[:-1000])
    elif fault == "empty file":
        table.write_bytes(b"")
    elif fault == "truncated features":
        features = outcomes / "features.safetensors"
        features.write_bytes(features.read_bytes()[:-100])
    elif fault == "fewer features":
        name = outcomes / "features.safetensors"
        save_file({key: array[:-1] for key, array in load_file(name).items()}, name)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("missing column", "accuracy"),
        ("missing sample column", "kind"),
        ("NaN accuracy", "row"),
        ("accuracy 57", "divide percentages by 100"),
        ("duplicate rows", "repeat"),
        ("negative latency", "latency_ms"),
        ("outside the space", "max_crops"),
        ("newer schema", "99"),
        ("no manifest", "manifest.json is missing"),
        ("broken manifest", "manifest.json"),
        ("truncated", "outcomes.parquet"),
        ("empty file", "outcomes.parquet"),
        ("truncated features", "features.safetensors"),
        ("fewer features", "features"),
    ],
)
def test_outcomes(fault, expected, outcomes, tmp_path):
    damage(outcomes, fault)
    before = {path: path.read_bytes() for path in outcomes.iterdir()}
    assert expected in message(run("train", outcomes, "--out", tmp_path / "c"))
    assert expected in message(run("compare", outcomes))
    assert not (tmp_path / "c").exists()
    assert before == {path: path.read_bytes() for path in outcomes.iterdir()}


def test_outcomes_without_timed_samples(tmp_path):
    words = ["--configurations", 4, "--samples", 40, "--timed-samples", 0]
    run_json("profile", "fake", "--task", "fake", *words, "--out", tmp_path / "o")
    assert "timed" in message(run("train", tmp_path / "o", "--out", tmp_path / "c"))


# Controllers


def break_controller(controller, fault):
    description, policy = controller / "controller.json", controller / "policy.safetensors"
    if fault == "newer schema":
        edit_manifest(description, schema_version=99)
    elif fault == "no description":
        description.unlink()
    elif fault == "broken description":
        description.write_text("{")
    elif fault == "truncated policy":
        policy.write_bytes(policy.read_bytes()[:-100])
    elif fault == "missing policy":
        policy.unlink()
    elif fault == "edited knobs":
        edit_manifest(description, knobs=[{"name": "max_crops", "options": [1, 2]}])


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("newer schema", "99"),
        ("no description", "controller.json"),
        ("broken description", "controller.json"),
        ("truncated policy", "policy.safetensors"),
        ("missing policy", "policy.safetensors"),
        ("edited knobs", "controller.json"),
    ],
)
def test_controllers(fault, expected, controller, outcomes, image):
    break_controller(controller, fault)
    for result in (
        decide(controller, image),
        run("evaluate", controller, outcomes),
        run("calibrate", controller, "fake"),
    ):
        assert expected in message(result)


def test_a_controller_of_another_knob_space(controller, outcomes, image, monkeypatch):
    other = KnobSpace((Knob(name="max_crops", options=(1, 2)), *FAKE_SPACE.knobs[1:]))
    monkeypatch.setattr("fakes.FakeModel.knobs", other)
    assert "knobs" in message(decide(controller, image))
    assert "knobs" in message(run("calibrate", controller, "fake"))


def test_a_controller_of_other_configurations(controller, tmp_path):
    words = ["--configurations", 4, "--samples", 40, "--timed-samples", 12]
    run_json("profile", "fake", "--task", "fake", *words, "--out", tmp_path / "o")
    assert "were not tested" in message(run("evaluate", controller, tmp_path / "o"))
