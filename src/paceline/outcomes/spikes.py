"""Spikes: measured times far above what is usual for their sample and configuration."""

import numpy as np

from paceline.outcomes.groups import group_medians

SPIKE_FACTOR = 3.0
"""A measured time is a spike when it exceeds this many times what is usual for its sample and configuration."""


def relative_times(sample: np.ndarray, configuration: np.ndarray, latency_ms: np.ndarray) -> np.ndarray:
    """Each measured time relative to what is usual for its sample and configuration.

    Usual is the product of a factor per sample and one per configuration, found by median polish of the logarithms.

    Args:
        sample: integers (rows,) from 0.
        configuration: integers (rows,) from 0.
        latency_ms: positive times (rows,).

    Returns:
        Ratios (rows,); 1 is usual.

    >>> sample, configuration = np.repeat(np.arange(3), 3), np.tile(np.arange(3), 3)
    >>> times = (1.0 + sample) * (2.0 + configuration)
    >>> times[4] *= 10
    >>> relative_times(sample, configuration, times).round(3).tolist()
    [1.0, 1.0, 1.0, 1.0, 10.0, 1.0, 1.0, 1.0, 1.0]
    """
    residual = np.log(np.asarray(latency_ms, dtype=np.float64))
    for _ in range(4):
        for group in (configuration, sample):
            residual = residual - group_medians(group, residual, int(group.max(initial=-1)) + 1)[group]
    return np.exp(residual)


def relative_time_matrix(latency_ms: np.ndarray) -> np.ndarray:
    """`relative_times` of times that lie in a matrix, without an index per time.

    Args:
        latency_ms: float32 (samples, configurations), positive; NaN where not timed.

    Returns:
        float32 of the same shape; NaN where not timed.

    >>> times = np.outer([1.0, 2.0, 3.0], [2.0, 3.0, 4.0]).astype(np.float32)
    >>> times[1, 1] *= 10
    >>> relative_time_matrix(times).round(3).tolist()
    [[1.0, 1.0, 1.0], [1.0, 10.0, 1.0], [1.0, 1.0, 1.0]]
    """
    residual = np.log(latency_ms)
    for _ in range(4):
        for axis in (0, 1):
            residual -= np.expand_dims(_medians(residual, axis), axis)
    return np.exp(residual, out=residual)


def _medians(values: np.ndarray, axis: int) -> np.ndarray:
    """Medians along an axis of what is not NaN; NaN where nothing is. Sorting puts NaN last."""
    count = np.count_nonzero(~np.isnan(values), axis=axis)
    ordered = np.sort(values, axis=axis)
    middle = [np.maximum(count - 1, 0) // 2, np.minimum(count // 2, values.shape[axis] - 1)]
    low, high = (
        np.take_along_axis(ordered, np.expand_dims(index, axis), axis).squeeze(axis) for index in middle
    )
    return (low + high) / 2
