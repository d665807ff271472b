"""A table with one row per sample and configuration, its columns named by the user."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from paceline.errors import OutcomesError
from paceline.knobs import Configuration
from paceline.outcomes.importers.audit import Audit, some
from paceline.outcomes.importers.json_files import refuse_bytes_name
from paceline.outcomes.importers.lmms_eval import parse_option
from paceline.outcomes.importers.options import ImportOptions, TableOptions
from paceline.outcomes.importers.rows import JoinedRows
from paceline.outcomes.importers.sample_columns import SampleColumns, expand_ranges, wanted_columns
from paceline.outcomes.importers.table_files import (
    coded_column,
    number_column,
    option_column,
    read_columns,
)
from paceline.outcomes.importers.units import (
    check_cost_unit,
    refuse_percentages,
    share_measure,
    time_measure,
    unit_in_name,
)
from paceline.outcomes.progress import Progress
from paceline.outcomes.rows import listed

LONGEST_GROUP = 40
"""Characters of a group's text that are kept as its name."""

Coded: TypeAlias = tuple[np.ndarray, list[int | float | str]]
"""A knob's column: an index per row, int64 (rows,), and what the indices mean."""


@dataclass(kw_only=True, slots=True)
class TableRows:
    """What a table gives: outcomes, and the tables to take features and splits from."""

    rows: JoinedRows
    features: np.ndarray | None  # float64 (n, f) as in the file, NaN where empty
    feature_names: list[str]
    split: np.ndarray | None  # text (n,), as in the file
    latency_kind: str  # "latency", "cost" or "none"
    latency_unit: str
    propensity: np.ndarray | None  # float64 (rows,) in the order of `rows`


def read_outcome_table(
    path: Path, options: ImportOptions, audit: Audit, progress: Progress | None = None
) -> TableRows:
    """Read a CSV or Parquet table."""
    chosen = options.table
    if not path.is_file():
        refuse_bytes_name(path)
        raise OutcomesError(f"{path}: no such file; expected a .csv or .parquet table")
    _check_options(path, chosen)
    table = read_columns(path, [chosen.sample] if chosen.sample else [], wanted_columns(chosen), progress)
    knobs = {name: option_column(table, name, path) for name in chosen.knobs}
    values = {"accuracy": _quality(table, path, chosen.quality or "", audit)}
    kind, unit, values["latency_ms"] = _times(table, path, chosen, knobs, audit)
    configurations, configuration = _configurations(knobs)
    names, first, sample = _samples(table, path, chosen, audit)
    where = SampleColumns(path=path, table=table, names=names, first=first, sample=sample, chosen=chosen)
    audit.facts["joined_by"] = {"all": chosen.sample or "row number"}
    per_sample = {
        field: where.texts(getattr(chosen, field), f"--{field}")
        for field in ("dataset", "image", "group", "question", "kind")
    }
    scenes = per_sample["image"] if chosen.group is None else _group_names(per_sample["group"])
    rows = JoinedRows(
        sample_id=names.tolist(),
        dataset=per_sample["dataset"].tolist(),
        image=[scene or name for scene, name in zip(scenes, names.tolist(), strict=True)],
        picture=per_sample["image"].tolist(),
        question=per_sample["question"].tolist(),
        kind=per_sample["kind"].tolist(),
        source_split=[""] * len(names),
        split=[""] * len(names),
        configurations=configurations,
        sources=[str(path)],
        sample=sample,
        configuration=configuration,
        source=np.zeros(table.num_rows, np.int32),
        batched=np.zeros(table.num_rows, bool),
        values=values,
    )
    feature_names = expand_ranges(chosen.features)
    split = None if chosen.split is None else where.texts(chosen.split.partition(":")[0], "--split")
    return TableRows(
        rows=rows,
        features=where.numbers(feature_names) if feature_names else None,
        feature_names=feature_names,
        split=split,
        latency_kind=kind,
        latency_unit=unit,
        propensity=_propensity(table, path, chosen),
    )


