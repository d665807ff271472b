"""What the exported layouts share: entries of samples, statistics of times, folder names, what is left out."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

import paceline
from paceline.errors import OutcomesError
from paceline.outcomes.importers.naming import OWN
from paceline.outcomes.manifest import Manifest
from paceline.outcomes.table import SPLITS, OutcomeTable

PERCENTILES = (50, 95, 99)


def number(value: Any) -> float | None:
    """A JSON number; None for NaN. A float32 comes back as it was."""
    return None if np.isnan(value) else float(value)


def metadata_of(table: OutcomeTable, row: int) -> dict[str, Any]:
    """The `metadata` of a sample; what is not known is left out."""
    known = {
        "question_id": str(table.sample_id[row]),
        "image_id": str(table.image_hash[row]),
        "question": str(table.question[row]),
        "question_type": str(table.kind[row]),
    }
    return {key: text for key, text in known.items() if text} | {OWN: {"split": str(table.split[row])}}


def statistics(values: np.ndarray) -> dict[str, float | None]:
    """Mean, spread, extremes and percentiles of the values (n,) that are not NaN; None where there are none."""
    values = values[~np.isnan(values)].astype(np.float64)
    names = (*(f"P{percent}" for percent in PERCENTILES), "mean", "std", "min", "max")
    if not len(values):
        return dict.fromkeys(names)
    found = [*np.percentile(values, PERCENTILES), values.mean(), values.std(), values.min(), values.max()]
    return {name: float(value) for name, value in zip(names, found, strict=True)}


def tables_by_dataset(table: OutcomeTable) -> Iterator[tuple[str, OutcomeTable]]:
    """(name for files, the table of one dataset), hyphens in the name as the public scripts write it.

    Raises:
        OutcomesError: two datasets whose files would have one name.
    """
    names: dict[str, str] = {}
    for dataset in dict.fromkeys(table.dataset.tolist()):
        name = re.sub(r"[^A-Za-z0-9.]+", "-", dataset)
        if names.setdefault(name, dataset) != dataset:
            raise OutcomesError(
                f"export: datasets {names[name]!r} and {dataset!r} would share the files of {name!r}, expected names "
                "that differ in more than punctuation; rename one"
            )
        yield name, table.select(table.dataset == dataset)


def active_blocks(manifest: Manifest, count: int) -> list[int] | None:
    """The blocks that a number of active blocks means, sorted; None where the outcomes do not say."""
    stated = manifest.options.get("active_block_indices")
    if isinstance(stated, dict) and str(count) in stated:
        return stated[str(count)]
    ranking = manifest.block_ranking or manifest.model.get("block_ranking") or []
    return sorted(ranking[:count]) if len(ranking) >= count else None


def model_keys(manifest: Manifest) -> dict[str, Any]:
    """What the manifest knows of the model, under the names of the public layouts."""
    model = manifest.model
    total = model.get("num_total_blocks", model.get("blocks"))
    known = {
        "model_name": model.get("name"),
        "num_total_blocks": total or len(manifest.block_ranking) or None,
    }
    return {key: value for key, value in known.items() if value is not None}


def own_keys(dataset: str, **more: Any) -> dict[str, Any]:
    """What a file says under `OWN`: the version that wrote it, the dataset's exact name and `more`."""
    return {"version": paceline.__version__, "dataset": dataset, **more}


def stated_split(table: OutcomeTable) -> str:
    """The one split of a file, or all of them: each sample says its own in its metadata."""
    return "+".join(split for split in SPLITS if (table.split == split).any())


def left_out(table: OutcomeTable, columns: list[str]) -> list[str]:
    """What no layout carries, a line each. `columns`: of outcomes.parquet."""
    lines = []
    options = table.manifest.options
    if table.features.shape[1]:
        lines.append(f"features ({table.features.shape[1]} columns): import makes others from the questions")
    if int(options.get("repeats") or 1) > 1:
        lines.append(f"single repeats: of {options['repeats']} timed calls of a cell the median is written")
    if "timed_accuracy" in columns:
        lines.append("timed_accuracy: accuracy is that of the batched answers")
    untested = table.space.size - len(table.actions)
    options_used = (len(np.unique(part)) for part in table.space.option_indices(table.actions).T)
    unused = sum(
        all_options - used for all_options, used in zip(table.space.shape, options_used, strict=True)
    )
    if unused:
        lines.append(f"{unused} options of knobs that none of the tested configurations uses")
    elif untested:
        lines.append(f"the {untested} configurations that were not tested: they have no file")
    empty = int((~table.tested.any(axis=1)).sum())
    if empty:
        lines.append(f"{empty} samples without any outcome")
    first, total = table.first_token_ms, table.latency_ms
    alone = int((~np.isnan(first) & ~(first <= total)).sum())
    if alone:
        lines.append(f"{alone} times to the first token that no whole call's time contains")
    if options.get("latency_known_when_deciding") is False:
        lines.append("that times are known only after the choice: say --latency-unknown again")
    return [*lines, "manifest: hardware, software, options and audit of the sweep"]
