"""The bootstrap's promise by repetition, and its identities."""

import numpy as np
import pytest

from paceline.errors import OutcomesError
from paceline.outcomes.bootstrap import SceneBootstrap, interval, ratio


def test_intervals_cover_the_truth_when_scenes_are_shared() -> None:
    """Four questions a scene with a common part: treating them as independent would cover 70 %."""
    covered, naive = 0, 0
    rounds = 200
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        values = np.repeat(rng.standard_normal(60), 4) + 0.5 * rng.standard_normal(240)  # mean 0
        low, high = interval(
            SceneBootstrap(np.repeat(np.arange(60), 4), replicates=400, seed=seed).means(values)
        )
        covered += low <= 0 <= high
        low, high = interval(SceneBootstrap(np.arange(240), replicates=400, seed=seed).means(values))
        naive += low <= 0 <= high
    assert 0.90 <= covered / rounds <= 0.985
    assert naive / rounds < 0.85


def test_intervals_of_paired_differences_cover() -> None:
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        shared = rng.standard_normal(150)
        pair = np.stack([shared + 0.2 + 0.3 * rng.standard_normal(150), shared], axis=1)
        draws = SceneBootstrap(np.arange(150), replicates=400, seed=seed).means(pair)
        low, high = interval(draws[:, 0] - draws[:, 1])
        assert high - low < 0.15  # unpaired it would be about .45
        covered += low <= 0.2 <= high
    assert 0.90 <= covered / 200 <= 0.985


def test_calls_share_their_draws() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((50, 2))
    bootstrap = SceneBootstrap(rng.integers(0, 20, 50), replicates=300)
    assert np.array_equal(bootstrap.means(values)[:, 1], bootstrap.means(values[:, 1]))
    assert bootstrap.means(values + 1) == pytest.approx(bootstrap.means(values) + 1)
    assert bootstrap.means(np.ones(50)) == pytest.approx(np.ones(300))


def test_scenes_are_weighted_by_their_samples() -> None:
    values = np.array([0.0, 0.0, 0.0, 1.0])
    draws = SceneBootstrap(np.array(["a", "a", "a", "b"]), replicates=2000).means(values)
    assert set(np.round(draws, 6)) == {0.0, 0.25, 1.0}
    assert np.mean(draws == 0.25) == pytest.approx(0.5, abs=0.05)


def test_blocks_do_not_change_the_number_of_draws() -> None:
    assert SceneBootstrap(np.arange(5), replicates=700).means(np.arange(5.0)).shape == (700,)


def test_ratio_and_interval_leave_out_what_is_undefined() -> None:
    assert ratio(np.array([1.0, 1.0, 1.0]), np.array([2.0, 0.0, -1.0])) == pytest.approx(
        [0.5, np.nan, np.nan], nan_ok=True
    )
    draws = np.array([[1.0, np.nan], [1.0, np.nan], [np.nan, 3.0]])
    assert interval(draws) == pytest.approx(np.array([[1, np.nan], [1, np.nan]]), nan_ok=True)


def test_bad_input() -> None:
    with pytest.raises(OutcomesError, match="0 replicates of 1 samples"):
        SceneBootstrap(np.array(["a"]), replicates=0)
