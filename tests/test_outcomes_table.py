"""The outcome table: selections, and shapes and values that break its contract."""

import dataclasses

import numpy as np
import pytest

from fakes import FAKE_SPACE, KINDS, FakeModel, FakeTask, fake_table
from paceline.errors import OutcomesError


def test_select_keeps_the_rows_of_every_sample_array():
    table = fake_table(6, 2, 2)
    rows = np.array([7, 1])
    chosen = table.select(rows)
    assert chosen.sample_id.tolist() == ["validation-0-1", "train-0-1"]
    np.testing.assert_array_equal(chosen.accuracy, table.accuracy[rows])
    np.testing.assert_array_equal(chosen.features, table.features[rows])
    np.testing.assert_array_equal(chosen.actions, table.actions)


def test_split_rows():
    table = fake_table(6, 2, 3)
    assert table.split_rows("test").samples == 3
    with pytest.raises(OutcomesError, match=r"split: got 'tests', expected one of"):
        table.split_rows("tests")
    with pytest.raises(OutcomesError, match="has no such samples, only"):
        table.split_rows("train").split_rows("test")


def test_features_split_into_image_and_question():
    table = fake_table(4, 0, 0)
    np.testing.assert_array_equal(np.hstack([table.image_features, table.question_features]), table.features)
    assert table.image_features.shape == (4, table.image_width)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"accuracy": np.full((4, 27), 57.0, np.float32)},
            r"accuracy: outside \[0, 1\].*divide percentages by 100",
        ),
        ({"accuracy": np.full((4, 27), -0.5, np.float32)}, r"accuracy: outside \[0, 1\]"),
        ({"accuracy": np.ones((3, 27), np.float32)}, r"accuracy: got shape \(3, 27\), expected \(4, 27\)"),
        ({"latency_ms": np.zeros((4, 27), np.float32)}, "latency_ms: has values that are not positive"),
        ({"first_token_ms": np.full((4, 27), np.inf, np.float32)}, "first_token_ms: has values"),
        ({"actions": np.arange(27)[::-1]}, "actions: .*expected ascending ids from 0 to 26"),
        ({"actions": np.arange(-1, 26)}, "actions: .*expected ascending ids from 0 to 26"),
        ({"actions": np.arange(1, 28)}, "actions: .*expected ascending ids from 0 to 26"),
        ({"features": np.ones((5, 8), np.float32)}, "features: got shape .*different sweeps"),
        (
            {"features": np.full((4, 8), np.nan, np.float32)},
            r"features: not finite for samples \[0, 1, 2, 3\]",
        ),
        ({"image_width": 9}, "image_width: got 9, expected 0 to 8"),
        ({"kind": np.array(["a"])}, r"kind: got shape \(1,\), expected \(4,\)"),
    ],
)
def test_a_broken_table_is_refused(changes, message):
    with pytest.raises(OutcomesError, match=message):
        dataclasses.replace(fake_table(4, 0, 0), **changes)


def test_the_fake_table_is_what_the_fake_model_answers():
    table, task, model = fake_table(5, 0, 0, 3), FakeTask(), FakeModel()
    for i, sample in enumerate(task.samples("train", 5, 3)):
        overview = model.overview(task.image(sample), sample.question)
        for action in range(FAKE_SPACE.size):
            generation = model.generate(overview, FAKE_SPACE.configuration(action), 4)
            assert task.score(sample, generation.text) == table.accuracy[i, action]
            assert generation.workload.prompt_tokens == table.prompt_tokens[i, action]
            measured = overview.elapsed_ms + generation.timings.total_ms
            assert measured == pytest.approx(table.latency_ms[i, action], rel=0.25)


def test_in_the_fake_table_choosing_by_kind_beats_every_configuration():
    table = fake_table(400, 0, 0)
    cheap = table.latency_ms.mean(axis=0) <= np.median(table.latency_ms.mean(axis=0))
    static = table.accuracy.mean(axis=0)[cheap].max()
    by_kind = sum(
        table.accuracy[table.kind == k].mean(axis=0)[cheap].max() * (table.kind == k).mean() for k in KINDS
    )
    assert by_kind > static + 0.1
