"""The model's own projector as the beginning of a policy's image projection."""

import hashlib

import numpy as np
from torch import Tensor

from paceline.errors import TrainError
from paceline.models.registry import load_model
from paceline.outcomes.feature_makers import MODEL, feature_maker, maker_label, model_identity
from paceline.outcomes.table import OutcomeTable
from paceline.policies.shared_projection import SharedProjector


def shared_projector(name: str, table: OutcomeTable, scale: np.ndarray) -> SharedProjector:
    """The projector of the model `name` (or directory), for the image features of `table`.

    `scale`: 1 / standard deviation of every feature, 0 for constant ones, image features first.

    Raises:
        TrainError: the features were not made by that model, or not by its projector.
        ModelError: no such model.
    """
    model = load_model(name)
    made = feature_maker(table.manifest.model, table.manifest.options)
    maker = {"kind": MODEL, "model": model_identity(model.describe())}
    if made != maker:
        raise TrainError(
            f"share_projector: the features were made by {maker_label(made)}, expected {maker_label(maker)}; "
            "name the model that made them"
        )
    matrix = getattr(model, "projector", None)
    if not isinstance(matrix, Tensor):
        raise TrainError(f"share_projector: model {name!r} has no projector to share; train without")
    if len(matrix) != table.image_width:
        raise TrainError(
            f"share_projector: the projector of {name!r} writes {len(matrix)} numbers, but the outcomes have "
            f"{table.image_width} image features; expected features taken after the projector"
        )
    chosen = scale[: table.image_width].astype(np.float64)
    return SharedProjector.of(matrix, np.divide(1.0, chosen, out=np.zeros_like(chosen), where=chosen > 0))


def projector_digest(projector: SharedProjector) -> str:
    """Hash of the projector, so that a checkpoint is never resumed with another."""
    return hashlib.sha256(np.ascontiguousarray(projector.matrix.float().cpu().numpy()).data).hexdigest()