def _samples(
    table: pa.Table, path: Path, chosen: TableOptions, audit: Audit
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Names str (n,), ascending; the first row of each, int64 (n,); and the sample of every row, int64 (rows,)."""
    rows = np.arange(table.num_rows, dtype=np.int64)
    if chosen.sample is None:
        audit.warn(
            "logged decisions: every row is a sample of its own with one tested configuration; such a log can check "
            "off-policy estimators, it cannot train a policy by groups"
        )
        return np.array([f"{row:09d}" for row in rows.tolist()]), rows, rows
    codes, texts = coded_column(table, chosen.sample, path, "--sample")
    names, place = np.unique(texts.astype(str), return_inverse=True)
    sample = place.astype(np.int64)[codes]
    first = np.empty(len(names), np.int64)
    first[sample[::-1]] = rows[::-1]  # of equal places the last assignment stays: the first row
    return names, first, sample


def _group_names(texts: np.ndarray) -> list[str]:
    """A name of every group (n,): its text, of a long one the beginning and a hash; empty where a sample has none."""

    def name(text: str) -> str:
        if len(text) <= LONGEST_GROUP:
            return text
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        return f"{text[:LONGEST_GROUP]}... ({digest})"

    return [name(text.strip()) for text in map(str, texts.tolist())]


def _configurations(knobs: Mapping[str, Coded]) -> tuple[list[Configuration], np.ndarray]:
    """The combinations of options that occur, and which of them each row has, int64 (rows,)."""
    shape = tuple(len(options) for _, options in knobs.values())
    flat = np.ravel_multi_index(tuple(codes for codes, _ in knobs.values()), shape)
    found, row = np.unique(flat, return_inverse=True)
    indices = np.stack(np.unravel_index(found, shape), axis=-1).tolist()
    options = [options for _, options in knobs.values()]
    configurations = [
        {name: part[i] for name, part, i in zip(knobs, options, item, strict=True)} for item in indices
    ]
    return configurations, row.astype(np.int64)


def _check_options(path: Path, chosen: TableOptions) -> None:
    missing = [
        f"--{name}" for name, value in (("knobs", chosen.knobs), ("quality", chosen.quality)) if not value
    ]
    if chosen.sample is None and chosen.propensity is None:
        missing.insert(0, "--sample")
    if missing:
        raise OutcomesError(
            f"{path}: which columns hold what is not known, expected {', '.join(missing)}; as in "
            "--sample id --knobs model --quality correct --latency seconds:runtime"
        )
    if chosen.latency is not None and chosen.cost is not None:
        raise OutcomesError(
            "import: got --latency and --cost, expected one of them; it is what budgets are of"
        )
    if chosen.image is not None and chosen.group is not None:
        raise OutcomesError(
            "import: got --image and --group, expected one of them; samples of one image are a group already"
        )
    if len(set(chosen.knobs)) != len(chosen.knobs):
        raise OutcomesError(f"--knobs: {list(chosen.knobs)} repeat; name each once")


def _quality(table: pa.Table, path: Path, text: str, audit: Audit) -> np.ndarray:
    measure = share_measure(text)
    values = number_column(table, measure.column, path, "--quality")
    known = values[~np.isnan(values)]
    if not len(known):
        raise OutcomesError(f"{path}: {measure.column} (--quality) is empty, expected scores in [0, 1]")
    refuse_percentages(
        f"{path}: {measure.column}",
        float(known.min()),
        float(known.max()),
        measure.factor,
        f"if they are percentages say --quality percent:{measure.column}, else scale them",
    )
    if measure.factor != 1:
        audit.note(f"{measure.column}: percentages, divided by 100")
        if known.max() <= 1:
            audit.warn(
                f"{measure.column}: was read as percent, yet no score exceeds 1 %; say fraction:COLUMN if not"
            )
    return values * measure.factor


def _times(
    table: pa.Table,
    path: Path,
    chosen: TableOptions,
    knobs: Mapping[str, Coded],
    audit: Audit,
) -> tuple[str, str, np.ndarray]:
    """What latency_ms is, its unit, and its values float64 (rows,)."""
    if chosen.latency is not None:
        measure = time_measure(chosen.latency)
        times = measure.factor * number_column(table, measure.column, path, "--latency")
        audit.note(f"{measure.column}: read as {measure.unit}, kept in ms")
        named = unit_in_name(measure.column)
        if named is not None and named != measure.unit:
            audit.warn(
                f"{measure.column}: the name says {named}, --latency says {measure.unit}, which was taken"
            )
        return "latency", "ms", times
    if chosen.cost is None:
        audit.warn("no --latency and no --cost: nothing is timed, training needs one of them")
        return "none", "", np.full(table.num_rows, np.nan)
    unit, _, rest = chosen.cost.partition(":")
    if not unit or not rest:
        raise OutcomesError(
            f"--cost: got {chosen.cost!r}, expected UNIT:COLUMN as in usd:price, or UNIT:OPTION=VALUE,..."
        )
    check_cost_unit(unit)
    if "=" in rest and rest not in table.column_names:
        costs = _priced(rest, knobs)
    else:
        costs = number_column(table, rest, path, "--cost")
    audit.note(f"latency_ms holds costs in {unit}, not times; budgets are said in it, as in 0.5{unit}")
    return "cost", unit, costs


def _priced(text: str, knobs: Mapping[str, Coded]) -> np.ndarray:
    """Costs (rows,) of one knob with a fixed price per option."""
    if len(knobs) != 1:
        raise OutcomesError(
            f"--cost OPTION=VALUE: got {len(knobs)} knobs, expected one; use a column instead"
        )
    prices = {}
    for item in text.split(","):
        option, _, price = item.rpartition("=")
        value = parse_option(price)
        if isinstance(value, str):
            raise OutcomesError(f"--cost: {item!r} has no number, expected OPTION=VALUE")
        if not 0 <= float(value) < math.inf or option.strip() in prices:
            raise OutcomesError(f"--cost: got {item!r}, expected one finite price from 0 on for each option")
        prices[option.strip()] = float(value)
    codes, options = next(iter(knobs.values()))
    found = {str(option) for option in options}
    if found != set(prices):
        raise OutcomesError(
            f"--cost: got prices of {some(sorted(prices))}, expected one for each of {some(sorted(found))}"
        )
    return np.array([prices[str(option)] for option in options])[codes]


def _propensity(table: pa.Table, path: Path, chosen: TableOptions) -> np.ndarray | None:
    if chosen.propensity is None:
        return None
    values = number_column(table, chosen.propensity, path, "--propensity")
    bad = np.flatnonzero(~((values > 0) & (values <= 1)))
    if bad.size:
        raise OutcomesError(
            f"{path}: {chosen.propensity} (--propensity) is not in (0, 1] (rows {listed(bad)}); "
            "expected the probability with which the logged choice was made"
        )
    return values
