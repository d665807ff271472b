"""exp6: one file per configuration, an entry per sample with its times and tokens.

Samples that were scored and not timed have entries too: their times are null.
"""

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import numpy as np

from paceline.errors import OutcomesError
from paceline.knobs import KnobSpace
from paceline.outcomes.exporters.entries import (
    active_blocks,
    metadata_of,
    model_keys,
    number,
    own_keys,
    stated_split,
    statistics,
    tables_by_dataset,
)
from paceline.outcomes.importers.naming import KNOBS, OWN
from paceline.outcomes.table import OutcomeTable

LEFT_OUT = (
    "tiles: exp6 counts tokens only, an import writes 0",
    "times of the overview, of vision and of the prefill alone: exp6 holds the whole call and decoding",
)


def check_space(space: KnobSpace) -> None:
    """Refuse a knob space that the names of the files cannot express.

    Raises:
        OutcomesError: other knobs than max_crops, top_k and num_active_blocks, or options that are no counts.
    """
    counts = all(type(option) is int and option >= 0 for knob in space.knobs for option in knob.options)
    if set(space.names) != set(KNOBS) or not counts:
        raise OutcomesError(
            f"--format exp6: got the knobs {list(space.names)}, expected {list(KNOBS)} with whole numbers as options; "
            "leave --format out, the outcomes directory holds any knobs"
        )


def files(table: OutcomeTable, phases: dict[str, np.ndarray]) -> Iterator[tuple[PurePath, Any]]:
    """(path, JSON value) of every file. `phases` are not used: the layout has no place for them."""
    for name, part in tables_by_dataset(table):
        folder = PurePath(f"exp6_latency_{name}" if name else "exp6_latency")
        for column, action in enumerate(part.actions.tolist()):
            rows = np.flatnonzero(part.tested[:, column])
            if not len(rows):
                continue
            configuration = part.space.configuration(action)
            crops, top_k, blocks = (configuration[knob] for knob in KNOBS)
            path = folder / f"exp6_latency_crops{crops}_topk{top_k}_blocks{blocks}.json"
            yield path, _file(part, column, rows, {knob: configuration[knob] for knob in KNOBS})


def _file(
    table: OutcomeTable, column: int, rows: np.ndarray, configuration: dict[str, Any]
) -> dict[str, Any]:
    blocks = active_blocks(table.manifest, configuration["num_active_blocks"])
    stated = {} if blocks is None else {"active_block_indices": blocks}
    total = table.latency_ms[rows, column].astype(np.float64)
    prefill = table.first_token_ms[rows, column].astype(np.float64)
    accuracy = table.accuracy[rows, column]
    summary = {
        **configuration,
        **stated,
        "num_samples": len(rows),
        "accuracy": float(accuracy.mean(dtype=np.float64)),
        "latency_total_ms": statistics(total),
        "latency_prefill_ms": statistics(prefill),
        "latency_decode_ms": statistics(total - prefill),
    }
    return {
        "summary": [summary],
        "per_sample_latencies": [_latency(table, column, row, configuration) for row in rows.tolist()],
        "per_sample_predictions": [
            {
                "sample_id": row,
                "score": float(table.accuracy[row, column]),
                "metadata": metadata_of(table, row),
            }
            for row in rows.tolist()
        ],
        "config": {
            "dataset_name": str(table.dataset[0]),
            "split": stated_split(table),
            "batch_size": 1,
            "max_new_tokens": table.manifest.options.get("max_new_tokens"),
            **configuration,
            **model_keys(table.manifest),
            **stated,
            "world_size": 1,
            OWN: own_keys(str(table.dataset[0])),
        },
    }


def _latency(table: OutcomeTable, column: int, row: int, configuration: dict[str, Any]) -> dict[str, Any]:
    """One entry; `sample_id` is the sample's position among all of its dataset."""
    total, first = float(table.latency_ms[row, column]), float(table.first_token_ms[row, column])
    vision, prompt = int(table.vision_tokens[row, column]), int(table.prompt_tokens[row, column])
    return {
        "sample_id": row,
        **configuration,
        "T_total_ms": number(total),
        "T_prefill_ms": number(first),
        "T_decode_ms": number(total - first),
        "num_vision_tokens": vision,
        "num_language_tokens": prompt,
        "num_output_tokens": number(table.output_tokens[row, column]),
        "num_total_tokens": vision + prompt,
        "accuracy": float(table.accuracy[row, column]),
    }
