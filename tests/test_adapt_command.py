"""`paceline train --from CONTROLLER`, and what does not fit the controller."""

from dataclasses import replace

import numpy as np
import pytest

from command_line import run, run_json
from fakes import fake_table
from paceline.errors import OutcomesError, TrainError
from paceline.learning.adaptation import AdaptOptions
from paceline.learning.options import TrainOptions
from paceline.outcomes.store import write_table
from paceline.runtime.controller import Controller
from paceline.workflows.adapting import adapt_controller
from paceline.workflows.training import train_controller

QUICK = TrainOptions(algorithm="outcome", hidden=16, members=1, warm_epochs=2, epochs=1)


@pytest.fixture(scope="module")
def controller() -> Controller:
    return train_controller(fake_table(60, 30, 10, seed=0), QUICK).controller


def test_the_adapted_controller_decides_and_keeps_its_times(controller):
    table = fake_table(30, 10, 10, seed=1)
    untimed = replace(table, latency_ms=np.full_like(table.latency_ms, np.nan))
    done = adapt_controller(controller, untimed, AdaptOptions(steps=4, folds=0))
    assert done.policy.facts["samples"] == {"train": 40}  # the test split is left alone
    assert done.controller.latency is controller.latency
    assert done.controller.provenance["adaptation"]["steps"] == 4
    weights = done.controller.policy.arrays["head.weight"]
    assert not np.array_equal(weights, controller.policy.arrays["head.weight"])


def test_the_command_adapts_and_refuses_other_options(controller, tmp_path):
    controller.save(tmp_path / "c")
    write_table(tmp_path / "new", fake_table(30, 10, 10, seed=1))
    words = ["train", tmp_path / "new", "--from", tmp_path / "c", "--out", tmp_path / "adapted"]
    value = run_json(*words, "--set", "steps=4", "--set", "folds=0", "--seed", 3)
    assert value["facts"]["options"] | {"steps": 4, "folds": 0, "seed": 3} == value["facts"]["options"]
    assert Controller.load(tmp_path / "adapted").policy.spec == controller.policy.spec
    refused = run(*words, "--algorithm", "ppo")
    assert refused.exit_code == 2
    assert "--from: got --algorithm beside it" in refused.stderr
    unknown = run(*words, "--set", "members=3")
    assert unknown.exit_code == 2
    assert "expected NAME=VALUE with a name of" in unknown.stderr


def test_few_updates_are_judged_and_none_are_not_spoken_of(controller, tmp_path):
    controller.save(tmp_path / "c")
    write_table(tmp_path / "new", fake_table(30, 10, 10, seed=1))
    words = ("train", tmp_path / "new", "--from", tmp_path / "c", "--out", tmp_path / "adapted")
    facts = run_json(*words, "--set", "steps=3")["facts"]
    assert len(facts["held_out_rewards"]) == 2
    assert facts["steps"] in (0, 3)
    said = run(*words, "--set", "steps=0")
    assert "by 0 updates" in said.stdout
    assert "did best as it was" not in said.stdout


def test_a_shipped_controller_is_found_and_outcomes_are_not_written_into(controller, tmp_path):
    write_table(tmp_path / "new", fake_table(30, 10, 10, seed=1))
    said = run("train", tmp_path / "new", "--from", "tiny", "--out", tmp_path / "adapted")
    assert said.exit_code == 2
    assert "adaptation: the outcomes have the knobs" in said.stderr
    for more in (("--from", "tiny"), ("--algorithm", "outcome")):
        said = run("train", tmp_path / "new", *more, "--out", tmp_path / "new")
        assert said.exit_code == 2
        assert "holds outcomes (manifest.json)" in said.stderr


def test_outcomes_of_other_knobs_are_refused(controller):
    table = fake_table(30, 10, 10, seed=1)
    knobs = (replace(table.space.knobs[0], name="max_tiles"), *table.space.knobs[1:])
    other = replace(table, space=replace(table.space, knobs=knobs))
    with pytest.raises(
        TrainError, match=r"outcomes have the knobs max_tiles .* expected the controller's max_crops"
    ):
        adapt_controller(controller, other)


def test_outcomes_with_features_of_another_maker_are_refused(controller):
    table = fake_table(30, 10, 10, seed=1)
    manifest = replace(table.manifest, options={**table.manifest.options, "features": {"kind": "clip"}})
    with pytest.raises(TrainError, match="features were made by clip, the controller was trained on"):
        adapt_controller(controller, replace(table, manifest=manifest))


def test_outcomes_without_a_complete_sample_are_refused(controller):
    table = fake_table(30, 10, 10, seed=1)
    holes = table.accuracy.copy()
    holes[:, 0] = np.nan
    with pytest.raises(OutcomesError, match="no sample outside the test split has an outcome under all 27"):
        adapt_controller(controller, replace(table, accuracy=holes))
