"""Real scenes with packed questions: crops for the vision tower and rows for the decoder."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from paceline.models.molmoe import crops
from paceline.models.molmoe.model import MolmoE
from paceline.tasks import scenes
from training.symbolic import PackedBatch, collate, pack


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelBatch:
    """A packed batch whose image tokens come from crops."""

    patches: Tensor  # (crops, patches, dim), all scenes one after another
    masks: Tensor  # (crops, patches)
    source: Tensor  # (image tokens,) index among the crops' pooled tokens
    target: Tensor  # (image tokens,) index among the flattened (scenes * time) positions
    packed: PackedBatch


def pixel_batch(
    model: MolmoE,
    rng: np.random.Generator,
    *,
    split: str,
    scenes_count: int,
    questions_count: int,
    weights: dict[str, float],
    max_crops: int,
) -> PixelBatch:
    """Scenes rendered, cut as at inference, and asked `questions_count` questions each."""
    geometry, tokenizer = model.crop_options, model.tokenizer
    side, per_crop = geometry.pooled_side, geometry.pooled_side**2
    kinds, shares = list(weights), np.array(list(weights.values()))
    patches, masks, sources, rows = [], [], [], []
    offset = 0
    for _ in range(scenes_count):
        scene = scenes.random_scene(rng, split)
        pixels = scenes.render(scene)
        tiling = crops.choose_tiling(*pixels.shape[:2], max_crops, geometry)
        high, order, mask = crops.high_resolution_crops(pixels, tiling, geometry)
        patches.append(np.concatenate((crops.overview_crop(pixels, geometry)[None], high)))
        masks.append(mask)
        flat = order.ravel()
        inside = np.argsort(flat, kind="stable")[(flat < 0).sum() :]
        sources.append(np.concatenate((offset + np.arange(per_crop), offset + per_crop + inside)))
        offset += per_crop * (1 + len(high))
        grid = crops.grid_shape(tiling, geometry)
        ids = np.array([tokenizer.end_of_text, *tokenizer.image_tokens(side, grid)])
        asked = rng.choice(kinds, questions_count, p=shares / shares.sum())
        positions = np.arange(len(ids))
        codes = np.zeros((len(ids), 0), np.float32)
        rows.append(pack(rng, tokenizer, scene, asked, ids, codes, positions, len(ids), with_end=True))
    packed = collate(rows)
    target = (packed.ids.flatten() == tokenizer.image_patch).nonzero()[:, 0]
    return PixelBatch(
        patches=torch.from_numpy(np.concatenate(patches)),
        masks=torch.from_numpy(np.concatenate(masks)),
        source=torch.from_numpy(np.concatenate(sources)),
        target=target,
        packed=packed,
    )


def answer_logits(model: MolmoE, batch: PixelBatch) -> tuple[Tensor, Tensor]:
    """Logits (predicted tokens, vocabulary) and targets (predicted tokens,)."""
    tokens = model.vision(batch.patches, batch.masks).flatten(0, 1)[batch.source]
    embeddings = model.decoder.embed(batch.packed.ids)
    flat = embeddings.flatten(0, 1).index_add(0, batch.target, tokens)
    hidden = model.decoder(flat.view_as(embeddings), batch.packed.positions, batch.packed.mask)
    wanted = batch.packed.targets >= 0
    return model.decoder.logits(hidden[wanted]), batch.packed.targets[wanted]
