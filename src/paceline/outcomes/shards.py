"""The append-only shards of a sweep that is still running.

`shards/` holds sweep.json (the manifest as far as it is known), and for every finished shard NNNNN.features.safetensors
and NNNNN.outcomes.parquet. The latter is renamed into place last: a shard is finished when it exists.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from paceline.errors import OutcomesError
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

    def write(self, index: int, rows: pa.Table, features: np.ndarray) -> None:
        """Add a finished shard: its rows of outcomes and the features (samples, f) of its samples."""
        write_features(self._features(index), features)
        write_atomically(self._outcomes(index), lambda temporary: pq.write_table(rows, temporary))

    def finished(self, count: int) -> list[int]:
        """Which of the shards 0 ... count - 1 are finished.

        Raises:
            OutcomesError: a finished shard that cannot be read.
        """
        indices = [index for index in range(count) if self._outcomes(index).is_file()]
        for index in indices:
            try:
                pq.read_metadata(self._outcomes(index))
            except (pa.ArrowException, OSError) as error:
                raise damaged(self._outcomes(index), error) from error
            read_features(self._features(index))
        return indices

    def compact(self, count: int) -> None:
        """Join all shards, in order, into outcomes.parquet and features.safetensors. The shards stay."""
        missing = sorted(set(range(count)) - set(self.finished(count)))
        if missing:
            raise OutcomesError(
                f"{self.path}: shards {missing[:8]} are not finished; run the sweep to its end"
            )
        features = np.concatenate([read_features(self._features(index)) for index in range(count)])
        write_features(self.directory / FEATURES, features)
        write_row_groups(self.directory / OUTCOMES, self._tables(count))

    def remove(self) -> None:
        """Delete the shards, if there are any, once the directory is finished."""
        if self.path.is_dir():
            shutil.rmtree(self.path)

    def _tables(self, count: int) -> Iterator[pa.Table]:
        for index in range(count):
            try:
                yield pq.read_table(self._outcomes(index))
            except (pa.ArrowException, OSError) as error:
                raise damaged(self._outcomes(index), error) from error

    def _outcomes(self, index: int) -> Path:
        return self.path / f"{index:05d}.outcomes.parquet"

    def _features(self, index: int) -> Path:
        return self.path / f"{index:05d}.features.safetensors"
