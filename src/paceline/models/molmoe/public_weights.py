"""Weights of a public MolmoE checkpoint: names, shapes and types checked, then read tensor by tensor into place.

Files are memory-mapped and one tensor is in flight at a time, so that loading needs the model's own memory and that of
one tensor.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from paceline.errors import ModelError
from paceline.models.molmoe.options import MolmoEOptions

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types of stored tensors that can be read."""
SAMPLED = 1 << 16  # bytes at either end of a file that its fingerprint reads
SHOWN = 3  # names in a message

_Index = tuple[int | slice, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a public tensor goes."""

    shape: tuple[int, ...]  # of the public tensor
    parameter: str  # ours
    index: _Index = ()  # the part of the parameter that it fills
    transposed: bool = False  # experts' last layers are stored the other way round here


def places(options: MolmoEOptions) -> dict[str, Place]:
    """Every tensor of the public layout, by its public name."""
    return _language(options) | _vision(options)


def _language(o: MolmoEOptions) -> dict[str, Place]:
    wide, inner = o.width, o.expert_hidden
    table = "decoder.embedding"
    found = {
        "model.transformer.wte.embedding": Place((o.vocabulary, wide), table, (slice(None, o.vocabulary),)),
        "model.transformer.wte.new_embedding": Place(
            (o.added_vocabulary, wide), table, (slice(o.vocabulary, None),)
        ),
        "model.transformer.ln_f.weight": Place((wide,), "decoder.norm.weight"),
        "lm_head.weight": Place((o.vocabulary, wide), "decoder.head.weight"),
    }
    for block in range(o.num_blocks):
        theirs, ours = f"model.transformer.blocks.{block}", f"decoder.blocks.{block}"
        found |= {
            f"{theirs}.attn.attn_norm.weight": Place((wide,), f"{ours}.attention.norm.weight"),
            f"{theirs}.attn.q_norm.weight": Place((wide,), f"{ours}.attention.q_norm.weight"),
            f"{theirs}.attn.k_norm.weight": Place((wide,), f"{ours}.attention.k_norm.weight"),
            f"{theirs}.attn.att_proj.weight": Place((3 * wide, wide), f"{ours}.attention.qkv.weight"),
            f"{theirs}.attn.attn_out.weight": Place((wide, wide), f"{ours}.attention.out.weight"),
            f"{theirs}.mlp.ff_norm.weight": Place((wide,), f"{ours}.moe.norm.weight"),
            f"{theirs}.mlp.gate.weight": Place((o.num_experts, wide), f"{ours}.moe.router.weight"),
        }
        for expert in range(o.num_experts):
            at, gate_up = f"{theirs}.mlp.experts.{expert}", f"{ours}.moe.gate_up"
            found |= {
                f"{at}.gate_proj.weight": Place((inner, wide), gate_up, (expert, slice(None, inner))),
                f"{at}.up_proj.weight": Place((inner, wide), gate_up, (expert, slice(inner, None))),
                f"{at}.down_proj.weight": Place((wide, inner), f"{ours}.moe.down", (expert,), True),
            }
    return found


def _vision(o: MolmoEOptions) -> dict[str, Place]:
    wide, features = o.vit_width, o.vit_width * len(o.vit_features)
    top, vit = "model.vision_backbone", "model.vision_backbone.image_vit"
    found = {
        f"{top}.pad_embed": Place((2, features), "vision.pad_embedding"),
        f"{top}.image_projector.w1.weight": Place(
            (o.projector_hidden, o.pool_width), "vision.project_gate.weight"
        ),
        f"{top}.image_projector.w3.weight": Place(
            (o.projector_hidden, o.pool_width), "vision.project_up.weight"
        ),
        f"{top}.image_projector.w2.weight": Place(
            (o.width, o.projector_hidden), "vision.project_down.weight"
        ),
        f"{vit}.class_embedding": Place((wide,), "vision.class_embedding"),
        f"{vit}.positional_embedding": Place((o.grid**2 + 1, wide), "vision.positions"),
        f"{vit}.patch_embedding.weight": Place((wide, o.patch_dim), "vision.patch_embedding.weight"),
    }
    found |= _layer(f"{vit}.pre_ln", "vision.pre_norm", (wide,))
    for theirs, ours in (("wq", "pool_q"), ("wk", "pool_k"), ("wv", "pool_v")):
        found |= _layer(f"{top}.image_pooling_2d.{theirs}", f"vision.{ours}", (o.pool_width, features))
    found |= _layer(f"{top}.image_pooling_2d.wo", "vision.pool_out", (o.pool_width, o.pool_width))
    for block in range(o.vit_blocks):
        theirs, ours = f"{vit}.transformer.resblocks.{block}", f"vision.blocks.{block}"
        for name in ("wq", "wk", "wv", "wo"):
            found |= _layer(f"{theirs}.attention.{name}", f"{ours}.{name}", (wide, wide))
        found |= _layer(f"{theirs}.feed_forward.w1", f"{ours}.w1", (o.vit_mlp, wide))
        found |= _layer(f"{theirs}.feed_forward.w2", f"{ours}.w2", (wide, o.vit_mlp))
        for name in ("attention_norm", "ffn_norm"):
            found |= _layer(f"{theirs}.{name}", f"{ours}.{name}", (wide,))
    return found


def _layer(theirs: str, ours: str, shape: tuple[int, ...]) -> dict[str, Place]:
    """A weight and its bias."""
    return {
        f"{theirs}.weight": Place(shape, f"{ours}.weight"),
        f"{theirs}.bias": Place(shape[:1], f"{ours}.bias"),
    }


class PublicWeights:
    """The safetensors files of a directory, checked against the places their tensors have."""

    def __init__(self, directory: Path, options: MolmoEOptions) -> None:
        """Reads headers only.

        Raises ModelError where files are missing or damaged and where names, shapes or types do not fit `options`.
        """
        self._source, self._files = _files(directory)
        self._places = places(options)
        found: dict[str, tuple[tuple[int, ...], str]] = {}
        for file in self._files:
            for name, stored in _header(file).items():
                if name in found:
                    raise ModelError(f"{file}: {name} is in another file too, expected every tensor once")
                found[name] = stored
        _check(self._source, self._places, found)
        self.dtype = _widest({STORED[kind] for _, kind in found.values()})

    def read_into(self, parameters: Mapping[str, Tensor]) -> None:
        """Fill our parameters; each may have its own device and type."""
        for file in self._files:
            with safe_open(file, framework="pt", device="cpu") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a dictionary
                    place = self._places[name]
                    tensor = tensors.get_tensor(name)
                    target = parameters[place.parameter][place.index]
                    target.copy_(tensor.T if place.transposed else tensor)


def weights_fingerprint(directory: Path) -> str:
    """A hash of the files' sizes and of both ends of each: cheap, and other weights practically never share it."""
    digest = hashlib.sha256()
    for file in _files(directory)[1]:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(SAMPLED))
            stream.seek(max(size - SAMPLED, 0))
            digest.update(stream.read(SAMPLED))
    return f"sampled-sha256:{digest.hexdigest()[:16]}"


