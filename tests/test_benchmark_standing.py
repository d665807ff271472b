"""Who stands where over many tables: by intervals, not by means."""

import pytest

from benchmarks.real_tables import beside, rows_of_before
from benchmarks.standing import markdown, standing


def gap(mean: float, width: float, over: tuple[float, float] | None = None) -> dict:
    return {"mean": mean, "mean_ci": [mean - width, mean + width]} | (
        {} if over is None else {"over_lightgbm_ci": list(over)}
    )


def test_above_below_and_undecided() -> None:
    gaps = {
        "one": {
            "grpo_teacher": gap(0.9, 0.02, (0.01, 0.05)),
            "paceline": gap(0.8, 0.05, (-0.01, 0.05)),
            "lightgbm": gap(0.8, 0.02),
            "ppo": gap(0.7, 0.02, (-0.2, -0.01)),
        },
        "two": {
            "grpo_teacher": gap(0.5, 0.1, (-0.1, 0.1)),
            "paceline": gap(0.48, 0.1, (-0.1, 0.1)),
            "lightgbm": gap(0.5, 0.1),
            "ppo": gap(0.9, 0.1, (0.1, 0.2)),
            "voting": gap(0.6, 0.1, (0.0, 0.2)),  # not on every table: in no mean
        },
    }
    assert markdown(gaps).splitlines()[:3] == [
        "| learner | one | two | mean |",
        "| --- | --- | --- | --- |",
        "| ppo | 0.700 | 0.900 | 0.800 |",
    ]
    told = standing(gaps)
    assert told["mean_closed_gap"] == pytest.approx(
        {"ppo": 0.8, "grpo_teacher": 0.7, "lightgbm": 0.65, "paceline": 0.64}
    )
    assert told["against_lightgbm"]["grpo_teacher"] == {"one": "above", "two": "tied"}
    assert told["against_lightgbm"]["ppo"] == {"one": "below", "two": "above"}
    assert told["student_share_of_teacher"] == pytest.approx(0.64 / 0.7)
    assert told["against_others"]["grpo_teacher"]["ppo"] == {"one": "above", "two": "below"}
    assert told["against_others"]["paceline"]["ppo"] == {"one": "above", "two": "below"}
    assert told["against_others"]["paceline"].keys() == {"ppo"}


def test_rows_that_are_not_judged_again_stay() -> None:
    old = {"gaps": {"average": {"knn": {"mean": 1}, "ppo": {"mean": 2}}}, "commit": "a", "folds": [1]}
    new = {"gaps": {"average": {"ppo": {"mean": 3}}}, "folds": [2]}
    assert beside(old, new) == {
        "gaps": {"average": {"knn": {"mean": 1}, "ppo": {"mean": 3}}},
        "commit": "a",
        "folds": [2],
    }
    assert "routellm-mmlu" in rows_of_before(3)
    with pytest.raises(SystemExit, match="got 2, but the rows that would stay are of 3 seeds"):
        rows_of_before(2)
