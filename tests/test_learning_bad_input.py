"""Tables and options from which nothing can be learned: one message, exit code 2, before anything expensive."""

import re
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import controllers
from command_line import message, run, run_json
from fakes import FAKE_SPACE, fake_table
from paceline.errors import TrainError
from paceline.knobs import Knob, KnobSpace
from paceline.learning import table_checks
from paceline.learning.table_checks import MOST_CONFIGURATIONS, check_learnable, constant_accuracy
from paceline.outcomes.manifest import Manifest
from paceline.outcomes.store import write_table
from paceline.outcomes.table import CELL_FIELDS, OutcomeTable

TRAIN = [
    ["train", "TABLE", "--out", "OUT", "--algorithm", name] for name in ("grpo", "grpo_warm", "supervised")
]
COMPARE = [
    ["compare", "TABLE", "--learners", "all"],
    ["compare", "TABLE", "--learners", "knn,lightgbm"],
    ["compare", "TABLE", "--learners", "grpo", "--cross-validate", 3],
    ["compare", "TABLE", "--learners", "all", "--cross-validate", "dataset"],
]
EVALUATE = ["evaluate", "CONTROLLER", "TABLE"]
QUICK = ["--set", "epochs=1", "--set", "warm_epochs=1", "--set", "members=1"]


def columns(table: OutcomeTable, count: int) -> OutcomeTable:
    """The table of its last configurations, the full one among them."""
    cells = {name: getattr(table, name)[:, -count:] for name in CELL_FIELDS}
    return replace(table, actions=table.actions[-count:], **cells)


def many_configurations() -> OutcomeTable:
    """4 samples under 10,000 configurations of two knobs."""
    small = columns(fake_table(2, 1, 1), 1)
    space = KnobSpace(tuple(Knob(name=name, options=tuple(range(1, 101))) for name in ("width", "depth")))
    rng = np.random.default_rng(0)
    cells = {name: np.repeat(getattr(small, name), space.size, axis=1) for name in CELL_FIELDS}
    cells["accuracy"] = rng.integers(0, 2, cells["accuracy"].shape).astype(np.float32)
    manifest = Manifest(
        space=space, block_ranking=[], task="fake", model={"name": "many"}, image_width=small.image_width
    )
    return replace(small, space=space, actions=np.arange(space.size), manifest=manifest, **cells)


@pytest.fixture(scope="session")
def tables(tmp_path_factory):
    """Outcomes directories by what is wrong with them."""
    sound = fake_table(24, 12, 12)
    runtimes = sound.manifest.options | {"latency_kind": "runtime"}
    made = {
        "sound": sound,
        "one configuration": columns(sound, 1),
        "one sample": sound.select(np.arange(len(sound.split)) == 0),
        "constant accuracy": replace(sound, accuracy=np.ones_like(sound.accuracy)),
        "10,000 configurations": many_configurations(),
        "runtimes": replace(sound, manifest=replace(sound.manifest, options=runtimes)),
        "NaN features": sound,
    }
    folder = tmp_path_factory.mktemp("learning_bad_input")
    for name, table in made.items():
        write_table(folder / name, table)
    path = folder / "NaN features" / "features.safetensors"
    features = load_file(path)
    next(iter(features.values()))[3] = np.nan
    save_file(features, path)
    controllers.controller().save(folder / "controller")
    return folder


def asked(words, table, tables, tmp_path):
    """What `paceline WORDS` says about a table; it must not have written anything."""
    places = {"TABLE": tables / table, "OUT": tmp_path / "out", "CONTROLLER": tables / "controller"}
    told = message(run(*(places.get(str(word), word) for word in words)))
    assert not (tmp_path / "out").exists()
    return told


@pytest.fixture
def nothing_is_fitted(monkeypatch):
    """Fails where an estimate or a model is fitted before the table was refused."""

    def fail(*_, **__):
        raise AssertionError("fitted before the table was checked")

    for name in ("evaluation.compare", "evaluation.cross_validation", "workflows.training"):
        monkeypatch.setattr(f"paceline.{name}.fit_latency", fail)


LEARNED = [*TRAIN, *COMPARE]


