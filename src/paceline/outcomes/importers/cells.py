"""From rows to one value per sample and configuration: duplicates, disagreements, timings and workloads."""

from dataclasses import dataclass

import numpy as np

from paceline.errors import OutcomesError
from paceline.outcomes.importers.audit import Audit, some
from paceline.outcomes.importers.records import VALUES, configuration_label
from paceline.outcomes.importers.rows import JoinedRows
from paceline.outcomes.spikes import SPIKE_FACTOR, relative_time_matrix
from paceline.outcomes.table import COUNT_CELLS, FLOAT_CELLS

FREE = 1000
"""What costs nothing counts as the smallest cost divided by this."""


@dataclass(kw_only=True, slots=True)
class Cells:
    """n samples x c configurations, in the order of the rows' lists."""

    floats: dict[str, np.ndarray]  # of table.FLOAT_CELLS, float32 (n, c); NaN where absent
    counts: dict[str, np.ndarray]  # of table.COUNT_CELLS, int32 (n, c); -1 where untested


def make_cells(rows: JoinedRows, audit: Audit, latency_kind: str = "latency") -> Cells:
    """Merge the rows of each cell.

    `latency_kind`: what latency_ms holds: "latency", "runtime" (known only afterwards), "cost" or "none".

    Accuracy comes from the batched runs where there are any, else from the timed ones; times and workloads from the
    timed ones.

    Raises:
        OutcomesError: two files with different values for one cell, or no accuracy at all.
    """
    shape = (len(rows.sample_id), len(rows.configurations))
    cell = rows.sample * shape[1] + rows.configuration
    rows_of = _chosen(rows, _without_repeats(rows, cell, audit))

    def dense(name: str, batched: bool) -> np.ndarray:
        array = np.full(shape[0] * shape[1], np.nan, np.float32)
        chosen = rows_of[batched]
        if name in rows.values and chosen is not None:
            array[cell[chosen]] = rows.values[name][chosen]
        return array.reshape(shape)

    alone, accuracy = dense("accuracy", False), dense("accuracy", True)
    _disagreement(accuracy, alone, audit)
    merged = {"accuracy": _first(accuracy, alone)}
    del alone, accuracy
    for name in VALUES[1:]:
        merged[name] = dense(name, False)
        if rows_of[True] is not None:
            merged[name] = _first(merged[name], dense(name, True))
    tested = np.isfinite(merged["accuracy"])
    _refuse_unscored(rows, cell, tested, audit)
    del cell
    if latency_kind == "runtime":
        _raise_zeros(merged, tested, audit)
    if latency_kind == "cost":
        _price_free(merged, tested, audit)
    _impossible_times(merged, tested, latency_kind, audit)
    if latency_kind == "runtime":
        _time_unsolved(merged, tested, audit)
    _spikes(rows, merged["latency_ms"], latency_kind, audit)
    counts = _workloads(rows, merged, tested, audit)
    for name in ("latency_ms", "first_token_ms", "output_tokens"):
        merged[name][~tested] = np.nan
    return Cells(floats={name: merged[name] for name in FLOAT_CELLS}, counts=counts)


def _chosen(rows: JoinedRows, keep: np.ndarray | None) -> dict[bool, np.ndarray | slice | None]:
    """The rows to take of batched and of timed runs; None where there are none, a slice for all."""
    batched = int(rows.batched.sum())
    if keep is None and batched in (0, len(rows.batched)):
        return {kind: slice(None) if kind == bool(batched) else None for kind in (False, True)}
    keep = np.ones(len(rows.batched), bool) if keep is None else keep
    found = {kind: keep & (rows.batched == kind) for kind in (False, True)}
    return {kind: chosen if chosen.any() else None for kind, chosen in found.items()}


def _first(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), others, values)


