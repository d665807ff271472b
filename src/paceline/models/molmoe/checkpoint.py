"""A model directory: config.json, tokenizer.json, model.safetensors; or one of the public MolmoE code.

Beside them may lie block_ranking.json, where somebody measured it, and knobs.json, where the knobs are not the default
knob space.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from paceline.errors import KnobError, ModelError
from paceline.knobs import KnobSpace
from paceline.models.molmoe.default_knobs import default_knobs
from paceline.models.molmoe.model import MolmoE
from paceline.models.molmoe.options import MolmoEOptions
from paceline.models.molmoe.placement import DeviceMap, Route, devices, part_of, parts
from paceline.models.molmoe.public_config import is_public, read_options
from paceline.models.molmoe.public_tokenizer import read_tokenizer
from paceline.models.molmoe.public_weights import PublicWeights, weights_fingerprint
from paceline.models.molmoe.static_decode import StaticDecoding
from paceline.models.molmoe.tokenizer import MolmoTokenizer

WEIGHTS, OPTIONS, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
PROCESSOR = "preprocessor_config.json"
RANKING, KNOBS = "block_ranking.json", "knobs.json"


def save_model(
    model: MolmoE,
    directory: Path,
    *,
    dtype: torch.dtype = torch.float16,
    block_ranking: Sequence[int] | None = None,
    knobs: KnobSpace | None = None,
) -> None:
    """Write a model directory; weights are stored as `dtype`.

    Raises ModelError for a model whose experts are packed for this processor: their order is of no use elsewhere.
    """
    if any(item.is_meta for item in model.state_dict().values()):
        raise ModelError(
            f"{directory}: the model's experts are packed for this processor, expected plain weights; save the "
            "model before it is packed, or copy the directory it was loaded from"
        )
    directory.mkdir(parents=True, exist_ok=True)
    model.options.save(directory / OPTIONS)
    model.tokenizer.save(directory / TOKENIZER)
    weights = {
        name: value.detach().to("cpu", dtype).contiguous() for name, value in model.state_dict().items()
    }
    save_file(weights, directory / WEIGHTS)
    shutil.copymode(directory / OPTIONS, directory / WEIGHTS)  # safetensors makes it for its owner alone
    if block_ranking is not None:
        text = json.dumps([int(block) for block in block_ranking]) + "\n"
        (directory / RANKING).write_text(text, encoding="utf-8")
    if knobs is not None:
        (directory / KNOBS).write_text(json.dumps(knobs.to_json()) + "\n", encoding="utf-8")


def load_model(
    directory: Path,
    *,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    device_map: DeviceMap | None = None,
) -> MolmoE:
    """Read what `save_model` wrote, or a public checkpoint; the model computes in `dtype`.

    By default that is float32, for a public checkpoint the type in which it is stored. Raises ModelError when a file is
    missing or damaged, the weights do not fit the options or a device is not there.
    """
    value = _read_json(directory / OPTIONS)
    if is_public(value):
        return _load_public(directory, value, dtype, device, device_map)
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
    model = _empty(options, tokenizer)
    _check_weights(path, model.state_dict(), weights)
    kind = dtype or torch.float32
    where = devices(device_map, device, _sizes(model, kind))
    placed = {name: item.to(where[part_of(name)], kind) for name, item in weights.items()}
    return _filled(model, placed, where)


def _load_public(
    directory: Path,
    config: dict[str, Any],
    dtype: torch.dtype | None,
    device: str,
    device_map: DeviceMap | None,
) -> MolmoE:
    processor = directory / PROCESSOR
    if not processor.is_file():
        raise ModelError(
            f"{processor}: no image processor there; download preprocessor_config.json, it says how images are cut"
        )
    described = _read_json(processor)
    if not isinstance(described, dict):
        raise ModelError(f"{processor}: got a {type(described).__name__}, expected an object")
    options = read_options(config, described, directory / OPTIONS, processor)
    tokenizer = read_tokenizer(directory, options.vocabulary + options.added_vocabulary)
    stored = PublicWeights(directory, options)
    model = _empty(options, tokenizer)
    kind = dtype or stored.dtype
    where = devices(device_map, device, _sizes(model, kind))
    weights = {
        name: torch.empty(item.shape, dtype=kind, device=where[part_of(name)])
        for name, item in model.state_dict().items()
    }
    stored.read_into(weights)
    return _filled(model, weights, where)


def fingerprint(directory: Path) -> str:
    """A hash by which weights are told apart: of all of them, or of samples where there are gigabytes."""
    value = _read_json(directory / OPTIONS)
    if is_public(value):
        return weights_fingerprint(directory)
    return f"sha256:{hashlib.sha256((directory / WEIGHTS).read_bytes()).hexdigest()[:16]}"


def _empty(options: MolmoEOptions, tokenizer: MolmoTokenizer) -> MolmoE:
    """The model without memory for its weights."""
    with torch.device("meta"):
        return MolmoE(options, tokenizer)


def _sizes(model: MolmoE, dtype: torch.dtype) -> dict[str, int]:
    """Bytes of every part."""
    sizes = dict.fromkeys(parts(model.options.num_blocks), 0)
    for name, parameter in model.named_parameters():
        sizes[part_of(name)] += parameter.numel() * dtype.itemsize
    return sizes


def _filled(model: MolmoE, weights: dict[str, Tensor], where: dict[str, torch.device]) -> MolmoE:
    model.load_state_dict(weights, assign=True)
    weights.clear()  # what packing gives up is then free, block by block
    model.decoder.route = Route.of(where)
    model.requires_grad_(False).eval()
    for block in model.decoder.blocks:
        block.get_submodule("moe").pack()  # pyright: ignore[reportCallIssue]
    if model.device.type == "cuda" and model.decoder.route is None:
        model.static = StaticDecoding(model)
    return model


def load_ranking(directory: Path) -> list[int] | None:
    """Blocks from most to least important as measured for these weights, or None where nobody measured."""
    path = directory / RANKING
    if not path.exists():
        return None
    value = _read_json(path)
    if not isinstance(value, list) or not all(isinstance(block, int) for block in value):
        raise ModelError(f"{path}: got {value!r}, expected a list of block indices")
    return value


def load_knobs(directory: Path, options: MolmoEOptions) -> KnobSpace:
    """What can be turned on this model: its own knobs.json, or what suits its sizes where there is none."""
    path = directory / KNOBS
    if not path.exists():
        return default_knobs(options)
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
