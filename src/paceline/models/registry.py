"""Models by name: the embedded ones, or a directory."""

from pathlib import Path

from paceline.errors import ModelError
from paceline.models.protocol import ElasticModel

ASSETS = Path(__file__).parent.parent / "assets" / "models"
EMBEDDED = ("tiny",)


def load_model(name: str | Path, *, device: str = "cpu", overlap_copies: bool = False) -> ElasticModel:
    """A model by name ("tiny") or from a model directory.

    `overlap_copies`: on a CUDA device, features travel to the host on a stream of their own while other work goes on.
    Raises ModelError for a name that is neither, when the files do not make a model, and for `overlap_copies` on
    another device.
    """
    directory = ASSETS / str(name) if str(name) in EMBEDDED else Path(name)
    if not directory.is_dir():
        known = ", ".join(EMBEDDED)
        raise ModelError(f"model {str(name)!r}: neither a known model ({known}) nor a directory with a model")
    label = str(name) if str(name) in EMBEDDED else directory.resolve().name
    from paceline.models.transformers.opening import load_transformers, model_type

    if model_type(directory) is not None:
        return load_transformers(directory, name=label, device=device)
    from paceline.models.molmoe.elastic import load_elastic

    return load_elastic(directory, name=label, device=device, overlap_copies=overlap_copies)
