"""Outcomes of all files, joined by sample: one row per sample, configuration and file."""

from dataclasses import dataclass

import numpy as np

from paceline.knobs import Configuration


@dataclass(kw_only=True, slots=True)
class JoinedRows:
    """n samples, c configurations, r rows."""

    sample_id: list[str]  # (n,)
    dataset: list[str]  # (n,)
    image: list[str]  # (n,): equal for equal images, of whatever split
    question: list[str]  # (n,)
    kind: list[str]  # (n,)
    source_split: list[str]  # (n,): as the files say; empty where they do not
    split: list[str]  # (n,): train, validation or test in files that Paceline exported; empty in others
    configurations: list[Configuration]  # (c,)
    sources: list[str]  # file names
    sample: np.ndarray  # int64 (r,)
    configuration: np.ndarray  # int64 (r,)
    source: np.ndarray  # int64 (r,): which of `sources`
    batched: np.ndarray  # bool (r,): the score comes from a batch, apart from any timing
    values: dict[str, np.ndarray]  # of records.VALUES, float64 (r,)
