"""Features in standard deviations or by rank: values by hand, promises by repetition, bad input."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from paceline.errors import ControllerError, TrainError
from paceline.policies.feature_scaling import FEATURE_LIMIT, FEW_ROWS, KNOTS, FeatureScaling


def z(share: float) -> float:
    """The normal score of a share."""
    return NormalDist().inv_cdf(share)


def test_standard_scaling_by_hand() -> None:
    scaling = FeatureScaling.fit(np.array([[0.0, 7.0], [2.0, 7.0]]), "standard")
    scaled = scaling.apply(np.array([[3.0, 9.0], [100.0, -9.0]]))
    np.testing.assert_array_equal(scaled, [[2.0, 0.0], [FEATURE_LIMIT, 0.0]])
    assert scaled.dtype == np.float32


def test_quantile_scaling_by_hand() -> None:
    """Four values of mid-ranks 1/8, 3/8, 5/8, 7/8; between two of them a share of the way; beyond them the ends."""
    scaling = FeatureScaling.fit(np.array([[1.0], [2.0], [4.0], [1e6]]), "quantile")
    scaled = scaling.apply(np.array([[1.0], [2.0], [3.0], [4.0], [1e6], [-5.0], [1e9]]))[:, 0]
    expected = [z(1 / 8), z(3 / 8), 0.0, z(5 / 8), z(7 / 8), z(1 / 8), z(7 / 8)]
    np.testing.assert_allclose(scaled, expected, atol=1e-6)


def test_a_flag_keeps_two_values_and_the_rare_one_is_further_out() -> None:
    flag = np.array([[0.0]] * 9 + [[1.0]])
    scaling = FeatureScaling.fit(flag, "quantile")
    np.testing.assert_allclose(scaling.apply(np.array([[0.0], [1.0]]))[:, 0], [z(0.45), z(0.95)], atol=1e-6)


def test_constant_features_become_zero_whatever_comes() -> None:
    for method in ("standard", "quantile"):
        scaling = FeatureScaling.fit(np.full((5, 2), 3.0), method)
        np.testing.assert_array_equal(scaling.apply(np.array([[3.0, -1e9], [9.0, 1e9]])), np.zeros((2, 2)))


def test_decades_become_normal_scores() -> None:
    """Of ten thousand log-normal values the scores are those of a standard normal, tails included."""
    values = np.exp(3.0 * np.random.default_rng(0).standard_normal((10_000, 1)))
    scaled = FeatureScaling.fit(values, "quantile").apply(values)[:, 0]
    quantiles = np.array([0.002, 0.05, 0.5, 0.95, 0.998])
    np.testing.assert_allclose(np.quantile(scaled, quantiles), [z(q) for q in quantiles], atol=0.02)
    assert abs(scaled.std() - 1.0) < 0.01


def test_few_and_many_rows_are_scaled_alike() -> None:
    """A decision's single row goes another way than a batch."""
    rng = np.random.default_rng(1)
    scaling = FeatureScaling.fit(rng.exponential(size=(300, 4)).round(2), "quantile")
    rows = rng.exponential(size=(FEW_ROWS + 40, 4)).round(2)
    np.testing.assert_array_equal(
        scaling.apply(rows), np.concatenate([scaling.apply(row)[None] for row in rows])
    )


finite = st.floats(-1e6, 1e6, width=32)


@given(
    arrays_of.arrays(np.float32, st.tuples(st.integers(1, 30), st.just(1)), elements=finite), finite, finite
)
def test_order_is_kept_and_the_limit_holds(features: np.ndarray, first: float, second: float) -> None:
    scaling = FeatureScaling.fit(features, "quantile")
    low, high = scaling.apply(np.array([[min(first, second)], [max(first, second)]]))[:, 0]
    assert -FEATURE_LIMIT <= low <= high <= FEATURE_LIMIT


@pytest.mark.parametrize("method", ["standard", "quantile"])
def test_arrays_round_trip(method: str) -> None:
    features = np.random.default_rng(2).standard_normal((50, 3))
    scaling = FeatureScaling.fit(features, method)
    arrays = scaling.to_arrays()
    assert {name: array.shape for name, array in arrays.items()} == FeatureScaling.array_shapes(method, 3)
    assert all(array.dtype == np.float32 for array in arrays.values())
    again = FeatureScaling.from_arrays(arrays | {"other": np.zeros(1)})
    np.testing.assert_array_equal(again.apply(features), scaling.apply(features))


def test_many_values_keep_the_ends_of_the_training_range() -> None:
    features = np.arange(5000.0)[:, None]
    scaling = FeatureScaling.fit(features, "quantile")
    assert scaling.first.shape == (KNOTS, 1)
    np.testing.assert_allclose(
        scaling.apply(features)[[0, -1], 0], [z(0.5 / 5000), z(1 - 0.5 / 5000)], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("features", "method", "message"),
    [
        (np.zeros((2, 2)), "ranks", "feature scaling: got 'ranks', expected one of"),
        (
            np.zeros((0, 2)),
            "quantile",
            r"got features \(0, 2\), expected \(samples, features\) with a sample",
        ),
        (np.array([[np.nan]]), "standard", "got NaN or infinite features"),
    ],
)
def test_what_cannot_be_fitted_is_refused(features: np.ndarray, method: str, message: str) -> None:
    with pytest.raises(TrainError, match=message):
        FeatureScaling.fit(features, method)


def test_other_features_and_other_arrays_are_refused() -> None:
    scaling = FeatureScaling.fit(np.zeros((2, 3)), "standard")
    with pytest.raises(ControllerError, match="got 4 features, expected 3"):
        scaling.apply(np.zeros((1, 4)))
    with pytest.raises(ControllerError, match="got arrays \\['feature_mean'\\], expected one pair"):
        FeatureScaling.from_arrays({"feature_mean": np.zeros(3)})
    with pytest.raises(ControllerError, match="expected two of one shape with 2 axes"):
        FeatureScaling.from_arrays({"feature_knots": np.zeros(3), "feature_scores": np.zeros(3)})
