"""core_exp: one file per configuration with accuracy, times by phase, crops and tokens of every sample.

The layout names image sizes by tier. Several options of max_crops may fall into one tier, so a file also says its
exact configuration under the key `paceline`, and its name ends in the number of crops.
"""

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import numpy as np

from paceline.errors import OutcomesError
from paceline.knobs import Configuration, KnobSpace
from paceline.outcomes.exporters.entries import (
    PERCENTILES,
    active_blocks,
    metadata_of,
    model_keys,
    number,
    own_keys,
    stated_split,
    statistics,
    tables_by_dataset,
)
from paceline.outcomes.importers.core_exp import TIERS
from paceline.outcomes.importers.naming import OWN
from paceline.outcomes.table import OutcomeTable

TIER_CROPS = {"low": (1, 3), "medium": (4, 8), "high": (9, 15)}
"""Fewest and most crops of each tier."""
SIZES = ("max_crops", "tier")
REST = ("top_k", "num_active_blocks")
LEFT_OUT = ("times of single decoding steps",)


def check_space(space: KnobSpace) -> None:
    """Refuse a knob space that the names of the files cannot express.

    Raises:
        OutcomesError: other knobs than top_k, num_active_blocks and one of max_crops and tier, or options that
            are in no tier.
    """
    size = [name for name in space.names if name in SIZES]
    options = {knob.name: knob.options for knob in space.knobs}
    counts = all(type(option) is int for name in REST for option in options.get(name, ("",)))
    if len(size) != 1 or set(space.names) != {*size, *REST} or not counts:
        raise OutcomesError(
            f"--format core_exp: got the knobs {list(space.names)}, expected max_crops (or tier), top_k and "
            "num_active_blocks with whole numbers as options; leave --format out, the directory holds any knobs"
        )
    for option in options[size[0]]:
        tier_of({size[0]: option})


def tier_of(configuration: Configuration) -> str:
    """The tier of a configuration.

    >>> tier_of({"max_crops": 6})
    'medium'

    Raises:
        OutcomesError: a number of crops that is in none.
    """
    if "tier" in configuration:
        tier = configuration["tier"]
        found = [name for name in TIERS if name == tier]
    else:
        tier = configuration["max_crops"]
        found = [
            name for name, (low, high) in TIER_CROPS.items() if type(tier) is int and low <= tier <= high
        ]
    if not found:
        raise OutcomesError(f"--format core_exp: {tier!r} crops are in no tier, expected {TIER_CROPS}")
    return found[0]


def files(table: OutcomeTable, phases: dict[str, np.ndarray]) -> Iterator[tuple[PurePath, Any]]:
    """(path, JSON value) of every file.

    `phases`: float32 (samples, configurations) by the names of `columns.PHASE_COLUMNS`; empty where not measured.
    """
    for name, part in tables_by_dataset(table):
        cut = {phase: values[table.dataset == part.dataset[0]] for phase, values in phases.items()}
        for column, action in enumerate(part.actions.tolist()):
            rows = np.flatnonzero(part.tested[:, column])
            if not len(rows):
                continue
            configuration = part.space.configuration(action)
            tier = tier_of(configuration)
            crops = configuration.get("max_crops", int(part.tiles[rows, column].mean()))
            ending = f"crops{crops}_topk{configuration['top_k']}_blocks{configuration['num_active_blocks']}"
            value = _file(part, column, rows, configuration, tier, cut)
            yield PurePath(f"{name or 'all'}_imgsizetier-{tier}_{ending}.json"), value


def _file(
    table: OutcomeTable,
    column: int,
    rows: np.ndarray,
    configuration: Configuration,
    tier: str,
    phases: dict[str, np.ndarray],
) -> dict[str, Any]:
    blocks = active_blocks(table.manifest, int(configuration["num_active_blocks"]))
    low, high = TIER_CROPS[tier]
    accuracy, tiles = table.accuracy[rows, column].astype(np.float64), table.tiles[rows, column]
    vision = table.vision_tokens[rows, column]
    sizes, counts = np.unique(tiles, return_counts=True)
    shared = {
        "tier": tier,
        "tier_range": {"min_crops": low, "max_crops": high},
        "top_k": configuration["top_k"],
        "num_active_blocks": configuration["num_active_blocks"],
    }
    return {
        **shared,
        "max_crops": configuration.get("max_crops", high),
        "split": stated_split(table),
        "selected_crops_distribution": dict(zip(map(str, sizes.tolist()), counts.tolist(), strict=True)),
        "selected_crops_mean": float(tiles.mean()),
        "selected_crops_std": float(tiles.std()),
        "actual_vision_tokens_mean": float(vision.mean()),
        "actual_vision_tokens_std": float(vision.std()),
        **model_keys(table.manifest),
        **({} if blocks is None else {"active_block_indices": blocks}),
        "num_samples": len(rows),
        "accuracy": float(accuracy.mean()),
        "accuracy_std": float(accuracy.std()),
        "latency_stats": _latency_stats(table, column, rows, phases),
        "per_sample_results": [shared | _result(table, column, row, phases) for row in rows.tolist()],
        OWN: own_keys(str(table.dataset[0]), configuration=configuration),
    }


def _result(table: OutcomeTable, column: int, row: int, phases: dict[str, np.ndarray]) -> dict[str, Any]:
    total, first = float(table.latency_ms[row, column]), float(table.first_token_ms[row, column])
    vision, prompt = int(table.vision_tokens[row, column]), int(table.prompt_tokens[row, column])
    return {
        "sample_id": row,
        "output_tokens": number(table.output_tokens[row, column]),
        "actual_num_crops": int(table.tiles[row, column]),
        "actual_vision_tokens": vision,
        "actual_text_tokens": prompt - vision,
        "total_sequence_length": prompt,
        "accuracy": float(table.accuracy[row, column]),
        "metadata": metadata_of(table, row),
        **{name: number(values[row, column]) for name, values in _measured(phases).items()},
        "T_LLM_decode": number(total - first),
        "T_total": number(total),
    }


def _measured(phases: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our phases under the layout's names: the overview is a part of vision."""
    if not phases:
        return {}
    vision = phases["overview_ms"].astype(np.float64) + phases["vision_ms"]
    return {"T_vision_total": vision, "T_LLM_prefill": phases["prefill_ms"]}


def _latency_stats(
    table: OutcomeTable, column: int, rows: np.ndarray, phases: dict[str, np.ndarray]
) -> dict[str, Any]:
    total = table.latency_ms[rows, column].astype(np.float64)
    times = {name: values[rows, column] for name, values in _measured(phases).items()}
    times |= {"T_LLM_decode": total - table.first_token_ms[rows, column], "T_total": total}
    found = {}
    for name, values in times.items():
        numbers = statistics(values)
        found |= {f"{name}_{key}": numbers[key] for key in ("mean", "std")}
        found |= {f"{name}_p{percent}": numbers[f"P{percent}"] for percent in PERCENTILES}
    return found
