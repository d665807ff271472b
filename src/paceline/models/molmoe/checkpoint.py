"""A model directory: config.json, tokenizer.json, model.safetensors.

Beside them may lie block_ranking.json, where somebody measured it, and knobs.json, where the knobs are not the default
knob space.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from paceline.errors import KnobError, ModelError
from paceline.knobs import SEED_SPACE, KnobSpace
from paceline.models.molmoe.model import MolmoE
from paceline.models.molmoe.options import MolmoEOptions
from paceline.models.molmoe.tokenizer import MolmoTokenizer

WEIGHTS, OPTIONS, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
RANKING, KNOBS = "block_ranking.json", "knobs.json"


def save_model(
    model: MolmoE,
    directory: Path,
    *,
    dtype: torch.dtype = torch.float16,
    block_ranking: Sequence[int] | None = None,
    knobs: KnobSpace | None = None,
) -> None:
    """Write a model directory; weights are stored as `dtype`."""
    directory.mkdir(parents=True, exist_ok=True)
    model.options.save(directory / OPTIONS)
    model.tokenizer.save(directory / TOKENIZER)
    weights = {
        name: value.detach().to("cpu", dtype).contiguous() for name, value in model.state_dict().items()
    }
    save_file(weights, directory / WEIGHTS)
    if block_ranking is not None:
        text = json.dumps([int(block) for block in block_ranking]) + "\n"
        (directory / RANKING).write_text(text, encoding="utf-8")
    if knobs is not None:
        (directory / KNOBS).write_text(json.dumps(knobs.to_json()) + "\n", encoding="utf-8")


def load_model(directory: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> MolmoE:
    """Read what `save_model` wrote; weights are converted to `dtype`, in which the model then computes.

    Raises ModelError when a file is missing or damaged or the weights do not fit the options.
    """
    value = _read_json(directory / OPTIONS)
    if not isinstance(value, dict):
        raise ModelError(
            f"{directory / OPTIONS}: got a {type(value).__name__}, expected an object of model options"
        )
    options = MolmoEOptions.from_json(value)
    tokenizer = MolmoTokenizer.load(directory / TOKENIZER, options.vocabulary + options.added_vocabulary)
    path = directory / WEIGHTS
    if not path.is_file():
        raise ModelError(f"{path}: no weights there, expected a safetensors file")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a readable safetensors file ({error})") from error
    with torch.device("meta"):
        model = MolmoE(options, tokenizer)
    _check_weights(path, model.state_dict(), weights)
    model.load_state_dict({name: item.to(device, dtype) for name, item in weights.items()}, assign=True)
    return model.requires_grad_(False).eval()


def load_ranking(directory: Path) -> list[int] | None:
    """Blocks from most to least important as measured for these weights, or None where nobody measured."""
    path = directory / RANKING
    if not path.exists():
        return None
    value = _read_json(path)
    if not isinstance(value, list) or not all(isinstance(block, int) for block in value):
        raise ModelError(f"{path}: got {value!r}, expected a list of block indices")
    return value


def load_knobs(directory: Path) -> KnobSpace:
    """What can be turned on this model: its own knobs.json, or the default knob space where there is none."""
    path = directory / KNOBS
    if not path.exists():
        return SEED_SPACE
    try:
        return KnobSpace.from_json(_read_json(path))
    except KnobError as error:
        raise ModelError(f"{path}: {error}") from error


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(f"{path}: not there; a model directory holds {OPTIONS}, {TOKENIZER} and {WEIGHTS}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error})") from error


def _check_weights(path: Path, expected: dict[str, Tensor], got: dict[str, Tensor]) -> None:
    missing, unknown = sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
    if missing or unknown:
        raise ModelError(
            f"{path}: {len(missing)} tensors missing (such as {missing[:3]}), {len(unknown)} unknown "
            f"(such as {unknown[:3]}); expected the weights that belong to the {OPTIONS} beside it"
        )
    wrong = [name for name in sorted(got) if got[name].shape != expected[name].shape]
    if wrong:
        shapes = ", ".join(
            f"{n}: {tuple(got[n].shape)}, expected {tuple(expected[n].shape)}" for n in wrong[:3]
        )
        raise ModelError(f"{path}: {len(wrong)} tensors of the wrong shape ({shapes})")
