"""The latency estimate: accuracy on a known law, a calibrated promise, and what must never happen."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from paceline.errors import ControllerError, KnobError, OutcomesError
from paceline.knobs import SEED_SPACE, Knob, KnobSpace
from paceline.latency.estimate import LatencyEstimator
from paceline.latency.regression import fit_law, nonnegative_least_squares, shrunken_factors


def world(seed: int, samples: int, configurations: int = 48, noise: float = 0.06, timed: float = 1.0):
    """Requests under a 7-term law over tiles, tokens, blocks and top_k, with log-normal noise."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(np.arange(1, SEED_SPACE.size - 1), configurations - 2, replace=False)
    actions = np.sort(np.concatenate([[0, SEED_SPACE.size - 1], chosen]))
    knobs = np.array(
        [list(SEED_SPACE.configuration(int(action)).values()) for action in actions], dtype=float
    )
    crops, top_k, blocks = knobs.T
    grid = rng.integers(2, 13, (samples, 1))
    tiles = np.minimum(crops[None], grid) + 1
    vision = 16 + 9 * (tiles - 1)
    prompt = vision + rng.integers(3, 9, (samples, 1))
    output = np.broadcast_to(rng.integers(1, 4, (samples, 1)), tiles.shape)
    truth = (
        3.0 + 0.9 * tiles + 0.01 * vision + 0.15 * blocks + 0.0012 * prompt * blocks
        + 0.0003 * prompt * blocks * top_k + 0.05 * (output - 1) * blocks
    )  # fmt: skip
    latency = truth * np.exp(noise * rng.standard_normal(tiles.shape) - noise**2 / 2)
    latency[rng.random(samples) >= timed] = np.nan
    return actions, tiles, vision, prompt, output.astype(float), latency, truth


def fitted(seed: int = 0, samples: int = 80, **options) -> tuple[LatencyEstimator, tuple]:
    data = world(seed, samples, **options)
    return LatencyEstimator.fit(SEED_SPACE, *data[:6]), data


def test_configuration_means_are_within_four_percent() -> None:
    estimator, _ = fitted()
    actions, tiles, vision, prompt, _, _, truth = world(0, 400)
    predicted = estimator.mean(actions, tiles, vision, prompt)
    error = np.abs(predicted.mean(axis=0) / truth.mean(axis=0) - 1)
    assert error.max() < 0.04
    assert error.mean() < 0.015


def test_configurations_never_profiled_are_predicted_from_the_law() -> None:
    estimator, _ = fitted(seed=0)
    actions, tiles, vision, prompt, _, _, truth = world(7, 200)  # other configurations of the same law
    assert len(np.setdiff1d(actions, estimator.actions)) > 20
    error = np.abs(estimator.mean(actions, tiles, vision, prompt).mean(axis=0) / truth.mean(axis=0) - 1)
    assert error.max() < 0.06


def test_promise_holds_over_repetitions() -> None:
    """Share of new (sample, configuration) pairs over `upper`, averaged over 40 worlds, and not far below."""
    over = []
    for seed in range(40):
        data = world(seed, 260, configurations=24, noise=0.08)
        first = slice(0, 60)
        estimator = LatencyEstimator.fit(SEED_SPACE, data[0], *(part[first] for part in data[1:6]), seed=seed)
        new = slice(60, None)
        upper = estimator.upper(data[0], *(part[new] for part in data[1:4]))
        over.append(np.mean(data[5][new] > upper))
    assert 0.02 < np.mean(over) <= 0.05 + 2 * np.std(over) / np.sqrt(len(over))


def test_promise_holds_when_noise_belongs_to_samples() -> None:
    """A whole sample is slow or fast: single measurements are no independent scores."""
    over = []
    for seed in range(60):
        actions, tiles, vision, prompt, output, latency, _ = world(seed, 240, configurations=16, noise=0.02)
        latency = latency * np.exp(0.15 * np.random.default_rng(seed).standard_normal((240, 1)))
        parts = (tiles, vision, prompt, output, latency)
        estimator = LatencyEstimator.fit(SEED_SPACE, actions, *(part[:50] for part in parts), seed=seed)
        over.append(np.mean(latency[50:] > estimator.upper(actions, tiles[50:], vision[50:], prompt[50:])))
    assert np.mean(over) <= 0.05 + 2 * np.std(over) / np.sqrt(len(over))


