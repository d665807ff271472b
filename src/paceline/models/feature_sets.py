"""Feature sets of an overview: what a policy may read besides what every overview gives.

A model names the sets it can give in `Overview.feature_sets`; they are computed when somebody reads them.
"""

from typing import Protocol

import numpy as np

from paceline.errors import ModelError
from paceline.models.protocol import Overview
from paceline.policies.inputs import ATTENTION, STORED, set_name
from paceline.policies.token_pooling import pack_tokens


class Choice(Protocol):
    """Which feature sets are read: an `InputSpec`, for one."""

    @property
    def image_features(self) -> str: ...

    @property
    def question_features(self) -> str: ...


def feature_set(model: str, overview: Overview, name: str) -> np.ndarray:
    """The set called `name`, float32 (d,), or (tokens, d) of a set of tokens.

    Raises:
        ModelError: a set that the model `model` does not give.
    """
    if name not in overview.feature_sets:
        given = sorted(overview.feature_sets) or "only its pooled features"
        raise ModelError(
            f"model {model}: it gives no feature set {name!r}, it gives {given}; expected a model that does, or a "
            "controller trained on other features (paceline train --image-features, --question-features)"
        )
    return np.asarray(overview.feature_sets[name](), dtype=np.float32)


def chosen_features(model: str, overview: Overview, choice: Choice) -> tuple[np.ndarray, np.ndarray]:
    """Image and question features as a policy reads them: pooled ones (d,), or packed tokens under attention.

    Raises:
        ModelError: a set that the model `model` does not give.
    """

    def read(part: str, features: str, stored: np.ndarray) -> np.ndarray:
        if features == STORED:
            return stored
        values = feature_set(model, overview, set_name(part, features))
        return pack_tokens(values[None], np.array([len(values)]))[0] if features == ATTENTION else values

    return (
        read("image", choice.image_features, overview.image_features),
        read("question", choice.question_features, overview.question_features),
    )
