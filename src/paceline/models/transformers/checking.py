"""What a checkpoint must hold before transformers reads it, and whether its processor and its template go together."""

import json
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from paceline.errors import ModelError, PromptError

STORED = {"F64", "F32", "BF16", "F16", "I64", "I32", "BOOL"}
"""Types of tensors in safetensors files that are read as they are; the others are quantised."""
IMAGE_FILE, PROCESSOR_FILE, INDEX = (
    "preprocessor_config.json",
    "processor_config.json",
    "model.safetensors.index.json",
)
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
)
PLACEHOLDERS = ("image_token", "fake_image_token", "video_token")
LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
PROBE_SIDE = 64  # pixels


def check_files(directory: Path, name: str) -> None:
    """Raise ModelError where weights, tokenizer or image processor are missing, or weights are damaged or quantised."""
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        pickled = sorted(path.name for path in [*directory.glob("*.bin"), *directory.glob("*.pt*")])
        there = f"; {', '.join(pickled)} could run code when it is loaded, convert it" if pickled else ""
        raise ModelError(f"model {name}: no weights, expected model.safetensors or its shards{there}")
    absent = [shard for shard in _shards(directory) if not (directory / shard).is_file()]
    if absent:
        raise ModelError(
            f"model {name}: {len(absent)} of its weight files are missing (such as {absent[0]}), expected all that "
            f"{INDEX} names; download them"
        )
    if not (directory / IMAGE_FILE).is_file() and "image_processor" not in _json(directory / PROCESSOR_FILE):
        raise ModelError(
            f"model {name}: no image processor, expected {IMAGE_FILE} (or one in {PROCESSOR_FILE}) beside the weights; "
            "copy the processor's files from the original model"
        )
    if not any((directory / file).is_file() for file in TOKENIZER_FILES):
        raise ModelError(
            f"model {name}: no tokenizer, expected tokenizer.json (or {', '.join(TOKENIZER_FILES[1:])}) beside the "
            "weights; copy the tokenizer's files from the original model"
        )
    for path in weights:
        kinds = Counter(kind for kind in _stored_types(path, name) if kind not in STORED)
        if kinds:
            found = ", ".join(f"{count} of {kind}" for kind, count in kinds.items())
            raise ModelError(
                f"model {name}: {path.name} holds quantised tensors ({found}), expected float32, bfloat16 or float16; "
                "take the checkpoint that is not quantised"
            )


def check_device(device: str, name: str) -> None:
    """Raise ModelError for a device that there is not."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(
            f"model {name}: device {device!r} cannot be used ({' '.join(str(error).split())[:120]}), expected 'cpu' or "
            "a device of this machine such as 'cuda'"
        ) from error


def check_prompt(processor: Any, prompt: str) -> None:
    """Raise PromptError for an empty question and for one that holds the placeholder of an image or a video."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise PromptError(f"prompt: got {prompt!r}, expected a question with at least one character")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"prompt: character {error.start} is {prompt[error.start]!r}, half of a pair of surrogates, expected text "
            "that UTF-8 can hold; decode the question anew from its bytes"
        ) from error
    for name in PLACEHOLDERS:
        token = getattr(processor, name, None)
        if isinstance(token, str) and token and token in prompt:
            raise PromptError(
                f"prompt: holds {token!r}, with which the processor marks images; leave it out: there is one image per "
                "question, and its place is set by the chat template"
            )


def check_forgery(ids: Sequence[int], reserved: Mapping[int, str]) -> None:
    """Raise PromptError where a question's tokens are among those that lay out images, turns and ends of answers."""
    forged = sorted({reserved[index] for index in ids if index in reserved})
    if forged:
        raise PromptError(
            f"prompt: got the special tokens {forged} inside the question, expected text alone; remove them"
        )


def check_request(max_new_tokens: int, stop: Sequence[str] = ()) -> None:
    """Raise ModelError for an answer of no length and for stop strings that are none."""
    if max_new_tokens < 1:
        raise ModelError(f"max_new_tokens: got {max_new_tokens}, expected at least 1")
    if isinstance(stop, str) or not all(isinstance(item, str) and item for item in stop):
        raise ModelError(f"stop: got {stop!r}, expected a tuple of non-empty strings")


def check_reads_images(shared: Any, name: str) -> None:
    """Raise ModelError where the chat template and the processor do not go together: an image and a word are read."""
    family, processor = shared.family, shared.processor
    try:
        text = family.prompt(processor, "Why?")
        option = family.overview_option(processor)
        shared.process([Image.new("RGB", (PROBE_SIDE, PROBE_SIDE))], [text], option)
    except ModelError:
        raise
    except Exception as error:  # templates run code of their own, and processors raise anything
        raise ModelError(
            f"model {name}: its processor and its chat template cannot read one image and one question "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); expected the files that belong to the "
            "weights"
        ) from error


def _shards(directory: Path) -> list[str]:
    """Weight files by the index of a checkpoint in several; none without an index."""
    names = _json(directory / INDEX).get("weight_map", {})
    return sorted(set(names.values())) if isinstance(names, dict) else []


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none, which whoever needs it says."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _stored_types(path: Path, name: str) -> Iterable[str]:
    """Types of the tensors of a safetensors file, from its header alone; its size is checked against them."""
    damaged = f"model {name}: {path.name} is damaged or incomplete"
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else LONGEST_HEADER + 1
        if length > LONGEST_HEADER:
            raise ModelError(f"{damaged}: it has no header, expected a safetensors file; download it again")
        try:
            header = json.loads(file.read(length))
            tensors = [value for key, value in header.items() if key != "__metadata__"]
            kinds = [value["dtype"] for value in tensors]
            expected = 8 + length + max((value["data_offsets"][1] for value in tensors), default=0)
        except (ValueError, AttributeError, TypeError, KeyError, IndexError) as error:
            raise ModelError(f"{damaged}: its header cannot be read; download it again") from error
    if path.stat().st_size != expected:
        raise ModelError(
            f"{damaged}: {path.stat().st_size:,} bytes, expected {expected:,} by its header; download it again"
        )
    return kinds
