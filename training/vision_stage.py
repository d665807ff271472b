"""Stage 1: the vision tower alone learns to say, per token, which digit of which colour and size is there."""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from paceline.models.molmoe.options import TINY
from paceline.models.molmoe.vision import VisionTower
from training.codebook import ROWS, codebook, coordinates
from training.dense_crops import dense_crops
from training.muon import Muon, split_parameters

SHARPNESS = 8.0  # codebook coordinates to logits
OBJECT_WEIGHT = 4.0
UNREADABLE_BINS, UNREADABLE_WEIGHT = 2, 0.1  # nobody can name a digit of under five pixels

POSITION_DIMS = 16
FREQUENCIES = tuple(math.pi * k / 8 for k in (1, 2, 3, 4))
SHARP = 10.0  # how sharply a fresh head looks at its neighbour
OFFSETS = (
    ((0, 1), (0, -1), (1, 0), (-1, 0)),
    ((1, 1), (1, -1), (-1, 1), (-1, -1)),
)  # per head, blocks alternate


def initialise(tower: VisionTower, seed: int) -> None:
    """Random weights from a seed, with heads that start by looking at one neighbour each.

    Plain vision transformers learn slowly from little compute because they must find locality first. Here the last
    POSITION_DIMS of the width hold sines and cosines of row and column, the others an orthogonal transform of the
    patch, and head h of a block attends to the patch at OFFSETS[h] (Zheng et al. 2024, "Structured initialization
    for attention in vision transformers", for the idea).
    """
    torch.manual_seed(seed)
    for name, parameter in tower.named_parameters():
        scale = 0.2 if name.startswith("project_down") else 1.0
        if parameter.ndim >= 2 and name not in ("pad_embedding", "positions"):
            torch.nn.init.normal_(parameter, std=scale * parameter.shape[-1] ** -0.5)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    width, grid = TINY.vit_width, TINY.grid
    content = width - POSITION_DIMS
    with torch.no_grad():
        tower.positions.zero_()
        place = torch.arange(grid).float()
        waves = [wave(place * frequency) for frequency in FREQUENCIES for wave in (torch.cos, torch.sin)]
        along = torch.stack(waves, dim=1)  # (grid, POSITION_DIMS / 2)
        rows = along[:, None].expand(grid, grid, -1).flatten(0, 1)
        columns = along[None].expand(grid, grid, -1).flatten(0, 1)
        tower.positions[1:, content:] = torch.cat((rows, columns), dim=1)
        tower.patch_embedding.weight.zero_()
        torch.nn.init.orthogonal_(tower.patch_embedding.weight[:content])
        for index, block in enumerate(tower.blocks):
            head_dim = width // TINY.vit_heads
            for head in range(TINY.vit_heads):
                part = slice(head * head_dim, (head + 1) * head_dim)
                block.wk.weight[part] *= 0.2  # type: ignore[union-attr,index,operator]
                block.wq.weight[part] *= 0.2  # type: ignore[union-attr,index,operator]
                block.wk.weight[part, content:] += SHARP**0.5 * torch.eye(POSITION_DIMS)  # type: ignore[union-attr,index]
                turn = _rotation(OFFSETS[index % len(OFFSETS)][head])
                block.wq.weight[part, content:] += SHARP**0.5 * turn  # type: ignore[union-attr,index]
            block.wo.weight[content:] *= 0.1  # type: ignore[union-attr,index,operator]
            block.w2.weight[content:] *= 0.1  # type: ignore[union-attr,index,operator]


def _rotation(offset: tuple[int, int]) -> Tensor:
    """Maps the position features of a patch to those of the patch at an offset (rows, columns)."""
    matrix = torch.zeros(POSITION_DIMS, POSITION_DIMS)
    for axis, step in enumerate(offset):
        for number, frequency in enumerate(FREQUENCIES):
            angle = torch.tensor(frequency * step)
            start = axis * POSITION_DIMS // 2 + 2 * number
            block = torch.stack(
                (torch.stack((angle.cos(), -angle.sin())), torch.stack((angle.sin(), angle.cos())))
            )
            matrix[start : start + 2, start : start + 2] = block
    return matrix


