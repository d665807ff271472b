"""What a reader of outcomes must know, computed from the rows of a finished sweep."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from paceline.outcomes.spikes import SPIKE_FACTOR, relative_times

LATENCY_MEANING = (
    "latency_ms is the wall time of one call at batch 1, overview and generate, after warm-up, calls of all "
    "configurations in random order; null where a sample was scored but not timed"
)


def audit_facts(path: Path) -> dict[str, Any]:
    """Counts of samples, timed samples, spikes and disagreements in an outcomes.parquet of a sweep.

    Spikes are times over `SPIKE_FACTOR` times what is usual for their sample and configuration. They stay in the
    file. Disagreement is the share of timed answers whose score differs from that of the batched answer.
    """
    names = ["sample_id", "action", "latency_ms", "accuracy", "timed_accuracy"]
    rows = pq.read_table(path, columns=names, read_dictionary=["sample_id"])
    sample = rows.column("sample_id").combine_chunks().dictionary_encode().indices.to_numpy()
    action = rows.column("action").to_numpy()
    latency = rows.column("latency_ms").to_numpy()
    actions, configuration = np.unique(action, return_inverse=True)
    timed = ~np.isnan(latency)
    ratio = relative_times(sample[timed], configuration[timed], latency[timed])
    disagree = rows.column("accuracy").to_numpy()[timed] != rows.column("timed_accuracy").to_numpy()[timed]
    return {
        "latency": LATENCY_MEANING,
        "samples": len(np.unique(sample)),
        "configurations": len(actions),
        "rows": len(rows),
        "timed_samples": len(np.unique(sample[timed])),
        "timed_rows": int(timed.sum()),
        "spike_factor": SPIKE_FACTOR,
        "spikes": int((ratio > SPIKE_FACTOR).sum()),
        "worst_spike": float(ratio.max(initial=1.0)),
        "disagreement": float(disagree.mean()) if len(disagree) else 0.0,
    }
