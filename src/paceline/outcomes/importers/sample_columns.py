"""Columns with one value per sample: features, texts, splits."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from paceline.errors import OutcomesError
from paceline.outcomes.importers.audit import some
from paceline.outcomes.importers.options import TableOptions
from paceline.outcomes.importers.table_files import coded_column, number_column, read_columns
from paceline.outcomes.rows import listed

LONGEST_RANGE = 100_000
"""Columns that a range of names may stand for."""


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
        if int(high[len(stem) :]) - int(low[len(stem) :]) >= LONGEST_RANGE:
            raise OutcomesError(
                f"--features: {name!r} names more than {LONGEST_RANGE:,} columns, expected a range of those that "
                "there are"
            )
        found += [f"{stem}{i}" for i in range(int(low[len(stem) :]), int(high[len(stem) :]) + 1)]
    if len(set(found)) != len(found):
        raise OutcomesError(f"--features: {some(found)} repeat; name each once")
    return found


def wanted_columns(chosen: TableOptions) -> list[str]:
    """Every column that the options may name; a name with a unit or a mapping also without it."""
    given = [chosen.sample, *chosen.knobs, *expand_ranges(chosen.features), chosen.kind, chosen.dataset]
    given += [chosen.question, chosen.image, chosen.group, chosen.propensity]
    for text in (chosen.quality, chosen.latency, chosen.cost, chosen.split):
        given += (
            []
            if text is None
            else [text, text.partition(":")[0], text.rpartition(":")[2], text.partition(":")[2]]
        )
    return [name for name in given if name]


@dataclass(kw_only=True)
class SampleColumns:
    """Columns of a table with one value per sample, from the second table where it has them, else from the outcomes."""

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
        self.second = read_columns(path, [key], wanted_columns(self.chosen))
        codes, names = coded_column(self.second, key, path, "--sample")
        unique, where, counts = np.unique(names[codes].astype(str), return_index=True, return_counts=True)
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
            path = Path(self.chosen.features_table or "")
            codes, found = coded_column(self.second, name, path, option, null="")
            return found[codes[self.order]]
        codes, found = coded_column(self.table, name, self.path, option, null="")
        self._refuse_changing(codes != codes[self.first][self.sample], name, option)
        return found[codes[self.first]]

    def numbers(self, names: list[str]) -> np.ndarray:
        """float64 (n, names)."""
        columns = []
        for name in names:
            if self.second is not None and name in self.second.column_names:
                path = Path(self.chosen.features_table or "")
                columns.append(number_column(self.second, name, path, "--features")[self.order])
                continue
            if self.second is not None and name not in self.table.column_names:
                number_column(self.second, name, Path(self.chosen.features_table or ""), "--features")
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
