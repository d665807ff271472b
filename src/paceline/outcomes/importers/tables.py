"""A table with one row per sample and configuration, its columns named by the user."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from paceline.errors import OutcomesError
from paceline.outcomes.importers.audit import Audit, some
from paceline.outcomes.importers.json_files import refuse_bytes_name
from paceline.outcomes.importers.lmms_eval import parse_option
from paceline.outcomes.importers.options import ImportOptions, TableOptions
from paceline.outcomes.importers.records import VALUES
from paceline.outcomes.importers.rows import JoinedRows
from paceline.outcomes.importers.table_files import (
    column,
    number_column,
    option_column,
    read_columns,
    text_column,
)
from paceline.outcomes.importers.units import refuse_percentages, share_measure, time_measure
from paceline.outcomes.rows import listed


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


def read_outcome_table(path: Path, options: ImportOptions, audit: Audit) -> TableRows:
    """Read a CSV or Parquet table."""
    chosen = options.table
    if not path.is_file():
        refuse_bytes_name(path)
        raise OutcomesError(f"{path}: no such file; expected a .csv or .parquet table")
    _check_options(path, chosen)
    table = read_columns(path, [chosen.sample] if chosen.sample else [])
    knobs = {name: option_column(table, name, path) for name in chosen.knobs}
    if chosen.sample is not None:
        ids = text_column(table, chosen.sample, path, "--sample")
    else:
        ids = np.array([f"{row:09d}" for row in range(table.num_rows)], dtype=object)
        audit.warn(
            "logged decisions: every row is a sample of its own with one tested configuration; such a log can check "
            "off-policy estimators, it cannot train a policy by groups"
        )
    values = {name: np.full(table.num_rows, np.nan) for name in VALUES}
    values["accuracy"] = _quality(table, path, chosen.quality or "", audit)
    kind, unit = _times(table, path, chosen, knobs, values, audit)
    tuples = list(zip(*knobs.values(), strict=True))
    configurations = {item: i for i, item in enumerate(dict.fromkeys(tuples))}
    names, first, sample = np.unique(ids.astype(str), return_index=True, return_inverse=True)
    where = _PerSample(path=path, table=table, names=names, first=first, sample=sample, chosen=chosen)
    audit.facts["joined_by"] = {"all": chosen.sample or "row number"}
    per_sample = {
        field: where.texts(getattr(chosen, field), f"--{field}")
        for field in ("dataset", "image", "question", "kind")
    }
    rows = JoinedRows(
        sample_id=names.tolist(),
        dataset=per_sample["dataset"].tolist(),
        image=[image or name for image, name in zip(per_sample["image"], names.tolist(), strict=True)],
        question=per_sample["question"].tolist(),
        kind=per_sample["kind"].tolist(),
        source_split=[""] * len(names),
        configurations=[dict(zip(chosen.knobs, item, strict=True)) for item in configurations],
        sources=[str(path)],
        sample=sample.astype(np.int64),
        configuration=np.array([configurations[item] for item in tuples], np.int64),
        source=np.zeros(table.num_rows, np.int64),
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
    knobs: Mapping[str, list[int | float | str]],
    values: dict[str, np.ndarray],
    audit: Audit,
) -> tuple[str, str]:
    """Fill latency_ms with times or costs; what it then is, and its unit."""
    if chosen.latency is not None:
        measure = time_measure(chosen.latency)
        values["latency_ms"] = measure.factor * number_column(table, measure.column, path, "--latency")
        audit.note(f"{measure.column}: read as {measure.unit}, kept in ms")
        return "latency", "ms"
    if chosen.cost is None:
        audit.warn("no --latency and no --cost: nothing is timed, training needs one of them")
        return "none", ""
    unit, _, rest = chosen.cost.partition(":")
    if not unit or not rest:
        raise OutcomesError(
            f"--cost: got {chosen.cost!r}, expected UNIT:COLUMN as in usd:price, or UNIT:OPTION=VALUE,..."
        )
    if "=" in rest and rest not in table.column_names:
        values["latency_ms"] = _priced(rest, knobs)
    else:
        values["latency_ms"] = number_column(table, rest, path, "--cost")
    audit.note(f"latency_ms holds costs in {unit}, not times; a budget in ms means a budget in {unit}")
    return "cost", unit


def _priced(text: str, knobs: Mapping[str, list[int | float | str]]) -> np.ndarray:
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
        prices[option.strip()] = float(value)
    options = next(iter(knobs.values()))
    found = {str(option) for option in options}
    if found != set(prices):
        raise OutcomesError(
            f"--cost: got prices of {some(sorted(prices))}, expected one for each of {some(sorted(found))}"
        )
    return np.array([prices[str(option)] for option in options])


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


def expand_ranges(names: tuple[str, ...]) -> list[str]:
    """Column names, with ranges written out.

    >>> expand_ranges(("f0..f2", "age"))
    ['f0', 'f1', 'f2', 'age']
    """
    found = []
    for name in names:
        low, dots, high = name.partition("..")
        if not dots:
            found.append(name)
            continue
        stem = low.rstrip("0123456789")
        if (
            high.rstrip("0123456789") != stem
            or low == stem
            or high == stem
            or int(low[len(stem) :]) > int(high[len(stem) :])
        ):
            raise OutcomesError(f"--features: got {name!r}, expected names and ranges such as f0..f45")
        found += [f"{stem}{i}" for i in range(int(low[len(stem) :]), int(high[len(stem) :]) + 1)]
    if len(set(found)) != len(found):
        raise OutcomesError(f"--features: {some(found)} repeat; name each once")
    return found


@dataclass(kw_only=True)
class _PerSample:
    """Columns with one value per sample, from the second table where it has them, else from the outcomes."""

    path: Path
    table: pa.Table
    names: np.ndarray  # str (n,): the samples, ascending
    first: np.ndarray  # int (n,): a row of each
    sample: np.ndarray  # int (rows,)
    chosen: TableOptions

    def __post_init__(self) -> None:
        self.second: pa.Table | None = None
        self.order = np.empty(0, np.int64)
        if self.chosen.features_table is None:
            return
        path, key = Path(self.chosen.features_table), self.chosen.sample
        if key is None:
            raise OutcomesError("--features-table: needs --sample to join by")
        self.second = read_columns(path, [key])
        ids = text_column(self.second, key, path, "--sample").astype(str)
        unique, where, counts = np.unique(ids, return_index=True, return_counts=True)
        if (counts > 1).any():
            raise OutcomesError(
                f"{path}: {key} repeats (samples {some(unique[counts > 1].tolist())}); expected one row per sample"
            )
        missing = np.setdiff1d(self.names, unique)
        if missing.size:
            raise OutcomesError(
                f"{path}: {missing.size} of {len(self.names)} samples of {self.path} are missing "
                f"({some(missing.tolist())}); expected a row for each, join by another --sample column"
            )
        self.order = where[np.searchsorted(unique, self.names)]

    def texts(self, name: str | None, option: str) -> np.ndarray:
        """Text (n,), object; empty where no column was named."""
        if name is None:
            return np.full(len(self.names), "", dtype=object)
        if self.second is not None and name in self.second.column_names:
            found = text_column(self.second, name, Path(self.chosen.features_table or ""), option, null="")
            return found[self.order]
        found = text_column(self.table, name, self.path, option, null="")
        self._refuse_changing(found != found[self.first][self.sample], name, option)
        return found[self.first]

    def numbers(self, names: list[str]) -> np.ndarray:
        """float64 (n, names)."""
        columns = []
        for name in names:
            if self.second is not None and name in self.second.column_names:
                path = Path(self.chosen.features_table or "")
                columns.append(number_column(self.second, name, path, "--features")[self.order])
                continue
            if self.second is not None and name not in self.table.column_names:
                column(self.second, name, Path(self.chosen.features_table or ""), "--features")
            found = number_column(self.table, name, self.path, "--features")
            usual = found[self.first][self.sample]
            self._refuse_changing((found != usual) & ~(np.isnan(found) & np.isnan(usual)), name, "--features")
            columns.append(found[self.first])
        return np.stack(columns, axis=1)

    def _refuse_changing(self, changes: np.ndarray, name: str, option: str) -> None:
        if changes.any():
            raise OutcomesError(
                f"{self.path}: {name} ({option}) changes within a sample (rows {listed(np.flatnonzero(changes))}); "
                "expected one value per sample"
            )
