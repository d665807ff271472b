"""The `metadata` of a sample, and scores that are those of a whole batch."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paceline.outcomes.importers.naming import own_keys
from paceline.outcomes.importers.records import Detail

TRUTH_KEYS = ("answers", "answer", "answer_idx", "options", "captions", "question_type")
ID_KEYS = ("question_id", "example_id", "caption_id")
"""What identifies a question, best first."""
CORPUS_KEYS = ("captions", "coco_metrics")
"""Entries with these hold CIDEr: one corpus score per batch."""
FEWEST_BATCHES = 3


def detail_of(record: Mapping[str, Any], known: dict[Detail, Detail]) -> Detail:
    """What an entry says of its sample; equal ones are one object, so that large grids stay small."""
    metadata = record.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    truth = {key: record.get(key, metadata.get(key)) for key in TRUTH_KEYS}
    truth = {key: value for key, value in truth.items() if value is not None}
    kind = metadata.get("question_type", record.get("question_type"))
    detail = Detail(
        question_id=next((_text(metadata[key]) for key in ID_KEYS if metadata.get(key) is not None), ""),
        image=_text(metadata.get("image_id")),
        question=_text(metadata.get("question")),
        kind=_text(kind),
        split=_text(own_keys(metadata, "metadata").get("split")),
        truth=f"{','.join(sorted(truth))}|{json.dumps(truth, sort_keys=True, default=str)}" if truth else "",
    )
    return known.setdefault(detail, detail)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def copied_scores(
    records: Sequence[Mapping[str, Any]], batch_ids: np.ndarray, scores: np.ndarray
) -> np.ndarray:
    """bool (records,): which scores are a batch's.

    Captions are scored by CIDEr, a statistic of the batch. Other scores count as copied when they are equal within
    every one of `FEWEST_BATCHES` or more batches, differ between them, and are more than right or wrong.

    Args:
        records: the entries.
        batch_ids: int64 (records,), starting at 0 again in every batch; empty for batches of one.
        scores: (records,).
    """
    corpus = np.array(
        [any(key in record for key in CORPUS_KEYS) or _captioned(record) for record in records], bool
    )
    if corpus.all() or not len(batch_ids):
        return corpus
    batch = np.cumsum(np.diff(batch_ids, prepend=-1) <= 0)
    _, start, sizes = np.unique(batch, return_index=True, return_counts=True)
    shared = sizes > 1
    if shared.sum() < FEWEST_BATCHES:
        return corpus
    low, high = np.minimum.reduceat(scores, start), np.maximum.reduceat(scores, start)
    graded = ~np.isin(scores, (0.0, 1.0)).all()
    if graded and np.all(low[shared] == high[shared]) and len(np.unique(low[shared])) > 1:
        return np.ones(len(records), bool)
    return corpus


def _captioned(record: Mapping[str, Any]) -> bool:
    metadata = record.get("metadata")
    return isinstance(metadata, Mapping) and "captions" in metadata