def test_fast_configurations_get_their_own_margin() -> None:
    actions, tiles, vision, prompt, output, _, truth = world(1, 300)
    rng = np.random.default_rng(1)
    spread = np.where(truth.mean(axis=0) < np.median(truth.mean(axis=0)), 0.20, 0.02)
    latency = truth * np.exp(spread * rng.standard_normal(truth.shape))
    estimator = LatencyEstimator.fit(SEED_SPACE, actions, tiles, vision, prompt, output, latency)
    order = np.argsort(truth.mean(axis=0))
    assert estimator.upper_ratio[order[:12]].min() > 1.25
    assert estimator.upper_ratio[order[-12:]].max() < 1.15


def test_untimed_samples_are_ignored_and_counted() -> None:
    estimator, data = fitted(samples=200, timed=0.3)
    timed = int(np.isfinite(data[5]).any(axis=1).sum())
    assert estimator.facts["fit_samples"] + estimator.facts["calibration_samples"] == timed
    assert estimator.facts["measurements"] == timed * 48
    assert estimator.facts["promise_holds"]
    assert estimator.facts["configuration_relative_error"] < 0.04


def test_unknown_workload_is_never_feasible() -> None:
    estimator, (actions, tiles, vision, prompt, *_) = fitted()
    tiles = tiles.astype(np.int32)
    tiles[0, 3] = -1
    mean, upper = estimator.mean_and_upper(actions, tiles, vision, prompt)
    assert np.isnan(mean[0, 3])
    assert not upper[0, 3] <= np.inf
    assert np.isfinite(mean).sum() == mean.size - 1


def test_more_work_never_costs_less_and_upper_is_above_mean() -> None:
    estimator, (actions, tiles, vision, prompt, *_) = fitted(noise=0.3)
    mean, upper = estimator.mean_and_upper(actions, tiles, vision, prompt)
    assert np.all(upper >= mean)
    for more in ((1, 0, 0), (0, 9, 0), (0, 0, 50)):
        assert np.all(estimator.mean(actions, tiles + more[0], vision + more[1], prompt + more[2]) >= mean)
    feasible = [(upper <= budget).sum(axis=1) for budget in np.linspace(upper.min(), upper.max(), 20)]
    assert np.all(np.diff(feasible, axis=0) >= 0)


def test_one_stall_does_not_move_the_mean() -> None:
    actions, tiles, vision, prompt, output, latency, truth = world(3, 80)
    latency[5, 7] *= 200
    estimator = LatencyEstimator.fit(SEED_SPACE, actions, tiles, vision, prompt, output, latency)
    error = estimator.mean(actions, tiles, vision, prompt).mean(axis=0) / truth.mean(axis=0) - 1
    assert np.abs(error).max() < 0.06


def test_knobs_that_are_not_numbers() -> None:
    space = KnobSpace((Knob(name="model", options=("small", "medium", "large")),))
    rng = np.random.default_rng(0)
    tiles = np.ones((60, 3))
    prompt = rng.integers(10, 200, (60, 1)) * np.ones((1, 3))
    truth = np.array([5.0, 30.0, 20.0]) + np.array([0.1, 0.2, 0.5]) * prompt
    latency = truth * np.exp(0.03 * rng.standard_normal(truth.shape))
    estimator = LatencyEstimator.fit(space, np.arange(3), tiles, 0 * tiles, prompt, np.ones((60, 3)), latency)
    assert np.abs(estimator.mean(np.arange(3), tiles, 0 * tiles, prompt) / truth - 1).max() < 0.05


