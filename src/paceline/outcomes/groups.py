"""Means and medians of the values of each group, without a loop over groups."""

import numpy as np


def group_means(group: np.ndarray, values: np.ndarray, groups: int) -> np.ndarray:
    """Mean of the values of each group, float32 (groups,); NaN for a group without any.

    Args:
        group: integers (rows,) in [0, groups).
        values: (rows,), without NaN.

    >>> group_means(np.array([0, 2, 0]), np.array([1.0, 5.0, 2.0]), 3).tolist()
    [1.5, nan, 5.0]
    """
    count = np.bincount(group, minlength=groups)
    total = np.bincount(group, weights=values, minlength=groups)
    return np.divide(total, count, out=np.full(groups, np.nan), where=count > 0).astype(np.float32)


def group_medians(group: np.ndarray, values: np.ndarray, groups: int) -> np.ndarray:
    """Median of the values of each group that are not NaN, float32 (groups,); NaN for a group without any.

    >>> group_medians(np.array([0, 2, 0, 2]), np.array([1.0, 5.0, 2.0, np.nan]), 3).tolist()
    [1.5, nan, 5.0]
    """
    present = ~np.isnan(values)
    group, values = group[present], values[present]
    order = np.lexsort((values, group))
    group, values = group[order], values[order].astype(np.float64)
    start = np.flatnonzero(np.diff(group, prepend=-1))
    count = np.diff(start, append=len(group))
    medians = np.full(groups, np.nan, np.float32)
    medians[group[start]] = (values[start + (count - 1) // 2] + values[start + count // 2]) / 2
    return medians
