"""The latency law: knob products times workload, fitted with non-negative coefficients. numpy only."""

from itertools import combinations

import numpy as np

from paceline.knobs import Knob, KnobSpace

WORKLOAD_TERMS = 5
"""Columns of a workload row while fitting: 1, tiles, vision tokens, prompt tokens, output tokens."""

RIDGE = 1e-5
"""Penalty per row, relative to columns of unit size: only enough to settle columns that say the same."""

SPIKE_RATIO = 3.0
"""A measurement beyond this multiple of its prediction counts as this multiple, so one stall moves no law."""

REWEIGHTINGS = 4


def knob_columns(knob: Knob) -> np.ndarray:
    """Features of each option of a knob, in [0, 1]: float64 (options, columns).

    A numeric knob is one column that runs from its first option (0) to its last (1); any other knob has an
    indicator per option.
    """
    numeric = all(isinstance(option, int | float) and not isinstance(option, bool) for option in knob.options)
    if not numeric or len(knob.options) == 1:
        return np.eye(len(knob.options))[:, : len(knob.options) if len(knob.options) > 1 else 0]
    values = np.array(knob.options, dtype=np.float64)
    position = (values - values[0]) / (values[-1] - values[0])
    if np.any(np.diff(position) < 0):
        return np.eye(len(knob.options))
    return position[:, None]


def knob_products(space: KnobSpace, actions: np.ndarray, order: int) -> np.ndarray:
    """Products of up to `order` different knobs' features: float64 (actions, products), first column 1."""
    indices = space.option_indices(actions)
    per_knob = [knob_columns(knob)[indices[:, k]] for k, knob in enumerate(space.knobs)]
    columns = [np.ones((len(actions), 1))]
    for size in range(1, order + 1):
        for chosen in combinations(per_knob, size):
            product = chosen[0]
            for features in chosen[1:]:
                product = (product[:, :, None] * features[:, None, :]).reshape(len(actions), -1)
            columns.append(product)
    return np.concatenate(columns, axis=1)


def product_order(space: KnobSpace, rows: int) -> int:
    """The highest order of knob products, at most 3, that leaves 4 rows or more per coefficient."""
    order = min(3, len(space.knobs))
    while order > 1 and 4 * WORKLOAD_TERMS * knob_products(space, np.zeros(1, int), order).shape[1] > rows:
        order -= 1
    return order


def nonnegative_least_squares(gram: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The x >= 0 that minimises x'Gx/2 - t'x, by the active set method of Lawson and Hanson (1974).

    `gram` is symmetric positive definite (p, p), `target` (p,).
    """
    count = len(target)
    solution = np.zeros(count)
    passive = np.zeros(count, dtype=bool)
    tolerance = 1e-10 * max(1.0, float(np.abs(target).max(initial=0.0)))
    for _ in range(10 * count):
        gradient = target - gram @ solution
        gradient[passive] = -np.inf
        entering = int(np.argmax(gradient))
        if gradient[entering] <= tolerance:
            break
        passive[entering] = True
        while True:
            trial = np.zeros(count)
            trial[passive] = np.linalg.solve(gram[np.ix_(passive, passive)], target[passive])
            blocked = passive & (trial <= 0)
            if not blocked.any():
                solution = trial
                break
            step = np.min(solution[blocked] / np.maximum(solution[blocked] - trial[blocked], 1e-300))
            solution = solution + step * (trial - solution)
            passive &= solution > 1e-14
            solution[~passive] = 0.0
            if not passive.any():
                break
    return solution


def fit_law(products: np.ndarray, workload: np.ndarray, latency_ms: np.ndarray) -> np.ndarray:
    """Coefficients of latency = sum_pw C[p, w] products[p] workload[w] that minimise the relative error.

    `products` (rows, p) and `workload` (rows, WORKLOAD_TERMS) are non-negative, `latency_ms` (rows,) is
    positive; returns C >= 0 (p, WORKLOAD_TERMS), so latency never falls as work grows. Rows are weighted by
    the reciprocal of their prediction, not of their measurement, so that noise does not pull the mean down.
    """
    design = (products[:, :, None] * workload[:, None, :]).reshape(len(latency_ms), -1)
    predicted = np.full(len(latency_ms), float(np.median(latency_ms)))
    coefficients = np.zeros(design.shape[1])
    for step in range(REWEIGHTINGS):
        ratio = latency_ms / predicted if step == 0 else np.minimum(latency_ms / predicted, SPIKE_RATIO)
        weighted = design / predicted[:, None]
        size = np.sqrt(np.mean(weighted**2, axis=0))
        size[size == 0] = 1.0
        weighted = weighted / size
        gram = weighted.T @ weighted / len(ratio) + RIDGE * np.eye(len(size))
        coefficients = nonnegative_least_squares(gram, weighted.T @ ratio / len(ratio)) / size
        predicted = np.maximum(design @ coefficients, 0.05 * float(np.min(latency_ms)))
    return coefficients.reshape(products.shape[1], WORKLOAD_TERMS)


def shrunken_factors(ratio: np.ndarray, column: np.ndarray, count: int) -> np.ndarray:
    """Per configuration correction of the law: its mean measured/predicted, shrunk towards 1 by its noise.

    `ratio` (rows,), `column` (rows,) the configuration of each row in [0, count). Empirical Bayes: the weight
    is between / (between + within / rows of the configuration). Configurations without rows get 1.
    """
    ratio = np.minimum(ratio, SPIKE_RATIO)
    rows = np.bincount(column, minlength=count)
    seen = rows > 0
    means = np.ones(count)
    means[seen] = np.bincount(column, ratio, minlength=count)[seen] / rows[seen]
    residual = ratio - means[column]
    freedom = max(1, len(ratio) - int(seen.sum()))
    within = float(residual @ residual) / freedom
    noise = within / np.maximum(rows, 1)
    between = max(0.0, float(np.mean((means[seen] - 1.0) ** 2 - noise[seen])))
    weight = np.where(seen, between / (between + noise + 1e-12), 0.0)
    return 1.0 + weight * (means - 1.0)
