"""The append-only shards of a sweep that is still running.

`shards/` holds sweep.json (the manifest as far as it is known), and for every finished shard NNNNN.features.safetensors
and NNNNN.outcomes.parquet. The latter is renamed into place last: a shard is finished when it exists.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from paceline.errors import OutcomesError
from paceline.outcomes.feature_sets import joined_sets, read_arrays, set_names
from paceline.outcomes.files import write_atomically, write_text
from paceline.outcomes.manifest import Manifest, parse_manifest
from paceline.outcomes.rows import damaged
from paceline.outcomes.store import (
    FEATURES,
    OUTCOMES,
    SHARDS,
    read_features,
    write_features,
    write_row_groups,
)

SWEEP = "sweep.json"


class ShardStore:
    """The shards of one outcomes directory.

    Args:
        directory: the outcomes directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / SHARDS

    def begin(self, manifest: Manifest) -> None:
        """Record what the sweep is, before its first shard."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / SWEEP, json.dumps(manifest.to_json(), indent=1, allow_nan=False) + "\n")

    def begun(self) -> Manifest | None:
        """What `begin` recorded; None before it."""
        path = self.path / SWEEP
        return parse_manifest(path.read_text(encoding="utf-8"), source=str(path)) if path.is_file() else None

    def write(
        self,
        index: int,
        rows: pa.Table,
        features: np.ndarray,
        sets: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Add a finished shard: its rows of outcomes, the features (samples, f) of its samples, and further sets."""
        write_features(self._features(index), features, sets)
        write_atomically(self._outcomes(index), lambda temporary: pq.write_table(rows, temporary))

    def finished(self, indices: Sequence[int]) -> list[int]:
        """Which of these shards are finished.

        Raises:
            OutcomesError: a finished shard that cannot be read.
        """
        there = [index for index in indices if self._outcomes(index).is_file()]
        for index in there:
            try:
                pq.read_metadata(self._outcomes(index))
            except (pa.ArrowException, OSError) as error:
                raise damaged(self._outcomes(index), error) from error
            read_features(self._features(index))
        return there

    def rows(self, indices: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """Some columns of the rows of finished shards, in their order.

        Raises:
            OutcomesError: a shard that cannot be read.
        """
        return pa.concat_tables(self._tables(indices, columns))

    def compact(self, count: int, with_features: Sequence[int] | None = None) -> None:
        """Join the shards 0 ... count - 1, in order, into outcomes.parquet and features.safetensors. The shards stay.

        `with_features`: the shards whose samples' features, one after the other, are those of samples.parquet; all by
        default. Others repeat samples under further configurations.
        """
        missing = sorted(set(range(count)) - set(self.finished(range(count))))
        if missing:
            raise OutcomesError(
                f"{self.path}: shards {missing[:8]} are not finished; run the sweep to its end"
            )
        indices = range(count) if with_features is None else with_features
        paths = [self._features(index) for index in indices]
        features = np.concatenate([read_features(path) for path in paths])
        names = set_names(paths[0])
        parts = [read_arrays(path, names) for path in paths] if names else []
        sets = {name: joined_sets(parts, name) for name in names}
        write_features(self.directory / FEATURES, features, sets)
        write_row_groups(self.directory / OUTCOMES, self._tables(range(count)))

    def remove(self) -> None:
        """Delete the shards, if there are any, once the directory is finished."""
        if self.path.is_dir():
            shutil.rmtree(self.path)

    def _tables(self, indices: Sequence[int], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        for index in indices:
            try:
                yield pq.read_table(self._outcomes(index), columns=columns and list(columns))
            except (pa.ArrowException, OSError) as error:
                raise damaged(self._outcomes(index), error) from error

    def _outcomes(self, index: int) -> Path:
        return self.path / f"{index:05d}.outcomes.parquet"

    def _features(self, index: int) -> Path:
        return self.path / f"{index:05d}.features.safetensors"
