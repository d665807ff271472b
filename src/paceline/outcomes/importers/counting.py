"""Counts of samples per configuration, and the holes, for the audit."""

import numpy as np

from paceline.knobs import Option
from paceline.outcomes.importers.audit import SHOWN, Audit
from paceline.outcomes.importers.records import configuration_label

LISTED_HOLES = 100
"""How many sample names the audit keeps per configuration, none of logged decisions; outcomes.parquet has them all."""
FEW_COMPLETE = 0.5


def count_outcomes(
    sample_id: list[str],
    configurations: list[dict[str, Option]],
    columns: np.ndarray,
    cut: dict[str, np.ndarray],
    listed: int,
    audit: Audit,
) -> None:
    """Counts of samples per configuration, and the holes."""
    tested, timed = ~np.isnan(cut["accuracy"]), ~np.isnan(cut["latency_ms"])
    labels = [configuration_label(configurations[i]) for i in columns.tolist()]
    holes = {}
    for column, label in enumerate(labels):
        missing = np.flatnonzero(~tested[:, column])
        if len(missing):
            holes[label] = {
                "missing": len(missing),
                "samples": [sample_id[i] for i in missing[:listed].tolist()],
            }
    complete = int(tested.all(axis=1).sum())
    audit.facts |= {
        "samples": len(sample_id),
        "configurations": len(labels),
        "rows": int(tested.sum()),
        "timed_samples": int(timed.any(axis=1).sum()),
        "timed_rows": int(timed.sum()),
        "complete_samples": complete,
        "samples_per_configuration": dict(zip(labels, tested.sum(axis=0).tolist(), strict=True)),
        "timed_per_configuration": dict(zip(labels, timed.sum(axis=0).tolist(), strict=True)),
        "holes": holes,
    }
    if holes:
        worst = max(holes, key=lambda label: holes[label]["missing"])
        audit.warn(
            f"{int((~tested).sum())} of {tested.size} outcomes are missing in {len(holes)} configurations, most under "
            f"{worst}: {holes[worst]['missing']} samples, as "
            f"{', '.join(holes[worst]['samples'][:SHOWN]) or 'in any log'}"
        )
    if complete < FEW_COMPLETE * len(sample_id):
        audit.warn(
            f"only {complete} of {len(sample_id)} samples have an outcome under all {len(labels)} configurations; "
            "comparisons use only these"
        )
