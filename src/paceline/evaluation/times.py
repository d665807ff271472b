"""What takes how long: the estimate of a table's latencies, costs or runtimes."""

import numpy as np

from paceline.errors import OutcomesError
from paceline.latency.estimate import LatencyEstimator
from paceline.latency.quantity import COST, LATENCY, MILLISECONDS, RUNTIME
from paceline.outcomes.chunks import row_chunks
from paceline.outcomes.table import OutcomeTable


def fit_latency(
    table: OutcomeTable, *, first_token: bool = False, violation_rate: float = 0.05, seed: int = 0
) -> LatencyEstimator:
    """The latency estimate (whole call, or to the first token) from timed samples outside the test split.

    Where no first token was timed, as in some imports, the whole call's time stands in: it is never below it. Costs
    and runtimes that are known only afterwards are estimated by each configuration's mean; a runtime's upper bound
    is 0, since nothing can be excluded in advance.
    """
    rows = table.split != "test"
    kind = table.manifest.options.get("latency_kind", LATENCY)
    if kind in (RUNTIME, COST):
        return _by_configuration(table.select(rows), kind)
    # A table mapped from files is not copied: the fit takes what it needs of it.
    first_token = first_token and any(
        np.isfinite(table.first_token_ms[part][rows[part]]).any()
        for part in row_chunks(*table.accuracy.shape)
    )
    return LatencyEstimator.fit(
        table.space,
        table.actions,
        table.tiles,
        table.vision_tokens,
        table.prompt_tokens,
        table.output_tokens,
        table.first_token_ms if first_token else table.latency_ms,
        samples=rows,
        violation_rate=violation_rate,
        seed=seed,
    )


def _by_configuration(rows: OutcomeTable, kind: str) -> LatencyEstimator:
    times = rows.latency_ms.astype(np.float64)
    known = np.isfinite(times)
    if not known.any(axis=0).all():
        missing = rows.actions[~known.any(axis=0)]
        named = [dict(rows.space.configuration(action)) for action in missing[:5].tolist()]
        raise OutcomesError(
            f"outcomes: {len(missing)} configurations have no {kind} outside the test split, among them {named}; give "
            "every configuration some"
        )
    means = np.where(known, times, 0.0).sum(axis=0) / known.sum(axis=0)
    unit = rows.manifest.options.get("latency_unit", MILLISECONDS)
    facts = {"kind": kind, "unit": unit, "timed_samples": int(known.any(axis=1).sum())}
    if kind == RUNTIME:
        return LatencyEstimator.constant(
            rows.space,
            rows.actions,
            means,
            upper_ratio=0.0,
            facts=facts | {"cutoff_ms": float(times[known].max())},
        )
    # A table holds single precision: a price of 0.002 must fit a budget of 0.002.
    prices = np.array([float(f"{mean:.6g}") for mean in means])
    return LatencyEstimator.constant(rows.space, rows.actions, prices, upper_ratio=1.0, facts=facts)
