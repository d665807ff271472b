"""Result files in the layouts of the public profiling scripts, from a made-up world whose numbers tests know."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

DATASET = "coco_2014_vqa"
TOTAL_BLOCKS = 16
BALANCED = [(crops, top_k, blocks) for crops in (2, 6, 10) for top_k in (4, 8, 12) for blocks in (12, 14, 16)]
SMALL = [(2, 4, 12), (2, 8, 16), (6, 4, 12), (6, 8, 16)]
TIER_RANGES = {"low": (1, 3), "medium": (4, 8), "high": (9, 15)}


def blocks_of(count: int) -> list[int]:
    """Nested sets that keep 0 and 15."""
    return sorted([0, 15, *range(1, count - 1)])


@dataclass(kw_only=True)
class World:
    """Samples with questions, images and outcomes that depend on them."""

    count: int = 24
    images: int = 12
    seed: int = 0
    dataset: str = DATASET
    split: str = "validation"
    flips: int = 0  # samples whose score differs when timed

    def question_id(self, i: int) -> int:
        return 9000 - 7 * i

    def image_id(self, i: int) -> int:
        return 100 + i % self.images

    def question(self, i: int) -> str:
        things = ("cats", "red cars", "people on the street", "words on the sign", "colours of the flag")
        return f"How many {things[i % len(things)]} are there in picture {self.image_id(i)}?"

    def score(self, i: int, configuration: Sequence[int]) -> float:
        crops, top_k, blocks = configuration
        need = (i * 2654435761 % 97) / 97
        return float(0.5 * crops / 12 + 0.2 * top_k / 32 + 0.3 * blocks / 16 > 0.85 * need)

    def latency(self, i: int, configuration: Sequence[int]) -> float:
        crops, top_k, blocks = configuration
        noise = 1 + 0.05 * ((i * 40503 + crops * 31 + top_k * 17 + blocks * 7) % 101) / 101
        return (20 + 6 * crops + 0.5 * top_k * blocks / 4 + 2 * blocks + (i % 5)) * noise


@dataclass(kw_only=True)
class Layout:
    """How the scripts were run."""

    ranks: int = 1
    merged: bool = True
    metadata: bool = True
    batch: int = 4
    drop: dict[tuple[int, int, int], set[int]] = field(
        default_factory=dict
    )  # failed samples per configuration

    def parts(self, count: int, configuration: tuple[int, int, int]) -> list[list[int]]:
        """Sample numbers of each rank, in the order of its list."""
        gone = self.drop.get(configuration, set())
        return [[i for i in range(rank, count, self.ranks) if i not in gone] for rank in range(self.ranks)]


def dump(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def metadata_of(world: World, i: int) -> dict[str, Any]:
    return {
        "image_id": world.image_id(i),
        "question": world.question(i),
        "question_id": world.question_id(i),
        "question_type": ("number", "other")[i % 2],
        "answers": [str(i)],
    }


def config_of(
    world: World, layout: Layout, configuration: tuple[int, int, int], rank: int | None
) -> dict[str, Any]:
    crops, top_k, blocks = configuration
    config = {
        "dataset_name": world.dataset,
        "split": world.split,
        "batch_size": layout.batch,
        "max_new_tokens": 16,
        "max_crops": crops,
        "top_k": top_k,
        "num_active_blocks": blocks,
        "num_total_blocks": TOTAL_BLOCKS,
        "active_block_indices": blocks_of(blocks),
        "world_size": layout.ranks,
    }
    if rank is None and layout.ranks > 1:
        return config | {"note": "Merged results from all ranks"}
    return config | {
        "batch_size_used": layout.batch,
        "rank": rank or 0,
        "config_index": 0,
        "sampling_strategy": "balanced",
    }


def file_parts(layout: Layout, parts: list[list[Any]]) -> Iterable[tuple[int | None, list[Any]]]:
    if layout.ranks > 1 and not layout.merged:
        yield from enumerate(parts)
    else:
        yield None, [record for part in parts for record in part]


def name_of(prefix: str, configuration: tuple[int, int, int], rank: int | None) -> str:
    crops, top_k, blocks = configuration
    return f"{prefix}_crops{crops}_topk{top_k}_blocks{blocks}{'' if rank is None else f'_rank{rank}'}.json"


def predictions(
    world: World, layout: Layout, configuration: tuple[int, int, int], members: list[int], batch: int
) -> list:
    """Entries of all_samples: sample_id is the index within the batch, and failed samples leave no entry."""
    everyone = sorted(set(members) | {i for i in range(members[0] % layout.ranks, world.count, layout.ranks)})
    records = []
    for place, i in enumerate(everyone):
        if i not in members:
            continue
        record: dict[str, Any] = {
            "sample_id": place % batch,
            "score": world.score(i, configuration),
            "pred": "a",
            "answers": [str(i)],
        }
        records.append(record | ({"metadata": metadata_of(world, i)} if layout.metadata else {}))
    return records


def write_exp5(folder: Path, world: World, layout: Layout, grid=SMALL) -> Path:
    folder = folder / f"exp5_accuracy_{world.dataset.replace('_', '-')}"
    for configuration in grid:
        parts = [
            predictions(world, layout, configuration, part, layout.batch)
            for part in layout.parts(world.count, configuration)
        ]
        for rank, records in file_parts(layout, parts):
            summary = dict(zip(("max_crops", "top_k", "num_active_blocks"), configuration, strict=True)) | {
                "accuracy": float(np.mean([record["score"] for record in records])),
                "num_samples": len(records),
                "std": 0.4,
            }
            value = {
                "summary": [summary],
                "all_samples": records,
                "config": config_of(world, layout, configuration, rank),
            }
            dump(folder / name_of("exp5_accuracy_results", configuration, rank), value)
    return folder


def timed_entry(world: World, i: int, local: int, configuration: tuple[int, int, int]) -> dict[str, Any]:
    total = world.latency(i, configuration)
    score = world.score(i, configuration)
    crops, top_k, blocks = configuration
    return {
        "sample_id": local,
        "max_crops": crops,
        "top_k": top_k,
        "num_active_blocks": blocks,
        "T_total_ms": total,
        "T_prefill_ms": 2.5 if blocks == TOTAL_BLOCKS else 0.0,
        "T_decode_ms": 0.25 * total,
        "num_vision_tokens": 144 * (crops + 1),
        "num_language_tokens": 144 * (crops + 1) + 20,
        "num_output_tokens": 3 + i % 4,
        "num_total_tokens": 2 * 144 * (crops + 1) + 20,
        "accuracy": 1 - score if i < world.flips else score,
    }


def write_exp6(folder: Path, world: World, layout: Layout, grid=SMALL) -> Path:
    folder = folder / f"exp6_latency_{world.dataset.replace('_', '-')}"
    for configuration in grid:
        members = layout.parts(world.count, configuration)
        timed = [[timed_entry(world, i, i // layout.ranks, configuration) for i in part] for part in members]
        said = [predictions(world, layout, configuration, part, 1) for part in members]
        for (rank, records), (_, described) in zip(
            file_parts(layout, timed), file_parts(layout, said), strict=True
        ):
            config = config_of(world, layout, configuration, rank) | {"batch_size": 1}
            for key in ("batch_size_used", "rank", "config_index", "sampling_strategy"):
                config.pop(key, None)
            value = {
                "summary": [
                    {"num_samples": len(records), "active_block_indices": config["active_block_indices"]}
                ],
                "per_sample_latencies": records,
                "per_sample_predictions": described,
                "config": config,
            }
            dump(folder / name_of("exp6_latency", configuration, rank), value)
    return folder


def write_core_exp(folder: Path, world: World, layout: Layout, top_ks=(4, 8)) -> Path:
    for tier, (low, high) in TIER_RANGES.items():
        for top_k in top_ks:
            configuration = (high, top_k, 12)
            parts = []
            for part in layout.parts(world.count, configuration):
                records = []
                for i in part:
                    total = world.latency(i, configuration)
                    record = {
                        "sample_id": i // layout.ranks, "tier": tier,
                        "tier_range": {"min_crops": low, "max_crops": high},
                        "top_k": top_k, "num_active_blocks": 12, "output_tokens": 4, "actual_num_crops": low + i % 2,
                        "actual_vision_tokens": 144 * low, "actual_text_tokens": 20, "pred": "a",
                        "accuracy": world.score(i, (min(high, 12), top_k, 12)), "T_vision_total": 5.0,
                        "T_LLM_prefill": 0.7 * total, "T_LLM_decode": 0.2 * total, "T_total": total,
                    }  # fmt: skip
                    records.append(record | ({"metadata": metadata_of(world, i)} if layout.metadata else {}))
                parts.append(records)
            for rank, records in file_parts(layout, parts):
                name = f"{world.dataset.replace('_', '-')}_imgsizetier-{tier}"
                value = {
                    "tier": tier, "tier_range": {"min_crops": low, "max_crops": high},
                    "max_crops": high, "top_k": top_k,
                    "num_active_blocks": 12, "num_total_blocks": TOTAL_BLOCKS, "active_block_indices": blocks_of(12),
                    "num_samples": len(records), "accuracy": 0.5, "per_sample_results": records,
                }  # fmt: skip
                dump(folder / name_of(name, ((low + high) // 2, top_k, 12), rank), value)
    return folder


def write_lmms_eval(folder: Path, world: World, grid=SMALL, task: str = "vqav2_val") -> Path:
    for configuration in grid:
        crops, top_k, blocks = configuration
        lines = [
            {
                "doc_id": i, "target": str(i), "doc": {"question": world.question(i), "image_id": world.image_id(i)},
                "resps": [["a"]], "filtered_resps": ["a"], "doc_hash": "x",
                "exact_match": world.score(i, configuration),
            }
            for i in range(world.count)
        ]  # fmt: skip
        place = folder / f"crops{crops}_topk{top_k}_blocks{blocks}" / "allenai__MolmoE"
        place.mkdir(parents=True)
        text = "\n".join(json.dumps(line) for line in lines) + "\n"
        (place / f"20250101_120000_samples_{task}.jsonl").write_text(text)
        dump(place / "20250101_120000_results.json", {"model_name": "allenai/MolmoE", "results": {}})
    return folder


def edit(path: Path, change) -> None:
    """Change the JSON value of a file in place."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
