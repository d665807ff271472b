"""A checkpoint of Hugging Face transformers: found, checked and loaded as it is, no fork."""

import hashlib
import json
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paceline.errors import DependencyError, ModelError
from paceline.models.transformers.checking import check_device, check_files
from paceline.models.transformers.processors import load_processor

if TYPE_CHECKING:
    import torch

SAMPLED_BYTES = 1 << 20
REMOTE_CODE = "contains custom code"
"""How transformers says that it would have to run code of the checkpoint."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A model with its processor."""

    model: Any
    processor: Any
    config: Any
    name: str
    revision: str
    ignored: tuple[str, ...] = ()  # tensors of the files that the class has no place for


def load_checkpoint(
    directory: Path,
    *,
    name: str,
    device: str = "cpu",
    dtype: "torch.dtype | None" = None,
    device_map: Any = None,
) -> Checkpoint:
    """The model and the processor in a directory of the hub's layout.

    Args:
        dtype: what the model computes in; None: float32 on a CPU, else what the checkpoint is stored in.
        device_map: as in transformers; in place of `device`.

    Raises:
        DependencyError: transformers is not installed.
        ModelError: a checkpoint that is no vision-language model, incomplete, of another shape or of a type that is
            not supported.
    """
    try:
        import transformers
    except ImportError as error:
        raise DependencyError(
            f"model {name}: it needs transformers, which is not installed; pip install 'paceline[hf]'"
        ) from error
    config = _config(directory, name)
    kind = _model_class(config, name)
    stored = getattr(config, "quantization_config", None)
    if stored is not None:
        method = (
            stored.get("quant_method") if isinstance(stored, dict) else getattr(stored, "quant_method", "?")
        )
        raise ModelError(
            f"model {name}: its weights are quantised ({method}), expected float32, bfloat16 or float16; take the "
            "checkpoint that is not quantised"
        )
    check_files(directory, name)
    if device_map is None:
        check_device(device, name)
    wanted = dtype or ("float32" if device == "cpu" and device_map is None else "auto")
    try:
        with _quiet(transformers.utils.logging):
            model, info = kind.from_pretrained(
                directory,
                dtype=wanted,
                device_map=device_map,
                output_loading_info=True,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,  # else whoever sits at the terminal is asked
                ignore_mismatched_sizes=True,  # told below, by name and shape
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"model {name}: its weights cannot be loaded ({_reason(error)})") from error
    _check_keys(name, info)
    if device_map is None:
        model = model.to(device)
    ignored = tuple(sorted(info["unexpected_keys"]))
    if ignored:
        warnings.warn(
            f"model {name}: {len(ignored)} tensors of its files have no place in {type(model).__name__} and are not "
            f"used (such as {list(ignored[:3])})",
            stacklevel=2,
        )
    return Checkpoint(
        model=model.requires_grad_(False).eval(),
        processor=load_processor(directory, name),
        config=model.config,
        name=name,
        revision=_revision(directory),
        ignored=ignored,
    )


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """No progress bar and no words about keys, which are checked here."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _config(directory: Path, name: str) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    path = directory / "config.json"
    if not path.is_file():
        raise ModelError(
            f"model {name}: {directory} has no config.json, expected a checkpoint in the hub's layout"
        )
    try:
        return AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        if REMOTE_CODE in str(error):
            raise ModelError(
                f"model {name}: its config.json asks for code of its own (auto_map), which is never run; expected a "
                "model type that transformers has, take a checkpoint converted to it"
            ) from error
        raise ModelError(
            f"model {name}: its config.json is not one that transformers knows ({' '.join(str(error).split())[:300]})"
        ) from error


def _model_class(config: Any, name: str) -> Any:
    from transformers import AutoModelForImageTextToText

    if type(config) not in AutoModelForImageTextToText._model_mapping:
        raise ModelError(
            f"model {name}: {config.model_type!r} is not a vision-language model (no image goes in), expected a "
            "checkpoint that answers questions about images"
        )
    return AutoModelForImageTextToText


def _reason(error: Exception) -> str:
    """What went wrong; which tensors could not be joined into one, transformers says in a report that it only logs."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        joined = getattr(frame.f_locals.get("loading_info"), "conversion_errors", None)
        if joined:
            key, report = next(iter(joined.items()))
            lines = [line.strip() for line in str(report).splitlines() if line.strip()]
            return f"the parts of {key} do not fit together: {lines[-1] if lines else 'no reason given'}"[
                :400
            ]
    return " ".join(str(error).split())[:400]


def _check_keys(name: str, info: dict[str, Any]) -> None:
    """Refuse weights that would have been left at random."""
    missing, wrong = sorted(info["missing_keys"]), sorted(info["mismatched_keys"])
    if missing:
        unexpected = sorted(info["unexpected_keys"])
        raise ModelError(
            f"model {name}: {len(missing)} tensors are missing from its files (such as {missing[:3]}) and "
            f"{len(unexpected)} are there that do not belong to it (such as {unexpected[:3]}); expected the weights "
            "that belong to config.json, download the checkpoint again"
        )
    if wrong:
        shapes = "; ".join(
            f"{key}: {tuple(got)}, expected {tuple(expected)}" for key, got, expected in wrong[:3]
        )
        raise ModelError(f"model {name}: {len(wrong)} tensors have the wrong shape ({shapes})")


def _revision(directory: Path) -> str:
    """The hub's commit where the directory is a snapshot of it, else a hash of the configuration and the weights.

    Of each weight file its name, its size, its first and its last mebibyte are hashed: reading tens of gigabytes would
    take longer than loading them.
    """
    if directory.parent.name == "snapshots":
        return directory.name
    digest = hashlib.sha256((directory / "config.json").read_bytes())
    for path in sorted(directory.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(json.dumps([path.name, size]).encode())
        with path.open("rb") as file:
            digest.update(file.read(SAMPLED_BYTES))
            file.seek(max(0, size - SAMPLED_BYTES))
            digest.update(file.read(SAMPLED_BYTES))
    return f"sampled-sha256:{digest.hexdigest()[:16]}"