@pytest.mark.parametrize("words", LEARNED, ids=lambda words: " ".join(map(str, words)))
@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            "one configuration",
            r"got 1 tested configuration, expected at least 2.*; profile more configurations",
        ),
        ("one sample", r"got 1 sample, expected many.*; profile more samples"),
        ("constant accuracy", r"accuracy is 1 for every .*nothing to learn; always choose the cheapest"),
        (
            "10,000 configurations",
            r"got 10,000 tested configurations, expected at most 4,096.*; profile a plan with",
        ),
        ("NaN features", r"features.*(NaN|not finite|infinite).*extract"),
    ],
)
def test_tables(words, table, expected, tables, tmp_path, nothing_is_fitted):
    assert re.search(expected, asked(words, table, tables, tmp_path))


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("one configuration", "26 of its 27 configurations were not tested"),
        ("one sample", "no test sample has an outcome"),
        ("10,000 configurations", "its knobs are"),
        ("NaN features", "features"),
    ],
)
def test_tables_to_judge_a_controller_on(table, expected, tables, tmp_path):
    assert expected in asked(EVALUATE, table, tables, tmp_path)


def test_a_controller_may_be_judged_where_nothing_could_be_learned(tables):
    results = run_json("evaluate", tables / "controller", tables / "constant accuracy", "--replicates", 100)
    assert results["hard"]["accuracy"]["paceline"] == [1.0] * 6
    assert results["hard"]["closed_gap_mean"] is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "TABLE", "--out", "OUT", "--algorithm", "knn"], "algorithm: got 'knn', expected one of"),
        (["train", "TABLE", "--out", "OUT", "--set", "hiden=3"], "--set: got 'hiden=3', expected NAME=VALUE"),
        (["train", "TABLE", "--out", "OUT", "--set", "hidden=wide"], "hidden: got 'wide'"),
        (
            ["train", "TABLE", "--out", "OUT", "--set", "reference.student.steps=0"],
            "reference.student.steps: got 0, expected a whole number of at least 1",
        ),
        (
            ["train", "TABLE", "--out", "OUT", "--set", "reference.lightgbm.trees=many"],
            "reference.lightgbm.trees: got 'many', expected a whole number of at least 1",
        ),
        (
            ["train", "TABLE", "--out", "OUT", "--set", "reference.network.dropout=1"],
            "reference.network.dropout: got 1, expected a number at least 0 and below 1",
        ),
        (
            ["train", "TABLE", "--out", "OUT", "--set", "reference.forest.feature_share=0"],
            "reference.forest.feature_share: got 0, expected a number above 0 and at most 1",
        ),
        (["train", "TABLE", "--out", "OUT", "--set", "reference.folds=1"], "folds: got 1"),
        (
            ["compare", "TABLE", "--learners", "grpo,magic"],
            "learners: got 'grpo,magic', expected 'all' or some of",
        ),
        (
            ["train", "TABLE", "--out", "OUT", "--seed", -1],
            "seed: got -1, expected a whole number of at least 0",
        ),
        (
            ["train", "TABLE", "--out", "OUT", "--seed", 4294967296],
            "seed: got 4294967296, expected at most 2147483647",
        ),
        (
            ["compare", "TABLE", "--seed", 99999999999999999999],
            "seed: got 99999999999999999999, expected at most",
        ),
        *(
            (["train", "TABLE", "--out", "OUT", "--set", setting], expected)
            for setting, expected in (
                ("seed=abc", "seed: got 'abc', expected a whole number"),
                ("reduce=5", "reduce: got 5, expected a text"),
                ("reduce=null", "reduce: got None, expected a text"),
                ("balance=5", "balance: got 5, expected a text"),
                ("augment=0.1", "augment: got 0.1, expected a text"),
                ("share_projector=5", "share_projector: got 5, expected a text"),
                ("gradient_checkpointing=no", "gradient_checkpointing: got 'no', expected true or false"),
                ("score_untested=1", "score_untested: got 1, expected true or false"),
                ("group_size=", "group_size: got '', expected a whole number"),
                (
                    "reference.student.sharpness=0",
                    "reference.student.sharpness: got 0, expected a number above 0",
                ),
                (
                    "kl_weight=0.1",
                    "kl_weight: got 0.1 with algorithm 'grpo', which does not read it; set "
                    "reference.residual.kl_weight, or name an algorithm that trains one network",
                ),
                (
                    "relabel=false",
                    "relabel: got False with algorithm 'grpo', which does not read it; name an",
                ),
            )
        ),
        (
            ["compare", "TABLE", "--learners", "grpo,knn", "--set", "hidden=64"],
            "hidden: got 64 with algorithm 'grpo', which does not read it; set reference.student.hidden",
        ),
        (
            ["compare", "TABLE", "--learners", "grpo_warm,grpo", "--set", "reward=v1"],
            "reward: got 'v1' with algorithm 'grpo', whose student takes 'masked' only",
        ),
        (["compare", "TABLE", "--learners", ""], "learners: got ''"),
        (["compare", "TABLE", "--learners", "knn,knn"], "each once"),
        (["compare", "TABLE", "--learners", "all,knn"], "learners: got 'all,knn'"),
        (["compare", "TABLE", "--processes", 0], "processes: got 0, expected at least 1"),
        (["compare", "TABLE", "--seeds", 0], "seeds: got 0, expected at least 1"),
        (["compare", "TABLE", "--cross-validate", "some"], "cross-validate: got 'some', expected a number"),
        (["compare", "TABLE", "--cross-validate", 1], "cross-validate: got '1'"),
        (["compare", "TABLE", "--cross-validate", 99], "got 99 folds for"),
        (
            ["compare", "TABLE", "--cross-validate", "fold"],
            "the outcomes hold no folds; import the table with",
        ),
        (["compare", "TABLE", "--cross-validate", "dataset"], "expected two or more to leave"),
    ],
)
def test_learners_and_options(words, expected, tables, tmp_path):
    assert expected in asked(words, "sound", tables, tmp_path)


