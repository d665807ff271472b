"""The feature sets that a sweep keeps of its overviews."""

from collections.abc import Sequence

import numpy as np

from paceline.errors import ProfileError
from paceline.models.feature_sets import feature_set
from paceline.models.protocol import ElasticModel, Overview
from paceline.outcomes.feature_sets import COUNTS, KEPT, TOKEN_SETS


def stack_feature_sets(
    model: ElasticModel, overviews: Sequence[Overview], kept: str
) -> dict[str, np.ndarray]:
    """Arrays for features.safetensors, of the sets `kept` ("stored", "pooled" or "all") that the model gives.

    Pooled sets are float32 (k, d); tokens float16 (k, room, d), and int32 (k,) how many there are.

    Raises:
        ProfileError: a model that gives none of them, or values that are not finite numbers.
    """
    if not KEPT[kept]:
        return {}
    names = [name for name in KEPT[kept] if name in overviews[0].feature_sets]
    if not names:
        raise ProfileError(
            f"features_kept: model {model.name} gives no feature sets beside its pooled features, expected some of "
            f"{list(KEPT[kept])}; keep 'stored'"
        )
    arrays: dict[str, np.ndarray] = {}
    for name in names:
        rows = [feature_set(model.name, overview, name) for overview in overviews]
        if name in TOKEN_SETS:
            counts = np.array([len(row) for row in rows], dtype=np.int32)
            tokens = np.zeros((len(rows), counts.max(), rows[0].shape[1]), dtype=np.float16)
            with np.errstate(over="ignore"):  # refused below
                for place, row in enumerate(rows):
                    tokens[place, : len(row)] = row
            arrays |= {name: tokens, name + COUNTS: counts}
        else:
            arrays[name] = np.stack(rows)
        if not np.isfinite(arrays[name]).all():
            raise ProfileError(
                f"model {model.name}: feature set {name} holds values that are not finite (tokens: above 65504), "
                "expected finite numbers"
            )
    return arrays
