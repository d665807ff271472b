"""Workloads of configurations that a table did not test, borrowed from those that it did."""

from dataclasses import replace

import numpy as np

from paceline.outcomes.table import COUNT_CELLS, FLOAT_CELLS, OutcomeTable


def workload_columns(table: OutcomeTable, actions: np.ndarray) -> np.ndarray:
    """For each of `actions` the column of the table whose workload stands in for it, int64 (actions,).

    Tiles and tokens follow from few knobs, often from one. Each knob counts by the share of the workload's variance
    between tested configurations that its options explain; the column with the least difference in these knobs,
    counted in options, lends its workload. A tested configuration keeps its own, and a configuration that differs from
    a tested one only in knobs that do not move the workload gets exactly what testing it would have shown.
    """
    held, wanted = table.space.option_indices(table.actions), table.space.option_indices(actions)
    weights = _explained(_mean_workloads(table), held)
    steps = np.maximum(np.array(table.space.shape) - 1, 1)
    distance = np.zeros((len(actions), len(table.actions)))
    for knob, weight in enumerate(weights):
        gap = np.abs(wanted[:, knob, None] - held[None, :, knob]) / steps[knob]
        distance += (weight + 1e-6) * gap  # the rest decides between equals
    return distance.argmin(axis=1)


def over_actions(table: OutcomeTable, actions: np.ndarray) -> OutcomeTable:
    """The table over other `actions`: outcomes where they were tested, none elsewhere, and workloads everywhere.

    `actions`: int64 (k,), ascending. Untested cells have NaN as accuracy, times and output length; the workloads are
    those of `workload_columns`.
    """
    columns = workload_columns(table, actions)
    tested = np.isin(actions, table.actions)
    floats = {name: np.where(tested, getattr(table, name)[:, columns], np.nan) for name in FLOAT_CELLS}
    counts = {name: getattr(table, name)[:, columns] for name in COUNT_CELLS}
    as_stored = {name: values.astype(getattr(table, name).dtype) for name, values in floats.items()}
    return replace(table, actions=actions, **as_stored, **counts)


def _mean_workloads(table: OutcomeTable) -> np.ndarray:
    """Mean of every count per configuration over the samples where it is known, standardised: (m, counts)."""
    means = []
    for name in COUNT_CELLS:
        counts = getattr(table, name)
        known = counts >= 0
        means.append(np.where(known, counts, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1))
    values = np.stack(means, axis=1)
    spread = values.std(axis=0)
    return (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0)


def _explained(values: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Share of the variance of `values` (m, counts) between the options of each knob: (knobs,) in [0, 1]."""
    total = float((values**2).sum())
    shares = np.zeros(held.shape[1])
    for knob in range(held.shape[1]):
        for option in np.unique(held[:, knob]):
            rows = held[:, knob] == option
            shares[knob] += rows.sum() * float((values[rows].mean(axis=0) ** 2).sum())
    return shares / total if total > 0 else shares
