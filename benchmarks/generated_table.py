"""A made-up outcomes directory of any size, written in pieces: 432 configurations, and features that tell what pays.

A sample has a kind, a difficulty and a wanted knob. Its answer is right with a chance that rises with the option of
that knob (all three together for one kind in four). Image features show the difficulty and question features the kind,
both through a random mixing and noise.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from paceline.knobs import Knob, KnobSpace
from paceline.outcomes.columns import VALUE_TYPES, knob_columns, value_column
from paceline.outcomes.manifest import Manifest
from paceline.outcomes.store import (
    FEATURES,
    OUTCOMES,
    SAMPLES,
    write_features,
    write_manifest,
    write_row_groups,
    write_samples,
)

SPACE = KnobSpace(
    (
        Knob(name="max_crops", options=(2, 4, 6, 8, 10, 12)),
        Knob(name="top_k", options=(4, 8, 12, 16, 20, 24, 28, 32)),
        Knob(name="num_active_blocks", options=tuple(range(8, 17))),
    )
)
KINDS = ("small", "wide", "deep", "mixed")
IMAGE_WIDTH, QUESTION_WIDTH = 96, 96
STEEPNESS = 8.0  # of the chance of a right answer over (option - difficulty)
CHUNK_SAMPLES = 2048
TOKENS_PER_CROP = 16


def write_generated(path: Path, samples: int, *, actions: Sequence[int] | None = None, seed: int = 0) -> Path:
    """An outcomes directory of `samples` x `actions` (all 432), every one timed; 80 % train, 10 % validation."""
    rng = np.random.default_rng(seed)
    kind, difficulty = rng.integers(0, len(KINDS), samples), rng.random(samples)
    chosen = np.arange(SPACE.size) if actions is None else np.asarray(sorted(actions))
    ids = [f"s{i:07d}" for i in range(samples)]
    split = np.where(
        np.arange(samples) % 10 < 8, "train", np.where(np.arange(samples) % 10 < 9, "validation", "test")
    )
    path.mkdir(parents=True, exist_ok=True)
    write_samples(
        path / SAMPLES,
        {
            "sample_id": np.array(ids), "dataset": np.full(samples, "generated"), "split": split,
            "image_hash": np.array(ids), "question": np.array([f"{KINDS[k]}?" for k in kind]),
            "kind": np.array(KINDS)[kind],
        },
    )  # fmt: skip
    write_features(path / FEATURES, _features(kind, difficulty, rng))
    write_row_groups(path / OUTCOMES, _groups(ids, kind, difficulty, chosen, rng))
    write_manifest(
        path,
        Manifest(
            space=SPACE, block_ranking=list(range(16)), task="generated", model={"name": "generated"},
            image_width=IMAGE_WIDTH,
        ),
    )  # fmt: skip
    return path


def _features(kind: np.ndarray, difficulty: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    told = np.eye(len(KINDS))[kind]
    shown = np.stack([difficulty, difficulty**2, np.sin(6 * difficulty)], axis=1)
    image = shown @ rng.normal(size=(3, IMAGE_WIDTH)) + 0.5 * rng.normal(size=(len(kind), IMAGE_WIDTH))
    question = told @ rng.normal(size=(len(KINDS), QUESTION_WIDTH)) + rng.normal(
        size=(len(kind), QUESTION_WIDTH)
    )
    return np.concatenate([image, question], axis=1).astype(np.float32)


def _groups(
    ids: list[str], kind: np.ndarray, difficulty: np.ndarray, actions: np.ndarray, rng: np.random.Generator
) -> Iterator[pa.Table]:
    """Row groups of CHUNK_SAMPLES samples each."""
    indices = SPACE.option_indices(actions)
    levels = indices / (np.array(SPACE.shape) - 1)
    crops, top_k, blocks = (np.array(knob.options)[indices[:, i]] for i, knob in enumerate(SPACE.knobs))
    usual_ms = 4.0 + 0.8 * crops + blocks * (0.4 + 0.04 * crops * (0.25 + 0.75 * top_k / 32))
    reached = np.concatenate([levels, levels.mean(axis=1, keepdims=True)], axis=1)  # (m, kinds)
    m = len(actions)
    for start in range(0, len(ids), CHUNK_SAMPLES):
        part = slice(start, min(start + CHUNK_SAMPLES, len(ids)))
        n = part.stop - start
        chance = 0.1 + 0.85 / (
            1 + np.exp(STEEPNESS * (difficulty[part, None] - reached[:, kind[part]].T - 0.1))
        )
        latency = usual_ms * np.exp(0.03 * rng.standard_normal((n, m)))
        tokens = np.broadcast_to(TOKENS_PER_CROP * (crops + 1), (n, m))
        values = {
            "action": np.tile(actions, n), "accuracy": rng.random((n, m)) < chance, "latency_ms": latency,
            "first_token_ms": 0.9 * latency, "tiles": np.broadcast_to(crops + 1, (n, m)), "vision_tokens": tokens,
            "prompt_tokens": tokens + 12, "output_tokens": np.full((n, m), 2.0), "repeat": np.zeros((n, m), np.int32),
        }  # fmt: skip
        flat = {name: np.ravel(array) for name, array in values.items()}
        flat["accuracy"] = flat["accuracy"].astype(np.float32)
        sample = pa.DictionaryArray.from_arrays(np.repeat(np.arange(n, dtype=np.int32), m), ids[part])
        yield pa.table(
            {"sample_id": sample.cast(pa.string())}
            | knob_columns(SPACE, flat["action"])
            | {name: value_column(name, flat[name]) for name in VALUE_TYPES}
        )