def _without_repeats(rows: JoinedRows, cell: np.ndarray, audit: Audit) -> np.ndarray | None:
    """bool (rows,): the first row of every cell and kind of run; later ones must say the same. None: all rows."""
    key = cell * 2 + rows.batched
    seen = np.zeros(2 * len(rows.sample_id) * len(rows.configurations), bool)
    seen[key] = True
    audit.facts["duplicates"] = 0
    if np.count_nonzero(seen) == len(key):
        return None
    del seen
    order = np.argsort(key, kind="stable")
    again = np.zeros(len(key), bool)
    again[1:] = np.diff(key[order]) == 0
    start = np.maximum.accumulate(np.where(again, 0, np.arange(len(key))))
    for name, values in rows.values.items():
        ordered = values[order]
        unequal = again & (ordered != ordered[start]) & ~(np.isnan(ordered) & np.isnan(ordered[start]))
        if unequal.any():
            at = int(np.flatnonzero(unequal)[0])
            one, other = int(order[start[at]]), int(order[at])
            where = configuration_label(rows.configurations[int(rows.configuration[other])])
            raise OutcomesError(
                f"{rows.sources[rows.source[other]]}: sample {rows.sample_id[rows.sample[other]]} under {where} has "
                f"{name} {values[other]:g}, {rows.sources[rows.source[one]]} says {values[one]:g} "
                f"({int(unequal.sum())} such rows); expected one value per sample and configuration, "
                f"remove one of the two or repair the ids{', or use --join position' if len(rows.sources) > 1 else ''}"
            )
    count = int(again.sum())
    audit.facts["duplicates"] = count
    if count:
        audit.warn(f"{count} rows repeat a sample and configuration with equal values; one of each was kept")
    keep = np.ones(len(key), bool)
    keep[order[again]] = False
    return keep


def _disagreement(batched: np.ndarray, timed: np.ndarray, audit: Audit) -> None:
    both = np.isfinite(batched) & np.isfinite(timed)
    rate = float((np.abs(batched - timed)[both] > 1e-6).mean()) if both.any() else None
    audit.facts["disagreement"] = rate
    audit.facts["compared_accuracies"] = int(both.sum())
    if rate is not None:
        audit.note(
            f"{rate:.2%} of {int(both.sum())} outcomes were scored differently in a batch and alone; "
            "the batch's score was taken"
        )