BUDGETS = [
    (
        "--budgets-ms",
        "0.5,1",
        r"budgets_ms: got 0.5, 1 ms, under which nothing is feasible: .* ms; give at least",
    ),
    (
        "--average-budgets-ms",
        "0.5,1",
        r"average_budgets_ms: got 0.5, 1 ms, which nothing meets: .* ms on the mean",
    ),
    ("--budgets-ms", "", r"budgets_ms: got '', expected numbers of milliseconds"),
    ("--budgets-ms", "9;12", r"budgets_ms: got '9;12', expected numbers"),
    ("--budgets-ms", "9,-1", r"budgets_ms: got -1 ms, expected a positive"),
    ("--average-budgets-ms", "nan", r"average_budgets_ms: got nan ms, expected a positive"),
]


@pytest.mark.parametrize(("option", "value", "expected"), BUDGETS)
@pytest.mark.parametrize(
    "words", [COMPARE[0], COMPARE[2], EVALUATE], ids=("compare", "cross-validate", "evaluate")
)
def test_budgets(words, option, value, expected, tables, tmp_path):
    assert re.search(expected, asked([*words, option, value], "sound", tables, tmp_path))


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--budgets-ms", "the shortest runtime of a solved sample is"),
        ("--average-budgets-ms", "known only afterwards and no mean can be promised; give budgets_ms alone"),
    ],
)
def test_deadlines(option, expected, tables, tmp_path):
    assert expected in asked([*COMPARE[0], option, "0.5"], "runtimes", tables, tmp_path)


def test_one_budget_that_can_be_met_is_enough(tables):
    words = ["compare", tables / "sound", "--learners", "knn", "--replicates", 100]
    results = run_json(*words, "--budgets-ms", "9,0.5,9", "--average-budgets-ms", "8")
    assert results["hard"]["budgets_ms"] == [0.5, 9.0]
    assert results["hard"]["static_feasible"] == [False, True]
    assert results["average"]["budgets_ms"] == [8.0]
    assert results["provenance"]["contest"]["budgets_ms"] == [9.0, 0.5, 9.0]


