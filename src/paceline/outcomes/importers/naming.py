"""What the names of result files say, and what their `config` says; they must agree."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paceline.errors import OutcomesError
from paceline.knobs import Configuration
from paceline.outcomes.importers.json_files import whole

OWN = "paceline"
"""The key under which files that Paceline exported say what the public layouts have no place for."""
KNOBS = ("max_crops", "top_k", "num_active_blocks")
CONFIGURATION = re.compile(r"crops(\d+)_topk(\d+)_blocks(\d+)(?:_rank(\d+))?")
MODEL_KEYS = ("model", "model_name", "model_path", "model_id", "checkpoint", "checkpoint_path")


def named_configuration(path: Path) -> tuple[Configuration | None, int | None]:
    """The configuration and the rank in a file name; None where it has none.

    >>> named_configuration(Path("exp6_latency_crops2_topk4_blocks12_rank3.json"))
    ({'max_crops': 2, 'top_k': 4, 'num_active_blocks': 12}, 3)
    """
    match = CONFIGURATION.search(path.name)
    if match is None:
        return None, None
    crops, top_k, blocks, rank = match.groups()
    return dict(zip(KNOBS, (int(crops), int(top_k), int(blocks)), strict=True)), (
        None if rank is None else int(rank)
    )


def stated_configuration(config: Mapping[str, Any], place: str) -> Configuration | None:
    """The configuration in a file's `config`; None where it holds none of it."""
    present = [name for name in KNOBS if name in config]
    if not present:
        return None
    if len(present) < len(KNOBS):
        raise OutcomesError(
            f"{place}: config has only {present}, expected {list(KNOBS)}; the file is of another layout"
        )
    return {name: whole(config[name], f"{place}: config.{name}") for name in KNOBS}


def agreed_configuration(path: Path, config: Mapping[str, Any]) -> tuple[Configuration, int | None]:
    """The configuration and the rank of a file.

    Raises:
        OutcomesError: name and contents disagree, or neither says.
    """
    (named, rank), stated = named_configuration(path), stated_configuration(config, str(path))
    if named is not None and stated is not None and named != stated:
        raise OutcomesError(
            f"{path}: the name says {named}, config says {stated}; expected them to agree, "
            "rename the file or find the one that belongs here"
        )
    found = stated or named
    if found is None:
        raise OutcomesError(
            f"{path}: neither the name nor config names a configuration; "
            "expected a name with crops<N>_topk<N>_blocks<N>"
        )
    if rank is None and config.get("rank") is not None and "note" not in config:
        world_size = config.get("world_size")
        rank = whole(config["rank"], f"{path}: config.rank") if world_size not in (None, 1) else None
    return found, rank


def block_set(value: Any, count: int, place: str) -> tuple[int, ...] | None:
    """`active_block_indices` as a sorted tuple; None where it is not given."""
    if value is None:
        return None
    if not isinstance(value, list):
        raise OutcomesError(f"{place}: active_block_indices is {value!r}, expected a list of block numbers")
    blocks = tuple(sorted(whole(item, f"{place}: active_block_indices") for item in value))
    if len(blocks) != count or len(set(blocks)) != count:
        raise OutcomesError(
            f"{place}: active_block_indices lists {list(blocks)}, expected {count} different blocks; "
            "the file contradicts itself"
        )
    return blocks


def model_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says of the model: its name and its number of blocks."""
    facts: dict[str, Any] = {}
    name = next((str(config[key]) for key in MODEL_KEYS if config.get(key)), None)
    if name is not None:
        facts["name"] = name
    if config.get("num_total_blocks") is not None:
        facts["num_total_blocks"] = config["num_total_blocks"]
    return facts


def canonical_dataset(name: str) -> str:
    """Directories write hyphens where `config` writes underscores.

    >>> canonical_dataset("coco-2014-vqa")
    'coco_2014_vqa'
    """
    return name.strip().replace("-", "_")


def own_keys(value: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """What an exported file says under `OWN`; empty in any other file."""
    found = value.get(OWN, {})
    if not isinstance(found, Mapping):
        raise OutcomesError(f"{place}: {OWN} is {found!r}, expected an object as an export writes it")
    return found


def run_dataset(config: Mapping[str, Any], path: Path) -> str:
    """The dataset of a file: exact in exported ones, else its canonical name."""
    own = own_keys(config, f"{path}: config")
    if "dataset" in own:
        return str(own["dataset"])
    return canonical_dataset(str(config.get("dataset_name") or folder_dataset(path)))


def folder_dataset(path: Path) -> str:
    """The dataset in a directory name such as exp5_accuracy_coco-2014-vqa; empty where there is none."""
    for part in reversed(path.parts[:-1]):
        match = re.fullmatch(r"(?:exp5_accuracy|exp6_latency|core_exp)_(.+)", part)
        if match:
            return canonical_dataset(match.group(1))
    return ""
