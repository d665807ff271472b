"""Scenes as the vision tower would describe them, without pixels: packed batches for the language stage."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from paceline.models.molmoe.crops import CropOptions, choose_tiling, fit_inside, grid_shape
from paceline.models.molmoe.options import TINY
from paceline.models.molmoe.tokenizer import MolmoTokenizer
from paceline.tasks import questions, scenes
from training.codebook import NUM_ROWS, ROWS, coordinates, size_bin

GEOMETRY = CropOptions.of(TINY)
TOKEN = 2 * TINY.patch_size
OVERVIEW_SIDE = TINY.grid // 2
READABLE = (4.0, 0.6)  # apparent size at which half of the digits are read, and the slope


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedBatch:
    """Several questions per scene; each question sees the image and itself."""

    ids: Tensor  # (scenes, time) token ids; image tokens are <im_patch>
    codes: Tensor  # (scenes, time, NUM_ROWS) codebook coordinates added to the embeddings
    positions: Tensor  # (scenes, time)
    mask: Tensor  # bool (scenes, 1, time, time)
    targets: Tensor  # (scenes, time), -100 where nothing is predicted
    kinds: Tensor  # (scenes, time) index of the question's kind, -1 elsewhere


def token_places(
    scene: scenes.Scene, height: int, width: int, tokens_wide: int
) -> tuple[np.ndarray, np.ndarray]:
    """Token index of each digit's centre on a canvas of the given size, and its apparent size."""
    top, left, inner_height, inner_width = fit_inside(scene.height, scene.width, height, width)
    factor = inner_height / scene.height
    rows = np.array([digit.row for digit in scene.digits]) * factor + top
    columns = np.array([digit.column for digit in scene.digits]) * (inner_width / scene.width) + left
    sizes = np.array([digit.size for digit in scene.digits]) * factor
    return (rows // TOKEN).astype(int) * tokens_wide + (columns // TOKEN).astype(int), sizes


def described(
    rng: np.random.Generator, scene: scenes.Scene, places: np.ndarray, sizes: np.ndarray, count: int
) -> np.ndarray:
    """Coordinates (count, NUM_ROWS) of the tokens of one view, blurred as small digits are."""
    out = np.zeros((count, NUM_ROWS), dtype=np.float32)
    low, high = ROWS["digit"]
    for index in np.argsort(sizes):
        digit = scene.digits[index]
        row = coordinates(
            np.array([digit.value]),
            np.array([scenes.COLOR_NAMES.index(digit.color)]),
            size_bin(sizes[[index]]),
        )[0]
        quality = 1 / (1 + np.exp(-(sizes[index] + rng.normal(0, 0.6) - READABLE[0]) / READABLE[1]))
        confusion = rng.dirichlet(np.full(high - low, 0.3)).astype(np.float32)
        row[low:high] = quality * row[low:high] + (1 - quality) * confusion
        out[places[index]] = row
    return out


def image_part(
    rng: np.random.Generator, scene: scenes.Scene, max_crops: int, tokenizer: MolmoTokenizer, keep: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Ids, codes and positions of the image tokens, most empty ones left out, and the layout's full length."""
    tiling = choose_tiling(scene.height, scene.width, max_crops, GEOMETRY)
    grid = grid_shape(tiling, GEOMETRY)
    ids = np.array([tokenizer.end_of_text, *tokenizer.image_tokens(OVERVIEW_SIDE, grid)])
    codes = np.zeros((len(ids), NUM_ROWS), dtype=np.float32)
    patches = np.nonzero(ids == tokenizer.image_patch)[0]
    overview = OVERVIEW_SIDE**2
    side = TINY.crop_size
    codes[patches[:overview]] = described(
        rng, scene, *token_places(scene, side, side, OVERVIEW_SIDE), overview
    )
    places, sizes = token_places(scene, grid[0] * TOKEN, grid[1] * TOKEN, grid[1])
    codes[patches[overview:]] = described(rng, scene, places, sizes, grid[0] * grid[1])
    wanted = (codes.any(axis=1)) | (rng.random(len(ids)) < keep)
    wanted[0] = True
    where = np.nonzero(wanted)[0]
    codes[where] += (
        rng.normal(0, 0.06, (len(where), NUM_ROWS)) * (ids[where] == tokenizer.image_patch)[:, None]
    )
    return ids[where], codes[where], where, len(ids)


def packed_batch(
    rng: np.random.Generator,
    tokenizer: MolmoTokenizer,
    *,
    split: str,
    scenes_count: int,
    questions_count: int,
    weights: dict[str, float],
    max_crops: int,
    keep: float = 0.08,
) -> PackedBatch:
    """A batch of scenes with `questions_count` questions each, kinds drawn by `weights`."""
    kinds = list(weights)
    shares = np.array(list(weights.values()))
    rows = []
    for _ in range(scenes_count):
        scene = scenes.random_scene(rng, split)
        ids, codes, positions, start = image_part(rng, scene, max_crops, tokenizer, keep)
        rows.append(
            pack(
                rng,
                tokenizer,
                scene,
                rng.choice(kinds, questions_count, p=shares / shares.sum()),
                ids,
                codes,
                positions,
                start,
            )
        )
    return collate(rows)


def pack(rng, tokenizer, scene, kinds, ids, codes, positions, start, *, with_end: bool = False):
    """One row: image tokens, then questions that each continue from the image's end."""
    names = list(questions.KINDS)
    parts = [(ids, positions, np.zeros(len(ids), int), np.full(len(ids), -100), np.full(len(ids), -1))]
    group = 0
    for kind in kinds:
        question = questions.ask(rng, scene, str(kind))
        if question is None:
            continue
        group += 1
        prompt = tokenizer.prompt_tokens(question.text)
        answer = tokenizer.answer_tokens(question.answer)
        text = [*prompt, answer[0]] if with_end else prompt
        target = [-100] * (len(prompt) - 1) + (answer if with_end else [answer[0]])
        count = len(text)
        parts.append(
            (
                np.array(text), start + np.arange(count), np.full(count, group), np.array(target),
                np.full(count, names.index(question.kind)),
            )
        )  # fmt: skip
    joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
    full_codes = np.zeros((len(joined[0]), codes.shape[1]), dtype=np.float32)
    full_codes[: len(codes)] = codes
    return (*joined, full_codes)


def collate(rows) -> PackedBatch:
    """Right-pad rows to one length."""
    longest = max(len(row[0]) for row in rows)
    longest += -longest % 16  # few shapes, so that compiled blocks are reused
    batch = len(rows)
    ids = np.zeros((batch, longest), int)
    positions, targets, kinds = np.zeros_like(ids), np.full_like(ids, -100), np.full_like(ids, -1)
    groups = np.full_like(ids, -1)
    codes = np.zeros((batch, longest, rows[0][5].shape[1]), np.float32)
    for index, (row_ids, row_positions, row_groups, row_targets, row_kinds, row_codes) in enumerate(rows):
        count = len(row_ids)
        ids[index, :count], positions[index, :count], groups[index, :count] = (
            row_ids,
            row_positions,
            row_groups,
        )
        targets[index, :count], kinds[index, :count], codes[index, :count] = row_targets, row_kinds, row_codes
    causal = np.tril(np.ones((longest, longest), bool))
    allowed = ((groups[:, None, :] == 0) | (groups[:, :, None] == groups[:, None, :])) & causal
    return PackedBatch(
        ids=torch.from_numpy(ids), codes=torch.from_numpy(codes), positions=torch.from_numpy(positions),
        mask=torch.from_numpy(allowed)[:, None], targets=torch.from_numpy(targets), kinds=torch.from_numpy(kinds),
    )  # fmt: skip