def vision_loss(
    tokens: Tensor, book: Tensor, labels: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, dict[str, float]]:
    """Squared error to the codes, and cross-entropy of each part on tokens that hold a digit."""
    target = torch.from_numpy(coordinates(*(label.numpy() for label in labels))) @ book
    present = labels[0] >= 0
    weight = torch.where(present, OBJECT_WEIGHT, 1.0)
    loss = ((tokens - target).square().sum(-1) * weight).mean()
    facts: dict[str, float] = {}
    found = tokens[present]
    for name, label in zip(("digit", "color", "size"), labels, strict=True):
        low, high = ROWS[name]
        logits = SHARPNESS * found @ book[low:high].T
        losses = functional.cross_entropy(logits, label[present], reduction="none")
        importance = torch.where(labels[2][present] < UNREADABLE_BINS, UNREADABLE_WEIGHT, 1.0)
        loss = loss + (losses * importance).sum() / importance.sum().clamp(min=1e-6)  # a batch may be empty
        right = (logits.argmax(-1) == label[present]).float()
        facts[name] = ((right * importance).sum() / importance.sum().clamp(min=1e-6)).item()
    return loss, facts


def batch_of(
    rng: np.random.Generator, split: str, count: int
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Patches and labels as tensors."""
    patches, digit, color, size = dense_crops(rng, split, count)
    return torch.from_numpy(patches), (
        torch.from_numpy(digit),
        torch.from_numpy(color),
        torch.from_numpy(size),
    )


@torch.no_grad()
def accuracy_by_size(
    tower: VisionTower, book: Tensor, split: str, count: int, seed: int
) -> dict[str, list[float]]:
    """Digit and colour accuracy per bin of apparent size on unseen scans."""
    patches, labels = batch_of(np.random.default_rng(seed), split, count)
    tokens = torch.cat([tower(part, torch.ones(part.shape[:2])) for part in patches.split(128)])
    out = {}
    for name, label in (("digit", labels[0]), ("color", labels[1])):
        low, high = ROWS[name]
        right = ((tokens @ book[low:high].T).argmax(-1) == label)[labels[0] >= 0]
        sizes = labels[2][labels[0] >= 0]
        out[name] = [
            round(right[sizes == b].float().mean().item(), 3) for b in range(7) if (sizes == b).any()
        ]
    return out


def main() -> None:
    """Train with checkpoints; the same command goes on where it stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    tower, book = VisionTower(TINY), codebook(TINY.width)
    initialise(tower, options.seed)
    matrices, others = split_parameters(tower.named_parameters(), rest=("positions", "pad_embedding"))
    optimisers = [Muon(matrices, lr=0.004), torch.optim.AdamW(others, lr=1e-3, weight_decay=0.0)]
    rates = [group["lr"] for optimiser in optimisers for group in optimiser.param_groups]
    checkpoint, first = options.out / "vision.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        tower.load_state_dict(state["tower"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        first = state["step"]
    log = (options.out / "vision.jsonl").open("a")
    for block in tower.blocks:
        block.compile()
    began, running = time.time(), {}
    for step in range(first, options.steps):
        share = step / options.steps
        factor = min(1.0, (step + 1) / 100) * (1.0 if share < 0.5 else 2 * (1 - share) + 0.01)
        groups = [group for optimiser in optimisers for group in optimiser.param_groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * factor
        patches, labels = batch_of(np.random.default_rng((options.seed, step)), "train", options.batch)
        loss, facts = vision_loss(tower(patches, torch.ones(patches.shape[:2])), book, labels)
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        facts["loss"] = loss.item()
        running = {key: 0.97 * running.get(key, value) + 0.03 * value for key, value in facts.items()}
        if (step + 1) % 100 == 0:
            row = {"step": step + 1, **{key: round(value, 4) for key, value in running.items()}}
            row["crops_per_s"] = round((step + 1 - first) * options.batch / (time.time() - began), 1)
            if (step + 1) % 500 == 0:
                row["validation"] = accuracy_by_size(tower, book, "validation", 512, 5)
                saved = {"tower": tower.state_dict(), "step": step + 1}
                saved["optimisers"] = [optimiser.state_dict() for optimiser in optimisers]
                torch.save(saved, checkpoint.with_suffix(".new"))
                checkpoint.with_suffix(".new").replace(checkpoint)
            print(json.dumps(row), file=log, flush=True)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
