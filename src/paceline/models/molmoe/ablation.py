"""Which blocks matter: greedy nested ablation of the loss on known answers."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from paceline.errors import ModelError
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
        x = self._start if hidden is None else hidden
        for index in blocks:
            x = self._model.decoder.blocks[index](x, self._rotary, self._mask, None, index)
        return x

    def loss(self, hidden: Tensor) -> float:
        """Summed cross-entropy of the answers."""
        last = self._model.decoder.norm(hidden[self._rows, self._columns])
        logits = self._model.decoder.logits(last).float()
        return float(functional.cross_entropy(logits, self._targets, reduction="sum"))


@torch.inference_mode()
def rank_blocks(
    model: MolmoE,
    overviews: Sequence[Overview],
    targets: Sequence[str],
    *,
    max_crops: int,
    top_k: int | None,
    fewest: int,
) -> list[int]:
    """Blocks from most to least important for answering `overviews` with `targets`.

    Each round takes away the block without which the loss is lowest, one forward pass per candidate, until `fewest`
    are left. Block 0 is never taken. What is left stands first, in the order of the model; what was taken follows,
    the last taken first. So the kept sets are nested.
    """
    if not overviews or len(overviews) != len(targets):
        raise ModelError(
            f"block importance: {len(overviews)} overviews and {len(targets)} targets, expected as many, and some"
        )
    batches = []
    for start in range(0, len(overviews), BATCH):
        rows = model.embedding_rows(overviews[start : start + BATCH], max_crops)
        answers = [model.tokenizer.answer_tokens(target) for target in targets[start : start + BATCH]]
        batches.append(_Batch(model, rows, answers))
    kept = list(range(model.options.num_blocks))
    taken: list[int] = []
    many = (top_k or model.options.top_k) * DENSE_SHARE >= model.options.num_experts
    with knob_state.knobs(KnobState(top_k=top_k, every_expert=many)):
        while len(kept) > max(fewest, 1):
            losses = dict.fromkeys(kept[1:], 0.0)
            for batch in batches:
                before = batch.run(None, kept[:1])  # what the blocks before the candidate make, shared by all
                for place in range(1, len(kept)):
                    losses[kept[place]] += batch.loss(batch.run(before, kept[place + 1 :]))
                    before = batch.run(before, kept[place : place + 1])
            least = min(losses, key=lambda block: (losses[block], -block))
            kept.remove(least)
            taken.append(least)
    return kept + taken[::-1]