def _files(directory: Path) -> tuple[Path, list[Path]]:
    """What names the files, and the files, in order."""
    index = directory / INDEX
    if not index.is_file():
        single = directory / SINGLE
        if not single.is_file():
            raise ModelError(f"{directory}: no weights there, expected {SINGLE} or {INDEX} with its files")
        return single, [single]
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: no weight_map of tensors to files ({error!r})") from error
    wrong = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    if wrong:
        raise ModelError(f"{index}: weight_map names {wrong[:SHOWN]}, expected files beside it")
    missing = sorted(name for name in names if not (directory / name).is_file())
    if missing:
        raise ModelError(
            f"{directory}: {len(missing)} of {len(names)} files of the index are missing (such as "
            f"{missing[:SHOWN]}); download them"
        )
    return index, [directory / name for name in sorted(names)]


def _header(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of every tensor of a file."""
    try:
        with safe_open(file, framework="pt", device="cpu") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file}: not a readable safetensors file ({error}); download it again") from error


def _check(
    source: Path, expected: Mapping[str, Place], found: Mapping[str, tuple[tuple[int, ...], str]]
) -> None:
    missing, unknown = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unknown:
        raise ModelError(
            f"{source}: {len(missing)} tensors missing{_such(missing)}, {len(unknown)} unknown{_such(unknown)}; "
            "expected the weights of the public MolmoE code that belong to the config.json beside them"
        )
    wrong = [name for name in sorted(found) if found[name][0] != expected[name].shape]
    if wrong:
        shapes = ", ".join(
            f"{name}: {list(found[name][0])}, expected {list(expected[name].shape)}" for name in wrong[:SHOWN]
        )
        raise ModelError(
            f"{source}: {len(wrong)} tensors of another shape than config.json says ({shapes}); use the config.json "
            "that came with these weights"
        )
    odd = [name for name in sorted(found) if found[name][1] not in STORED]
    if odd:
        raise ModelError(
            f"{source}: {len(odd)} tensors of an unsupported type (such as {odd[0]}: {found[odd[0]][1]}), expected "
            f"{', '.join(STORED)}; quantised weights cannot be read"
        )


def _such(names: list[str]) -> str:
    return f" (such as {', '.join(names[:SHOWN])})" if names else ""


def _widest(types: set[torch.dtype]) -> torch.dtype:
    """The one type that there is, or float32 where they are mixed."""
    return types.pop() if len(types) == 1 else torch.float32
