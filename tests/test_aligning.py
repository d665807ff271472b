"""Outcomes of the same options in another order mean the same, and are judged and adapted to as such."""

from dataclasses import replace

import numpy as np
import pytest

from command_line import message, run, run_json
from fakes import fake_table
from paceline.knobs import Knob, KnobSpace
from paceline.outcomes.aligning import aligned
from paceline.outcomes.combining import combine_tables
from paceline.outcomes.store import read_table
from paceline.outcomes.table import CELL_FIELDS


def shuffled(table):
    """The same outcomes with the options of every knob, and the knobs, the other way round."""
    knobs = tuple(Knob(name=knob.name, options=knob.options[::-1]) for knob in table.space.knobs[::-1])
    space = KnobSpace(knobs)
    actions = space.actions([table.space.configuration(action) for action in table.actions.tolist()])
    order = np.argsort(actions)
    cells = {name: getattr(table, name)[:, order] for name in CELL_FIELDS}
    return replace(table, space=space, actions=actions[order], **cells)


def test_the_same_options_in_another_order_are_the_same_outcomes():
    table = fake_table(12, 4, 6, seed=0)
    other = shuffled(table)
    assert other.space != table.space
    back = aligned(other, table.space)
    assert back.space == table.space
    np.testing.assert_array_equal(back.actions, table.actions)
    for name in CELL_FIELDS:
        np.testing.assert_array_equal(getattr(back, name), getattr(table, name))
    assert aligned(table, table.space) is table


@pytest.mark.parametrize("options", [(2, 6), (2, 6, 12, 24), (2, 6, "12")])
def test_other_options_are_left_for_others_to_refuse(options):
    table = fake_table(12, 4, 6, seed=0)
    knobs = (Knob(name="max_crops", options=options), *table.space.knobs[1:])
    assert aligned(table, KnobSpace(knobs)) is table


def test_tables_of_another_order_are_joined():
    one, two = fake_table(12, 4, 6, seed=0), fake_table(12, 4, 6, seed=1)
    two = replace(
        two, sample_id=np.array([f"other {name}" for name in two.sample_id]), image_hash=two.sample_id
    )
    plain = combine_tables([one, two], ["one", "two"])
    mixed = combine_tables([one, shuffled(two)], ["one", "two"])
    np.testing.assert_array_equal(mixed.accuracy, plain.accuracy)


SOLVERS = (
    "--sample",
    "id",
    "--knobs",
    "solver",
    "--quality",
    "score",
    "--cost",
    "usd:price",
    "--features",
    "a,b",
)
QUICK = ("--algorithm", "outcome", "--set", "warm_epochs=1", "--set", "members=1", "--set", "hidden=8")


def write_solvers(path, prices, *, seed=0, features=("a", "b")):
    """A table of three models whose prices, and with them the order of the options, differ from file to file."""
    rng = np.random.default_rng(seed)
    lines = [",".join(["id", "solver", "score", "price", *features])]
    for sample in range(80):
        numbers = rng.normal(size=2)
        for place, (name, price) in enumerate(prices.items()):
            right = int(numbers[0] > place - 1)
            lines.append(f"s{seed}-{sample},{name},{right},{price},{numbers[0]:.4f},{numbers[1]:.4f}")
    path.write_text("\n".join(lines))
    return path


def test_controllers_are_judged_on_and_adapted_to_imports_of_another_order(tmp_path):
    for name, prices, seed in (
        ("one", {"x": 1, "y": 2, "z": 3}, 0),
        ("two", {"x": 3, "y": 1, "z": 2}, 1),
    ):
        path = write_solvers(tmp_path / f"{name}.csv", prices, seed=seed)
        run_json("import", path, *SOLVERS, "--out", tmp_path / name)
    spaces = [read_table(tmp_path / name).space.knobs[0].options for name in ("one", "two")]
    assert spaces == [("x", "y", "z"), ("y", "z", "x")]
    run_json("train", tmp_path / "one", *QUICK, "--out", tmp_path / "c")
    found = run_json("evaluate", tmp_path / "c", tmp_path / "two", "--replicates", 100)
    assert "paceline" in found["average"]["accuracy"]
    words = ("--set", "steps=3", "--set", "folds=0")
    run_json("train", tmp_path / "two", "--from", tmp_path / "c", "--out", tmp_path / "adapted", *words)
    path = write_solvers(tmp_path / "three.csv", {"x": 1, "y": 2, "z": 3}, features=("b", "a"))
    run_json("import", path, *SOLVERS[:-1], "b,a", "--out", tmp_path / "three")
    told = message(run("evaluate", tmp_path / "c", tmp_path / "three"))
    assert "features were made by columns" in told
    assert "(they differ in columns)" in told
