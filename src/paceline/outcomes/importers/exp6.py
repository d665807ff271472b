"""exp6: latency of every sample under one configuration, one call at a time."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paceline.errors import OutcomesError
from paceline.outcomes.importers.audit import Audit, some
from paceline.outcomes.importers.json_files import numbers, object_at, records_at, sample_ids, whole
from paceline.outcomes.importers.metadata import copied_scores, detail_of
from paceline.outcomes.importers.naming import (
    KNOBS,
    agreed_configuration,
    block_set,
    model_facts,
    named_configuration,
    run_dataset,
)
from paceline.outcomes.importers.options import ImportOptions
from paceline.outcomes.importers.records import Detail, Run

FAMILY = "exp6"
OVERALL = re.compile(r"exp6_latency_results\.json")
LATENCIES, PREDICTIONS = "per_sample_latencies", "per_sample_predictions"
OLD_KEYS = ("latency_total", "latency_prefill", "latency_decode")
UNIT_FACTOR = {"ms": 1.0, "s": 1000.0}


def is_exp6(path: Path, content: Mapping[str, Any]) -> bool:
    """Whether a file holds latencies in this layout."""
    records = content.get("all_samples")
    timed = (
        isinstance(records, list)
        and bool(records)
        and isinstance(records[0], Mapping)
        and bool({"T_total_ms", "latency_total"} & set(records[0]))
    )
    return path.name.startswith("exp6_latency") or LATENCIES in content or timed


def is_overall(path: Path, content: Mapping[str, Any]) -> bool:
    """Whether a file lists the samples of all configurations."""
    if OVERALL.fullmatch(path.name) is not None:
        return True
    return LATENCIES not in content and "all_samples" in content and named_configuration(path)[0] is None


def read_exp6(
    path: Path, content: Mapping[str, Any], known: dict[Detail, Detail], options: ImportOptions, audit: Audit
) -> Run:
    """The run in the file of one configuration; one rank's, or all ranks merged."""
    config = object_at(content.get("config", {}), f"{path}: config")
    configuration, rank = agreed_configuration(path, config)
    listed = LATENCIES if LATENCIES in content or "all_samples" not in content else "all_samples"
    records = records_at(content, listed, str(path))
    for name, option in configuration.items():
        others = {record[name] for record in records if name in record} - {option}
        if others:
            raise OutcomesError(
                f"{path}: entries say {name} {sorted(others, key=str)}, the file is of {option}; "
                "expected one configuration a file"
            )
    summary = content.get("summary")
    if "active_block_indices" not in config and isinstance(summary, list) and summary:
        config = {
            **config,
            "active_block_indices": object_at(summary[0], str(path)).get("active_block_indices"),
        }
    predictions = content.get(PREDICTIONS)
    predictions = records_at(content, PREDICTIONS, str(path)) if predictions is not None else []
    if predictions and len(predictions) != len(records):
        audit.warn(
            f"{path}: {len(predictions)} predictions beside {len(records)} latencies; which belong together cannot "
            "be told, the predictions' metadata is left out"
        )
        predictions = []
    return _run(path, config, configuration, rank, records, predictions, known, options, audit)


def read_overall(
    path: Path, content: Mapping[str, Any], known: dict[Detail, Detail], options: ImportOptions, audit: Audit
) -> Iterator[Run]:
    """The runs in the file of all configurations; each entry names its own."""
    config = object_at(content.get("config", {}), f"{path}: config")
    records = records_at(content, "all_samples", str(path))
    sets = {}
    for item in content.get("summary") or []:
        if isinstance(item, Mapping) and all(name in item for name in KNOBS):
            sets[tuple(item[name] for name in KNOBS)] = item.get("active_block_indices")
    groups: dict[tuple[int, ...], list[Mapping[str, Any]]] = {}
    for row, record in enumerate(records):
        place = f"{path}: entry {row}"
        groups.setdefault(tuple(whole(record.get(name), f"{place}: {name}") for name in KNOBS), []).append(
            record
        )
    for options_chosen, part in groups.items():
        one = {key: value for key, value in config.items() if key != "rank"}
        one["active_block_indices"] = sets.get(options_chosen)
        configuration: dict[str, Any] = dict(zip(KNOBS, options_chosen, strict=True))
        yield _run(path, one, configuration, None, part, [], known, options, audit)


