"""Which blocks of MolmoE matter, by the loss on known answers or by how much a block changes its input."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from paceline.models.block_importance import (
    BlockImportance,
    check_method,
    check_samples,
    rank_by_loss,
    rank_by_scores,
)
from paceline.models.block_influence import changes
from paceline.models.molmoe import knob_state
from paceline.models.molmoe.generation import left_pad, padded_mask, padded_positions
from paceline.models.molmoe.knob_state import KnobState
from paceline.models.molmoe.model import MolmoE
from paceline.models.molmoe.together import DENSE_SHARE
from paceline.models.protocol import Overview

BATCH = 16  # requests per forward pass


class _Batch:
    """Requests with their answers appended (teacher forcing), left-padded, and the loss of any set of blocks."""

    def __init__(self, model: MolmoE, rows: Sequence[Tensor], answers: Sequence[Sequence[int]]) -> None:
        self._model = model
        joined = []
        for row, answer in zip(rows, answers, strict=True):
            ids = torch.tensor(answer[:-1], dtype=torch.long, device=model.device)
            joined.append(torch.cat((row, model.decoder.embed(ids))))
        self._start, valid = left_pad(joined)
        self._valid = valid
        self._mask = padded_mask(valid)
        self._rotary = model.decoder.rotary(padded_positions(valid))
        length = self._start.shape[1]
        # The position before a token predicts it, so the last len(answer) positions predict the answer.
        places = [
            (row, length - len(answer) + i) for row, answer in enumerate(answers) for i in range(len(answer))
        ]
        self._rows, self._columns = torch.tensor(places, device=model.device).unbind(1)
        self._targets = torch.tensor([token for answer in answers for token in answer], device=model.device)

    @property
    def tokens(self) -> int:
        """Number of answer tokens."""
        return len(self._targets)

    def run(self, hidden: Tensor | None, blocks: Sequence[int]) -> Tensor:
        """Hidden states after these blocks, from `hidden` or the embeddings."""
        start = self._start if hidden is None else hidden
        return self._model.decoder.through(start, blocks, self._rotary, self._mask)

    def loss(self, hidden: Tensor) -> float:
        """Summed cross-entropy of the answers."""
        decoder = self._model.decoder
        last = hidden[self._rows.to(hidden.device), self._columns.to(hidden.device)]
        normed = decoder.norm(last if decoder.route is None else last.to(decoder.route.head))
        logits = decoder.logits(normed).float()
        return float(functional.cross_entropy(logits, self._targets, reduction="sum"))

    def changes(self, before: Tensor, after: Tensor) -> tuple[float, int]:
        """By how much a block changed its input, summed over tokens, and their number; padding is none of them."""
        valid = self._valid.to(after.device)
        found = changes(before.to(after.device)[valid], after[valid])
        return float(found.double().sum()), len(found)


@torch.inference_mode()
def measure_blocks(
    model: MolmoE,
    overviews: Sequence[Overview],
    targets: Sequence[str],
    *,
    method: str,
    max_crops: int,
    top_k: int | None,
    fewest: int,
) -> BlockImportance:
    """Blocks from most to least important for answering `overviews` with `targets`; block 0 is never taken.

    "loss": greedy nested ablation, each round one forward pass per candidate, until `fewest` are left; the score of a
    block is by how much the loss per answer token rises without it alone. "similarity": one forward pass; the score is
    the mean change of a token (1 - cosine), and the order is that of the scores.
    """
    check_method(method)
    check_samples(overviews, targets)
    batches = []
    for start in range(0, len(overviews), BATCH):
        rows = model.embedding_rows(overviews[start : start + BATCH], max_crops)
        answers = [model.tokenizer.answer_tokens(target) for target in targets[start : start + BATCH]]
        batches.append(_Batch(model, rows, answers))
    blocks = model.options.num_blocks
    many = (top_k or model.options.top_k) * DENSE_SHARE >= model.options.num_experts
    with knob_state.knobs(KnobState(top_k=top_k, every_expert=many)):
        if method == "similarity":
            scores = _mean_changes(batches, blocks)
            return BlockImportance(method=method, ranking=rank_by_scores(scores), scores=tuple(scores))

        def losses_without(kept: Sequence[int], candidates: Sequence[int]) -> dict[int, float]:
            return _losses_without(batches, kept, candidates)

        ranking, alone = rank_by_loss(blocks, losses_without, fewest=fewest)
        tokens = sum(batch.tokens for batch in batches)
        everything = sum(batch.loss(batch.run(None, range(blocks))) for batch in batches) if alone else 0.0
        rises = {block: (loss - everything) / tokens for block, loss in alone.items()}
        return BlockImportance(
            method=method, ranking=ranking, scores=tuple(rises.get(block) for block in range(blocks))
        )


def _losses_without(
    batches: Sequence[_Batch], kept: Sequence[int], candidates: Sequence[int]
) -> dict[int, float]:
    """Summed loss of the kept blocks without each candidate."""
    losses = dict.fromkeys(candidates, 0.0)
    for batch in batches:
        before = None  # what the blocks before the candidate make, shared by all
        for place, block in enumerate(kept):
            if block in losses:
                losses[block] += batch.loss(batch.run(before, kept[place + 1 :]))
            before = batch.run(before, (block,))
    return losses


def _mean_changes(batches: Sequence[_Batch], blocks: int) -> list[float]:
    """Mean change of a token by each block."""
    sums, tokens = [0.0] * blocks, 0
    for batch in batches:
        before, count = batch.run(None, ()), 0
        for block in range(blocks):
            after = batch.run(before, (block,))
            change, count = batch.changes(before, after)
            sums[block] += change
            before = after
        tokens += count
    return [total / tokens for total in sums]