REFERENCE = [
    word
    for setting in (
        "folds=2",
        "lightgbm.trees=5",
        "forest.trees=5",
        "network.members=1",
        "network.epochs=2",
        "residual.epochs=1",
        "student.steps=20",
        "student.epochs=1",
        "student.hidden=16",
        "student.synthetic_per_sample=2",
    )
    for word in ("--set", f"reference.{setting}")
]


@pytest.mark.parametrize(
    ("algorithm", "words", "change", "expected"),
    [
        (
            "grpo",
            REFERENCE,
            ["--set", "reference.lightgbm.trees=6"],
            r"reference\.lightgbm\.trees \(5 -> 6\) changed",
        ),
        ("grpo", REFERENCE, ["--seed", 1], r"seed \(0 -> 1\), train .* changed"),
        ("grpo", REFERENCE, ["--violation-rate", 0.2], r"train \(.*\) changed"),
        ("grpo_warm", QUICK, ["--set", "hidden=16"], r"hidden \(128 -> 16\) changed"),
        ("supervised", QUICK, ["--budget-form", "share"], r"budget_form \(absolute -> share\) changed"),
        ("supervised", QUICK, ["--algorithm", "outcome"], r"algorithm \(supervised -> outcome\) changed"),
    ],
)
def test_resuming_with_changed_options(algorithm, words, change, expected, tables, tmp_path):
    train = ["train", tables / "sound", "--algorithm", algorithm, *words, "--checkpoints", tmp_path / "c"]
    run_json(*train, "--out", tmp_path / "first")
    kept = {path: path.read_bytes() for path in (tmp_path / "c").iterdir()}
    told = message(run(*train, *change, "--out", tmp_path / "second"))
    assert re.search(
        f"belongs to another run, {expected}; use the same options and outcomes, or another", told
    )
    assert not (tmp_path / "second").exists()
    assert kept == {path: path.read_bytes() for path in (tmp_path / "c").iterdir()}


def test_a_damaged_checkpoint_of_the_reference(tables, tmp_path):
    words = ["train", tables / "sound", *REFERENCE, "--checkpoints", tmp_path / "c", "--out", tmp_path / "o"]
    run_json(*words)
    (path,) = (tmp_path / "c").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    assert "damaged checkpoint" in message(run(*words))


def test_accuracy_is_constant_only_where_every_tested_outcome_is_equal(monkeypatch):
    monkeypatch.setattr("paceline.outcomes.chunks.CHUNK_CELLS", 1)  # a chunk per sample
    table = fake_table(4, 2, 2)
    train = np.broadcast_to(table.split[:, None] == "train", table.accuracy.shape)
    ones = replace(table, accuracy=train.astype(np.float32))
    assert constant_accuracy(ones, "train") == 1.0
    assert constant_accuracy(ones, "test") == 0.0
    assert constant_accuracy(ones, None) is None
    ones.accuracy[0, 5] = np.nan
    assert constant_accuracy(ones, "train") == 1.0
    ones.accuracy[3, 0] = 0.5
    assert constant_accuracy(ones, "train") is None
    ones.accuracy[:] = np.nan
    assert constant_accuracy(ones, None) is None


def test_runtimes_differ_in_worth_though_all_is_solved():
    table = fake_table(4, 2, 2)
    solved = replace(table, accuracy=np.ones_like(table.accuracy))
    with pytest.raises(TrainError, match="nothing to learn"):
        check_learnable(solved)
    options = {"latency_kind": "runtime"}
    check_learnable(replace(solved, manifest=replace(solved.manifest, options=options)))


def test_the_most_configurations_that_are_taken(monkeypatch):
    assert FAKE_SPACE.size <= 432 <= MOST_CONFIGURATIONS < 10_000
    monkeypatch.setattr(table_checks, "MOST_CONFIGURATIONS", FAKE_SPACE.size)
    check_learnable(fake_table(4, 2, 2))
    monkeypatch.setattr(table_checks, "MOST_CONFIGURATIONS", FAKE_SPACE.size - 1)
    with pytest.raises(TrainError, match="got 27 tested configurations, expected at most 26"):
        check_learnable(fake_table(4, 2, 2))
