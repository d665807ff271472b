"""A directory of a Hugging Face checkpoint, opened as an elastic model."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paceline.knobs import KnobSpace
from paceline.models.protocol import ElasticModel

if TYPE_CHECKING:
    import torch


def model_type(directory: Path) -> str | None:
    """The model type of a checkpoint in the hub's layout; None for any other directory."""
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = config.get("model_type") if isinstance(config, dict) else None
    return found if isinstance(found, str) else None


def load_transformers(
    directory: Path,
    *,
    name: str,
    device: str = "cpu",
    dtype: "torch.dtype | None" = None,
    device_map: Any = None,
    knobs: KnobSpace | None = None,
) -> ElasticModel:
    """A checkpoint of a family that `registry` knows, or of another one whose knobs can be proved (`generic`).

    Raises DependencyError without transformers, ModelError for files that do not make a vision-language model and for a
    family that nobody described and of which nothing could be proved, KnobError for knobs that the family lacks.
    """
    from paceline.models.transformers.checking import check_reads_images
    from paceline.models.transformers.loading import load_checkpoint

    checkpoint = load_checkpoint(directory, name=name, device=device, dtype=dtype, device_map=device_map)
    from paceline.models.transformers.elastic import ElasticTransformers
    from paceline.models.transformers.generic import generic_family
    from paceline.models.transformers.instrumented import Instrumented
    from paceline.models.transformers.registry import family_of

    family = family_of(checkpoint.config) or generic_family(checkpoint)
    shared = Instrumented(checkpoint, family)
    check_reads_images(shared, name)
    return ElasticTransformers(shared, knobs=knobs)