def _run(
    path: Path,
    config: Mapping[str, Any],
    configuration: dict[str, Any],
    rank: int | None,
    records: list[Mapping[str, Any]],
    predictions: list[Mapping[str, Any]],
    known: dict[Detail, Detail],
    options: ImportOptions,
    audit: Audit,
) -> Run:
    place = str(path)
    total, decode = _times(records, place, options, audit)
    accuracy = numbers(records, "accuracy", place)
    if predictions and np.isnan(accuracy).all():
        accuracy = numbers(predictions, "score", place)
    world_size = config.get("world_size")
    described = predictions or records
    return Run(
        file=place,
        folder=str(path.parent),
        family=FAMILY,
        configuration=configuration,
        blocks=block_set(config.get("active_block_indices"), configuration["num_active_blocks"], place),
        dataset=run_dataset(config, path),
        source_split=str(config.get("split") or ""),
        rank=rank,
        world_size=None if world_size is None else whole(world_size, f"{place}: config.world_size"),
        ids=sample_ids(records, place),
        numbering="rank",
        details=[detail_of(record, known) for record in described],
        values={
            "accuracy": accuracy,
            "latency_ms": total,
            "first_token_ms": total - decode,
            "vision_tokens": numbers(records, "num_vision_tokens", place),
            "prompt_tokens": numbers(records, "num_language_tokens", place),
            "output_tokens": numbers(records, "num_output_tokens", place),
        },
        copied=copied_scores(described, np.empty(0, np.int64), accuracy),
        model=model_facts(config),
        facts={"max_new_tokens": config.get("max_new_tokens")},
    )


def _times(
    records: list[Mapping[str, Any]], place: str, options: ImportOptions, audit: Audit
) -> tuple[np.ndarray, np.ndarray]:
    """Whole call and decoding in ms, (records,) each."""
    if any("T_total_ms" in record for record in records):
        if options.latency_unit == "s":
            raise OutcomesError(
                f"{place}: got --latency-unit s, but T_total_ms is in milliseconds as its name says; expected "
                "latency_total, leave the option out"
            )
        total, decode = (numbers(records, key, place) for key in ("T_total_ms", "T_decode_ms"))
        prefill = numbers(records, "T_prefill_ms", place)
        audit.note(
            "exp6: prefill is T_total_ms - T_decode_ms; T_prefill_ms is the last decode step and is not read"
        )
        zeros = int((prefill == 0).sum())
        if zeros:
            audit.facts["zero_prefill"] = audit.facts.get("zero_prefill", 0) + zeros
        if any("num_total_tokens" in record for record in records):
            audit.note(
                "exp6: prompt tokens are num_language_tokens, which hold the image's; num_total_tokens counts those "
                "twice and is not read"
            )
        return total, decode
    if any(OLD_KEYS[0] in record for record in records):
        if options.latency_unit is None:
            raise OutcomesError(
                f"{place}: latency_total is in seconds or milliseconds, the file does not say; "
                "use --latency-unit s or --latency-unit ms"
            )
        factor = UNIT_FACTOR[options.latency_unit]
        audit.note(f"exp6: latency_total was read as {options.latency_unit}, as stated by --latency-unit")
        return factor * numbers(records, OLD_KEYS[0], place), factor * numbers(records, OLD_KEYS[2], place)
    if not records:
        return np.empty(0), np.empty(0)
    raise OutcomesError(
        f"{place}: entries have the keys {some(sorted(records[0]), 16)}, expected T_total_ms (or latency_total); "
        "the file is of another layout"
    )
