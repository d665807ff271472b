"""The judge of the benchmark of generalisation, by hand; its data sets; its result file."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.generalisation import DATASETS, POSITIONS, RANGES, UNSEEN
from benchmarks.generalisation_judge import compared, lines, stacked
from paceline.learning.budget_parts import parse_parts
from paceline.tasks.digits import DigitsTask

RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "generalisation.json"


def test_gaps_and_differences_of_means_over_budgets():
    found = {
        "best_static": {"hard": np.array([[0.0, 0.4], [0.4, 0.0]])},  # mean .2
        "oracle": {"hard": np.ones((2, 2))},
        "one": {"hard": np.full((2, 2), 0.6)},
        "other": {"hard": np.full((2, 2), 0.4)},
    }
    value = compared(found, np.array(["a", "b"]), [("one", "other")])["hard"]
    assert value["closed_gap"] == pytest.approx(
        {"best_static": 0.0, "oracle": 1.0, "one": 0.5, "other": 0.25}
    )
    difference = value["differences"]["one - other"]
    assert (difference["accuracy"], difference["closed_gap"]) == pytest.approx((0.2, 0.25))
    assert difference["accuracy_ci"] == pytest.approx([0.2, 0.2])  # the same for every sample
    assert "one - other" in lines("title", {"hard": value})[-1]


def test_data_sets_are_stacked_in_their_order():
    parts = [{"one": {"hard": np.array([[0.1]])}}, {"one": {"hard": np.array([[0.2], [0.3]])}}]
    assert stacked(parts)["one"]["hard"].tolist() == [[0.1], [0.2], [0.3]]


def test_every_kind_is_in_one_data_set():
    kinds = [kind for group in DATASETS.values() for kind in group]
    assert sorted(kinds) == sorted(DigitsTask().kinds)


def test_held_out_budgets_are_outside_what_training_draws_from():
    for name, places in UNSEEN.items():
        parts = parse_parts(RANGES[name]) or ()
        for place, positions in POSITIONS.items():
            inside = [any(low <= p <= high for low, high in parts) for p in positions]
            assert inside == [place not in places] * len(positions), (name, place)


def test_the_documentation_quotes_the_result():
    value = json.loads(RESULT.read_text())
    text = (RESULT.parents[2] / "docs" / "learners.md").read_text()
    quoted = [
        value["few_shot"]["all"][mode]["differences"][f"few-shot - {rival}"]
        for mode in ("hard", "average")
        for rival in ("zero-shot", "from nothing")
    ]
    quoted += [
        value["multi_task"]["all"][mode]["differences"]["shared - alone"] for mode in ("hard", "average")
    ]
    scratch = value["budgets"]["grpo_scratch"]
    quoted += [scratch["centre"]["hard"]["differences"]["gap - all budgets"]]
    quoted += [scratch["high"]["hard"]["differences"]["middle - all budgets"]]
    text = " ".join(text.split())
    for part in quoted:
        mean, (low, high) = part["accuracy"], part["accuracy_ci"]
        assert f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]" in text