def _refuse_unscored(rows: JoinedRows, cell: np.ndarray, tested: np.ndarray, audit: Audit) -> None:
    if not tested.any():
        raise OutcomesError(
            "import: no sample has a score, only times; expected accuracies too, name the folder that holds them"
        )
    unscored = np.unique(cell[~tested.ravel()[cell]])
    if len(unscored):
        samples = [rows.sample_id[i] for i in np.unique(unscored // tested.shape[1]).tolist()]
        audit.warn(f"{len(unscored)} outcomes have no score and were left out (samples {some(samples)})")


def _raise_zeros(merged: dict[str, np.ndarray], tested: np.ndarray, audit: Audit) -> None:
    """Runtimes of zero are below the clock's step: they become the smallest one measured, with a line."""
    times = merged["latency_ms"]
    zero, positive = tested & (times == 0), times[times > 0]
    audit.facts["zero_runtimes"] = int(zero.sum())
    if zero.any() and len(positive):
        step = float(positive.min())
        merged["latency_ms"] = np.where(zero, step, times)
        audit.warn(
            f"{int(zero.sum())} runtimes are 0, below what the clock resolves; they count as {step:g} ms, the smallest "
            "one measured"
        )


def _time_unsolved(merged: dict[str, np.ndarray], tested: np.ndarray, audit: Audit) -> None:
    """Unsolved outcomes without a runtime have run as long as any, solved ones are left out, with a line each."""
    times = merged["latency_ms"]
    endless = tested & ~np.isfinite(times) & (merged["accuracy"] == 0)
    known = times[tested & np.isfinite(times)]
    audit.facts["untimed_unsolved"] = int(endless.sum())
    if endless.any() and len(known):
        longest = float(known.max())
        merged["latency_ms"] = np.where(endless, longest, times)
        audit.warn(
            f"{int(endless.sum())} unsolved outcomes have no runtime; they count as {longest:g} ms, the longest one "
            "measured, which is taken for the cutoff"
        )
    lost = tested & (merged["accuracy"] > 0) & ~np.isfinite(times)
    audit.facts["untimed_solved"] = int(lost.sum())
    if lost.any():
        merged["accuracy"] = np.where(lost, np.nan, merged["accuracy"])
        tested &= ~lost
        audit.warn(
            f"{int(lost.sum())} solved outcomes have no runtime and were left out: nobody knows when they came"
        )


def _price_free(merged: dict[str, np.ndarray], tested: np.ndarray, audit: Audit) -> None:
    """Costs of 0 become a thousandth of the smallest one: budgets and prices are on a scale of ratios."""
    costs = merged["latency_ms"]
    free, paid = tested & (costs == 0), costs[tested & (costs > 0)]
    audit.facts["free"] = int(free.sum())
    if free.any() and len(paid):
        least = float(paid.min()) / FREE
        merged["latency_ms"] = np.where(free, np.float32(least), costs)
        audit.warn(
            f"{int(free.sum())} outcomes cost 0; they count as {least:g}, a {FREE}th of the smallest cost, since "
            "budgets are read as ratios"
        )


def _impossible_times(
    merged: dict[str, np.ndarray], tested: np.ndarray, latency_kind: str, audit: Audit
) -> None:
    """Times or costs that are not positive and finite become unknown, with a line."""
    what, unknown = ("costs", "have no cost") if latency_kind == "cost" else ("times", "count as not timed")
    total, first = merged["latency_ms"], merged["first_token_ms"]
    bad = tested & ~np.isnan(total) & ~((total > 0) & np.isfinite(total))
    merged["latency_ms"] = np.where(bad, np.nan, total)
    audit.facts["impossible_times"] = int(bad.sum())
    if bad.any():
        audit.warn(
            f"{int(bad.sum())} {what} are zero, negative or infinite (as {total[bad][0]:g}); "
            f"these outcomes {unknown}"
        )
    wrong = tested & ~np.isnan(first) & ~((first > 0) & np.isfinite(first) & (first <= merged["latency_ms"]))
    merged["first_token_ms"] = np.where(wrong, np.nan, first)
    extra = int((wrong & ~bad).sum())
    audit.facts["impossible_first_token_times"] = extra
    if extra:
        audit.warn(
            f"{extra} times to the first token are not between 0 and the whole call's; they count as not timed"
        )


def _spikes(rows: JoinedRows, latency: np.ndarray, latency_kind: str, audit: Audit) -> None:
    """Report one-off times. Runtimes and costs may differ without limit: nothing is usual there."""
    if latency_kind in ("runtime", "cost"):
        audit.note(f"spikes: not looked for among {latency_kind}s")
        latency = latency[:0]
    ratio = relative_time_matrix(latency) if np.isfinite(latency).any() else latency[:0]
    sample, column = np.nonzero(ratio > SPIKE_FACTOR)
    worst = max(1.0, float(np.nanmax(ratio))) if ratio.size else 1.0
    audit.facts |= {"spike_factor": SPIKE_FACTOR, "spikes": len(sample), "worst_spike": worst}
    if len(sample):
        order = np.argsort(-ratio[sample, column], kind="stable")
        names = [rows.sample_id[sample[i]] for i in order.tolist()]
        audit.warn(
            f"{len(sample)} times exceed {SPIKE_FACTOR:g} times what is usual for their sample and configuration, the "
            f"worst by {worst:.1f} (samples {some(names)}); they are kept"
        )


def _workloads(
    rows: JoinedRows, merged: dict[str, np.ndarray], tested: np.ndarray, audit: Audit
) -> dict[str, np.ndarray]:
    """Counts of tested cells; unknown ones from the same sample at the same image size, else the column's median."""
    counts = {}
    alike = _alike(rows)
    for name in (*COUNT_CELLS, "output_tokens"):
        wrong = tested & ((merged[name] < 0) | np.isinf(merged[name]))
        if wrong.any():
            merged[name] = np.where(wrong, np.nan, merged[name])
            audit.warn(f"{name}: {int(wrong.sum())} values are negative or infinite and count as unknown")
    for name in COUNT_CELLS:
        values = merged.pop(name)
        unknown = tested & np.isnan(values)
        if not (tested & ~unknown).any():
            audit.note(f"{name}: unknown in all files, written as 0")
            values = np.zeros_like(values)
        elif unknown.any():
            values = _filled(values, alike)
            audit.note(
                f"{name}: unknown for {int(unknown.sum())} of {int(tested.sum())} outcomes, taken from the same "
                "sample at the same image size, else the median there"
            )
        counts[name] = np.where(tested, np.round(np.nan_to_num(values)), -1).astype(np.int32)
    return counts


def _alike(rows: JoinedRows) -> np.ndarray:
    """int (c,): equal for configurations of one image size, all alike where none is known."""
    sizes = [item.get("max_crops", item.get("tier", "")) for item in rows.configurations]
    known = {size: i for i, size in enumerate(dict.fromkeys(sizes))}
    return np.array([known[size] for size in sizes])


def _filled(values: np.ndarray, alike: np.ndarray) -> np.ndarray:
    values = values.copy()
    overall = float(np.nanmedian(values))
    for group in np.unique(alike):
        columns = np.flatnonzero(alike == group)
        part = values[:, columns]
        known = ~np.isnan(part)
        typical = float(np.median(part[known])) if known.any() else overall
        of_sample = np.where(known, part, -np.inf).max(axis=1)
        of_sample = np.where(np.isinf(of_sample), typical, of_sample)
        values[:, columns] = np.where(known, part, of_sample[:, None])
    return values
