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