def test_rescaled_recovers_the_speed_of_another_machine() -> None:
    estimator, (actions, tiles, vision, prompt, _, _, truth) = fitted()
    predicted = estimator.mean(actions[:12], tiles[0, :12], vision[0, :12], prompt[0, :12])
    measured = 2.5 * truth[0, :12] * np.exp(0.04 * np.random.default_rng(0).standard_normal(12))
    ported = estimator.rescaled(measured, predicted)
    assert ported.scale == pytest.approx(2.5, rel=0.06)
    assert ported.mean(actions, tiles[1], vision[1], prompt[1]) == pytest.approx(
        ported.scale * estimator.mean(actions, tiles[1], vision[1], prompt[1])
    )
    assert np.all(
        ported.upper(actions, tiles, vision, prompt) > 2.4 * estimator.upper(actions, tiles, vision, prompt)
    )
    again = ported.rescaled(predicted, ported.scale * predicted)
    assert again.scale == pytest.approx(1.0)
    assert again.margin == pytest.approx(1.0)


def test_arrays_round_trip() -> None:
    estimator, (actions, tiles, vision, prompt, *_) = fitted()
    ported = estimator.rescaled(np.array([3.0, 3.1]), np.array([2.0, 2.0]))
    again = LatencyEstimator.from_arrays(ported.to_arrays())
    everything = np.arange(SEED_SPACE.size)
    for asked, work in (
        (actions, (tiles, vision, prompt)),
        (everything, (np.array(5), np.array(60), np.array(64))),
    ):
        assert np.array_equal(again.upper(asked, *work), ported.upper(asked, *work))
    assert again.facts == ported.facts


