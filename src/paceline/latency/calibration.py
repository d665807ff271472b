"""What fitting needs around the law: checked timings, upper quantiles by split conformal, and the facts."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from paceline.errors import OutcomesError

MINIMUM_TIMED_SAMPLES = 8
BAND_SCORES = 400
"""Measurements that one calibration band should hold; fast configurations are noisier than slow ones."""
MAXIMUM_BANDS = 4
LAW_CELLS, CALIBRATION_CELLS = 1 << 18, 1 << 20
"""Timings that fit the law and that calibrate it, at most, whole samples at random: a few dozen coefficients and a
quantile gain nothing from more, and what fitting holds stays below 1 GiB however large the table is."""
FEWEST_DRAWN = 64
"""Samples that either may take of a table with very many configurations."""
ROWS_AT_ONCE = 1 << 22
"""Cells looked at together while counting."""


def timed_halves(
    latency: np.ndarray, tiles: np.ndarray, used: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Timed samples, at random, in two halves: positions that fit the law and positions that calibrate it.

    `latency`, `tiles`: (n, m), NaN and -1 where there is none; `used`: bool (n,), the samples to take them from.
    """
    timed = [(np.isfinite(latency[part]) & (tiles[part] >= 0)).any(axis=1) for part in _pieces(latency)]
    samples = np.flatnonzero(np.concatenate([np.zeros(0, bool), *timed]) & used)
    samples = np.random.default_rng(seed).permutation(samples)
    half, columns = len(samples) // 2, max(1, latency.shape[1])
    law, calibration = (max(FEWEST_DRAWN, cells // columns) for cells in (LAW_CELLS, CALIBRATION_CELLS))
    return samples[half:][:law], samples[:half][:calibration]


def typical_workload(used: np.ndarray, *workload: np.ndarray) -> list[np.ndarray]:
    """Mean of each (n, m) measure of work over the `used` samples where it is known, float64 (m,) each; tiles first."""
    known, totals = np.zeros(workload[0].shape[1]), [np.zeros(workload[0].shape[1]) for _ in workload]
    for part in _pieces(workload[0]):
        unknown = (workload[0][part] < 0) | ~used[part, None]
        known += (~unknown).sum(axis=0)
        for total, measure in zip(totals, workload, strict=True):
            total += np.where(unknown, 0.0, measure[part]).sum(axis=0)
    return [total / np.maximum(known, 1) for total in totals]


def _pieces(array: np.ndarray) -> Iterator[slice]:
    step = max(1, ROWS_AT_ONCE // max(1, array.shape[1]))
    for start in range(0, len(array), step):
        yield slice(start, start + step)


def check_shapes(actions: np.ndarray, arrays: list[np.ndarray]) -> None:
    """Raise OutcomesError unless all arrays are (samples, m) for m actions."""
    shapes = [array.shape for array in arrays]
    if any(shape != shapes[0] or len(shape) != 2 or shape[1] != len(actions) for shape in shapes):
        raise OutcomesError(f"timings: got shapes {shapes}, expected all (samples, {len(actions)})")


def checked_timings(
    actions: np.ndarray, work: list[np.ndarray], latency: np.ndarray, violation_rate: float
) -> np.ndarray:
    """Boolean (n, m): which measurements there are. Raises OutcomesError when they cannot be fitted."""
    if not 0 < violation_rate < 1:
        raise OutcomesError(f"violation rate: got {violation_rate}, expected a share between 0 and 1")
    if np.any(np.diff(actions) <= 0):
        raise OutcomesError("actions: expected distinct ids in ascending order")
    timed = np.isfinite(latency) & (work[0] >= 0)
    if np.any(latency[timed] <= 0):
        raise OutcomesError(
            f"latency_ms: {int(np.sum(latency[timed] <= 0))} values are not positive; profile again"
        )
    count = int(timed.any(axis=1).sum())
    if count < MINIMUM_TIMED_SAMPLES:
        raise OutcomesError(
            f"latency_ms: {count} samples are timed, expected {MINIMUM_TIMED_SAMPLES} or more; "
            "profile with more timed samples"
        )
    return timed


def mean_lengths(output_tokens: np.ndarray) -> np.ndarray:
    """Mean answer length per configuration (m,), shrunk towards the overall mean by four answers' weight."""
    known = np.isfinite(output_tokens)
    overall = float(output_tokens[known].mean()) if known.any() else 0.0
    total = np.where(known, output_tokens, 0.0).sum(axis=0)
    return (total + 4.0 * overall) / (known.sum(axis=0) + 4.0)


def calibrated_ratios(ratio: np.ndarray, config_mean_ms: np.ndarray, violation_rate: float) -> np.ndarray:
    """upper / mean per configuration (m,), from held-out ratios (n, m) with NaN where absent.

    Configurations are grouped into bands of similar latency. In each band the quantile weighs every sample
    the same and counts one more sample at infinity, so whole samples, not single measurements, are the units
    of the promise (Dunn, Wasserman, Ramdas 2023). With too few samples for the promise the largest ratio
    stands in, and the fact `promise_holds` is false.
    """
    scores = int(np.isfinite(ratio).sum())
    bands = int(np.clip(scores // BAND_SCORES, 1, min(MAXIMUM_BANDS, ratio.shape[1])))
    upper = np.ones(ratio.shape[1])
    for columns in np.array_split(np.argsort(config_mean_ms, kind="stable"), bands):
        part = ratio[:, columns]
        counts = np.isfinite(part).sum(axis=1)
        sample, column = np.nonzero(np.isfinite(part))
        samples = int((counts > 0).sum())
        if not samples:
            raise OutcomesError(
                "latency_ms: some configurations have no timed sample to calibrate on; time more samples"
            )
        values, weights = part[sample, column], 1.0 / counts[sample]
        order = np.argsort(values, kind="stable")
        mass = np.cumsum(weights[order])
        level = (1.0 - violation_rate) * (samples + 1)
        position = min(int(np.searchsorted(mass, level - 1e-9)), len(values) - 1)
        upper[columns] = max(1.0, float(values[order][position]))
    return upper


def fit_facts(
    latency: np.ndarray,
    mean: np.ndarray,
    upper_ratio: np.ndarray,
    held_out: np.ndarray,
    fitting: np.ndarray,
    order: int,
    violation_rate: float,
    seed: int,
) -> dict[str, Any]:
    """What the estimate was fitted on and how good it is, on samples that the law did not see."""
    measured = np.where(held_out, latency, np.nan)
    predicted = np.where(held_out, mean, np.nan)
    seen = held_out.any(axis=0)
    config_error = np.abs(np.nansum(predicted[:, seen], axis=0) / np.nansum(measured[:, seen], axis=0) - 1.0)
    samples = int(held_out.any(axis=1).sum())
    return {
        "fit_samples": int((fitting & np.isfinite(latency).any(axis=1)).sum()),
        "calibration_samples": samples,
        "measurements": int(np.isfinite(latency).sum()),
        "configurations": int(latency.shape[1]),
        "product_order": order,
        "relative_error": float(np.nanmean(np.abs(predicted / measured - 1.0))),
        "configuration_relative_error": float(config_error.mean()),
        "coverage": float(np.mean((latency <= mean * upper_ratio)[held_out])),
        "violation_rate": violation_rate,
        "promise_holds": (1.0 - violation_rate) * (samples + 1) <= samples,
        "upper_ratio_min": float(upper_ratio.min()),
        "upper_ratio_max": float(upper_ratio.max()),
        "seed": seed,
    }
