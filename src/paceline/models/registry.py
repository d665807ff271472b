"""Models by name: the embedded ones, a directory, or a name of the Hugging Face hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from paceline.errors import ModelError
from paceline.models.hub import fetch, is_hub_name
from paceline.models.protocol import ElasticModel

if TYPE_CHECKING:
    import torch

ASSETS = Path(__file__).parent.parent / "assets" / "models"
EMBEDDED = ("tiny",)
OWN = (None, "molmo")
"""Model types that run in Paceline's own implementation: its own directories, which name none, and public MolmoE."""


def load_model(
    name: str | Path,
    *,
    device: str = "cpu",
    overlap_copies: bool = False,
    dtype: "str | torch.dtype | None" = None,
    device_map: str | Mapping[str | int, str | int] | None = None,
    revision: str | None = None,
) -> ElasticModel:
    """A model by name ("tiny", "allenai/MolmoE-1B-0924") or from a model directory.

    `overlap_copies`: on a CUDA device, features travel to the host on a stream of their own while other work goes on.
    `dtype`: what the model computes in, "float32", "bfloat16" or "float16"; by default as its weights are stored.
    `device_map`: the parts of a large model on several devices, "auto" or a mapping such as {"blocks.8": "cuda:1"}.
    `revision`: branch, tag or commit of a name of the hub.

    Raises ModelError for a name that is none of these, when the files do not make a model, for types and devices that
    there are not, and for `overlap_copies` on another device; DependencyError where the hub's library is missing.
    """
    directory, label = find_model(name, revision)
    from paceline.models.dtypes import parse_dtype
    from paceline.models.transformers.opening import load_transformers, model_type

    kind = parse_dtype(dtype)
    if model_type(directory) not in OWN:
        if overlap_copies:
            raise ModelError(f"overlap_copies: got True for {label}, which has none; leave it out")
        return load_transformers(directory, name=label, device=device, dtype=kind, device_map=device_map)
    from paceline.models.molmoe.elastic import load_elastic

    return load_elastic(
        directory, name=label, device=device, overlap_copies=overlap_copies, dtype=kind, device_map=device_map
    )


def find_model(name: str | Path, revision: str | None = None) -> tuple[Path, str]:
    """The directory of a model, fetched from the hub if need be, and what to call the model."""
    if str(name) in EMBEDDED:
        return ASSETS / str(name), str(name)
    directory = Path(name)
    if directory.is_dir():
        return directory, directory.resolve().name
    if not is_hub_name(str(name)):
        known = ", ".join(EMBEDDED)
        raise ModelError(
            f"model {str(name)!r}: neither a known model ({known}) nor a directory with a model, nor a name "
            "of the Hugging Face hub (owner/model)"
        )
    return fetch(str(name), revision), str(name)