def meta(**changes: object) -> np.ndarray:
    value = {"schema_version": 1, "space": SEED_SPACE.to_json(), "facts": {}} | changes
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": None}, r"arrays \['rows'\] are missing"),
        ({"meta": np.frombuffer(b"{", dtype=np.uint8)}, "damaged description"),
        ({"rows": np.ones((3, 4))}, r"got rows \(3, 4\)"),
        ({"upper_ratio": np.full(48, np.nan)}, "NaN or infinite"),
        ({"scalars": np.full(4, np.nan)}, "NaN or infinite"),
        ({"upper_ratio": np.full(48, -1.2)}, "upper_ratio holds -1.2, expected 1 or more"),
        ({"upper_ratio": np.full(48, 0.9)}, "upper_ratio holds 0.9, expected 1 or more"),
        ({"upper_ratio": np.zeros(48)}, "upper_ratio holds 0, expected 1 or more"),
        ({"rows": np.full((48, 4), -1.0)}, "rows holds -1, expected numbers that are not negative"),
        ({"actions": np.arange(48)[::-1]}, "actions holds 0, expected ids in ascending order"),
        ({"scalars": np.array([-1.0, 1.0, 1.0, 3.0])}, "floor_ms holds -1, expected"),
        ({"scalars": np.array([1.0, 0.0, 1.0, 3.0])}, "scale holds 0, expected a positive number"),
        ({"scalars": np.array([1.0, 1.0, 0.5, 3.0])}, "margin holds 0.5, expected 1 or more"),
        ({"scalars": np.array([1.0, 1.0, 1.0, 1e300])}, r"scalars \[1.0, 1.0, 1.0, 1e\+300\]"),
        ({"meta": meta(facts="none")}, "damaged description"),
        ({"meta": meta(schema_version="1")}, "damaged description"),
    ],
)
def test_damaged_arrays_are_refused(change: dict, message: str) -> None:
    arrays = {**fitted()[0].to_arrays(), **change}
    with pytest.raises(ControllerError, match=message):
        LatencyEstimator.from_arrays({name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(("kind", "upper_ratio"), [("cost", 1.0), ("latency", 1.5), ("runtime", 0.0)])
def test_what_takes_the_same_on_every_request_is_read_again(kind: str, upper_ratio: float) -> None:
    made = LatencyEstimator.constant(
        SEED_SPACE, np.array([0, 5]), np.array([0.0, 2.0]), upper_ratio=upper_ratio, facts={"kind": kind}
    )
    again = LatencyEstimator.from_arrays(made.to_arrays())
    ones = np.ones(2)
    assert again.upper(np.array([0, 5]), ones, ones, ones).tolist() == [0.0, 2.0 * upper_ratio]


def test_newer_schema_is_refused_with_its_version() -> None:
    arrays = fitted()[0].to_arrays()
    text = arrays["meta"].tobytes().decode().replace('"schema_version": 1', '"schema_version": 9')
    with pytest.raises(ControllerError, match="schema version 9 is newer than 1"):
        LatencyEstimator.from_arrays({**arrays, "meta": np.frombuffer(text.encode(), dtype=np.uint8)})


def test_bad_input() -> None:
    actions, tiles, vision, prompt, output, latency, _ = world(0, 20)
    parts = (tiles, vision, prompt, output, latency)
    with pytest.raises(OutcomesError, match="5 samples are timed, expected 8 or more"):
        LatencyEstimator.fit(SEED_SPACE, actions, *(part[:5] for part in parts))
    negative = latency.copy()
    negative[0, 0] = -1.0
    with pytest.raises(OutcomesError, match="1 values are not positive"):
        LatencyEstimator.fit(SEED_SPACE, actions, tiles, vision, prompt, output, negative)
    with pytest.raises(OutcomesError, match="ascending order"):
        LatencyEstimator.fit(SEED_SPACE, actions[::-1], *parts)
    estimator = LatencyEstimator.fit(SEED_SPACE, actions, *parts)
    with pytest.raises(KnobError, match="expected ids from 0 to 431"):
        estimator.mean(np.array([432]), np.ones(1), np.ones(1), np.ones(1))
    with pytest.raises(OutcomesError, match="positive, finite times"):
        estimator.rescaled(np.array([np.nan]), np.array([1.0]))


def test_a_decision_is_fast() -> None:
    estimator, (actions, tiles, vision, prompt, *_) = fitted(configurations=64)
    work = tiles[0].astype(np.int32), vision[0].astype(np.int32), prompt[0].astype(np.int32)
    estimator.mean_and_upper(actions, *work)
    best = min(_seconds(estimator, actions, work) for _ in range(200))
    assert best < 60e-6


def _seconds(estimator: LatencyEstimator, actions: np.ndarray, work: tuple) -> float:
    start = time.perf_counter()
    estimator.mean(actions, *work)
    estimator.upper(actions, *work)
    return time.perf_counter() - start


def test_importing_needs_numpy_only() -> None:
    code = (
        "import sys, paceline.latency.estimate, paceline.latency.drift;"
        "print(sorted({'torch', 'polars', 'pyarrow', 'PIL'} & set(sys.modules)))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_nonnegative_least_squares_by_hand() -> None:
    gram = np.array([[2.0, 1.0], [1.0, 2.0]])
    assert nonnegative_least_squares(gram, np.array([3.0, 3.0])) == pytest.approx([1.0, 1.0])
    assert nonnegative_least_squares(gram, np.array([2.0, 0.0])) == pytest.approx(
        [1.0, 0.0]
    )  # free: (4/3, -2/3)
    assert nonnegative_least_squares(gram, np.array([-1.0, -2.0])) == pytest.approx([0.0, 0.0])


def test_nonnegative_least_squares_meets_its_optimality_conditions() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        design = rng.standard_normal((40, 12))
        gram, target = design.T @ design, design.T @ rng.standard_normal(40)
        solution = nonnegative_least_squares(gram, target)
        gradient = target - gram @ solution
        assert np.all(solution >= 0)
        assert np.all(gradient <= 1e-8)
        assert np.abs(solution * gradient).max() < 1e-8


def test_law_without_noise_is_exact() -> None:
    rng = np.random.default_rng(0)
    products = np.column_stack([np.ones(200), rng.random(200)])
    workload = np.column_stack([np.ones(200), rng.random((200, 4))])
    truth = np.array([[1.0, 2.0, 0.0, 0.5, 0.0], [0.0, 3.0, 1.0, 0.0, 0.2]])
    latency = np.einsum("np,pw,nw->n", products, truth, workload)
    assert np.abs(fit_law(products, workload, latency) - truth).max() < 0.02


def test_factors_shrink_by_their_noise() -> None:
    exact = shrunken_factors(np.array([1.2, 1.2, 0.8, 0.8]), np.array([0, 0, 1, 1]), 3)
    assert exact == pytest.approx([1.2, 0.8, 1.0])
    rng = np.random.default_rng(0)
    noisy = shrunken_factors(1 + 0.2 * rng.standard_normal(400), np.repeat(np.arange(40), 10), 40)
    assert np.abs(noisy - 1).max() < 0.05
