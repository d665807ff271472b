"""Further feature sets beside `features` in features.safetensors, and tables that hold them as their features.

Pooled sets are float32 (samples, d). Sets of tokens are float16 (samples, room, d) with zeros behind the last token of
each sample, and an int32 array NAME.counts (samples,) says how many there are: 2 d bytes per token and sample.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from paceline.errors import OutcomesError
from paceline.outcomes.manifest import Manifest
from paceline.outcomes.rows import damaged
from paceline.policies.inputs import ATTENTION, STORED, FeatureChoice, set_name
from paceline.policies.token_pooling import pack_tokens

FEATURES = "features"
COUNTS = ".counts"
POOLED_SETS = ("image.mean", "image.cls", "image.statistics", "question.mean", "question.first")
TOKEN_SETS = ("image.tokens", "question.tokens")
NAMES = {FEATURES, *POOLED_SETS, *TOKEN_SETS, *(name + COUNTS for name in TOKEN_SETS)}
KEPT = {"stored": (), "pooled": POOLED_SETS, "all": (*POOLED_SETS, *TOKEN_SETS)}
"""What a sweep may keep -> the sets that are, as far as the model gives them."""
MEAN_POOLED = ("MolmoE",)
"""Architectures whose stored features are the means over their tokens."""


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Some arrays of a features.safetensors; the others are not read.

    Raises:
        OutcomesError: a damaged file, unknown arrays in it, or none with one of the names.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            there = set(file.keys())
            if FEATURES not in there or not there <= NAMES:
                raise OutcomesError(
                    f"{path.name}: got arrays {sorted(there)}, expected one named {FEATURES}, beside it some of "
                    f"{sorted(NAMES - {FEATURES})} at most"
                )
            missing = [name for name in names if name not in there]
            if missing:
                raise OutcomesError(
                    f"{path}: holds no feature set {missing[0]!r}, only {sorted(there)}; profile with --features-kept "
                    f"{'all' if missing[0] in TOKEN_SETS else 'pooled'}, on a model that gives it"
                )
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise damaged(path, error) from error


def set_names(path: Path) -> list[str]:
    """All arrays of a features.safetensors but the features themselves."""
    read_arrays(path, ())
    with safe_open(path, framework="numpy") as file:
        return sorted(set(file.keys()) - {FEATURES})


def chosen_columns(
    path: Path, manifest: Manifest, image: str, question: str
) -> tuple[np.ndarray, int, FeatureChoice]:
    """Features (n, f) of the chosen sets, how many are of the image, and what they are.

    Raises:
        OutcomesError: an unknown choice, or sets that the file does not hold.
    """
    FeatureChoice(image=image, question=question)  # refuses unknown names
    means = manifest.model.get("architecture") in MEAN_POOLED and manifest.options.get(FEATURES) is None
    same = (STORED, "mean") if means else (STORED,)
    stored = read_arrays(path, (FEATURES,))[FEATURES].astype(np.float32, copy=False)
    width = manifest.image_width
    if not 0 <= width <= stored.shape[1]:
        raise OutcomesError(
            f"image_width: got {width}, expected 0 to {stored.shape[1]}, the number of feature columns"
        )
    parts, token_widths = [], []
    for part, name, own in (("image", image, stored[:, :width]), ("question", question, stored[:, width:])):
        columns, token = (own, 0) if name in same else _columns(path, set_name(part, name), name)
        if len(columns) != len(stored):
            raise OutcomesError(
                f"{path.name}: {set_name(part, name)} has {len(columns)} rows, expected {len(stored)}; profile again"
            )
        parts.append(columns)
        token_widths.append(token)
    choice = FeatureChoice(
        image=image, question=question, image_token=token_widths[0], question_token=token_widths[1]
    )
    return np.concatenate(parts, axis=1), parts[0].shape[1], choice


def _columns(path: Path, array: str, name: str) -> tuple[np.ndarray, int]:
    """A set as columns of a table, and the width of its tokens (0: no tokens)."""
    if name != ATTENTION:
        return read_arrays(path, (array,))[array].astype(np.float32, copy=False), 0
    arrays = read_arrays(path, (array, array + COUNTS))
    return pack_tokens(arrays[array], arrays[array + COUNTS]), arrays[array].shape[2]


def joined_sets(parts: Sequence[Mapping[str, np.ndarray]], name: str) -> np.ndarray:
    """One array of several shards, one after the other; tokens get the room of the longest."""
    arrays = [part[name] for part in parts]
    if name in TOKEN_SETS:
        room = max(array.shape[1] for array in arrays)
        arrays = [np.pad(array, ((0, 0), (0, room - array.shape[1]), (0, 0))) for array in arrays]
    return np.concatenate(arrays)


def with_room(packed: np.ndarray, token: int, columns: int) -> np.ndarray:
    """Packed rows with as many columns as longer ones; features that are no tokens (`token` 0) as they are."""
    if not token or packed.shape[1] == columns:
        return packed
    room = np.zeros((len(packed), columns - packed.shape[1]), dtype=packed.dtype)
    return np.concatenate([packed[:, :-1], room, packed[:, -1:]], axis=1)
