"""Which blocks of a transformers model matter: the loss without them, or how little they change, on known answers."""

from collections.abc import Iterator, Sequence
from typing import Any

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
from paceline.models.protocol import Overview
from paceline.models.transformers.instrumented import Instrumented
from paceline.models.transformers.knob_state import TurnedKnobs, turned


@torch.inference_mode()
def measure_blocks(
    shared: Instrumented,
    overviews: Sequence[Overview],
    targets: Sequence[str],
    *,
    method: str,
    option: int | None,
    top_k: int | None,
    fewest: int,
) -> BlockImportance:
    """Blocks from most to least important for answering `overviews` with `targets`; those that always run stay first.

    "loss": greedy nested ablation; the score is by how much the loss per answer token rises without the block alone.
    "similarity": the mean change (1 - cosine) of a token by the block.
    """
    check_method(method)
    check_samples(overviews, targets)
    blocks, always = shared.limits.blocks, shared.limits.always_kept
    samples = [
        _Sample(shared, overview, target, option) for overview, target in zip(overviews, targets, strict=True)
    ]
    if method == "similarity":
        scores = _mean_changes(shared, samples, top_k)
        return BlockImportance(method=method, ranking=rank_by_scores(scores, always), scores=tuple(scores))

    def loss(kept: frozenset[int]) -> float:
        return sum(sample.loss(TurnedKnobs(top_k, kept)) for sample in samples)

    def losses_without(kept: Sequence[int], candidates: Sequence[int]) -> dict[int, float]:
        return {block: loss(frozenset(kept) - {block}) for block in candidates}

    found, alone = rank_by_loss(blocks, losses_without, fewest=fewest, always_kept=always)
    ranking = (*always, *(block for block in found if block not in always))
    everything, tokens = loss(frozenset(range(blocks))), sum(sample.tokens for sample in samples)
    rises = {block: (value - everything) / tokens for block, value in alone.items()}
    return BlockImportance(
        method=method, ranking=ranking, scores=tuple(rises.get(block) for block in range(blocks))
    )


class _Sample:
    """A request with its answer appended (teacher forcing); the image is seen once."""

    def __init__(self, shared: Instrumented, overview: Overview, target: str, option: int | None) -> None:
        self._model = shared.model
        inputs = shared.process_again([overview], option)
        self._encoded, rest = shared.encode(inputs)
        ends = shared.processor.tokenizer.eos_token_id
        ids = shared.question_ids(target) + ([] if ends is None else [ends])
        self._answer = torch.tensor([ids], device=shared.device)
        self._inputs = {name: _extended(value, self._answer, name) for name, value in rest.items()}

    @property
    def tokens(self) -> int:
        """Number of answer tokens."""
        return self._answer.shape[1]

    def loss(self, knobs: TurnedKnobs) -> float:
        """Summed cross-entropy of the answer."""
        logits = self.run(knobs)[:, -self.tokens - 1 : -1].float()
        return float(functional.cross_entropy(logits[0], self._answer[0], reduction="sum"))

    def run(self, knobs: TurnedKnobs) -> Tensor:
        """Logits (1, time, vocabulary)."""
        with turned(knobs):
            return self._model(
                **self._inputs, mm_encoder_outputs={"image": self._encoded}, use_cache=False
            ).logits


def _extended(value: Any, answer: Tensor, name: str) -> Any:
    """A per-token input with the answer's tokens behind: their ids, a mask of ones, token types of text (0)."""
    if name == "input_ids":
        return torch.cat((value, answer), dim=1)
    if name == "attention_mask":
        return torch.cat((value, torch.ones_like(answer).to(value.dtype)), dim=1)
    if name.endswith("token_type_ids"):
        return torch.cat((value, torch.zeros_like(answer).to(value.dtype)), dim=1)
    return value


def _mean_changes(shared: Instrumented, samples: Sequence[_Sample], top_k: int | None) -> list[float]:
    """Mean change of a token by each block."""
    sums, tokens = [0.0] * shared.limits.blocks, 0
    for sample in samples:
        for index, before, after in _seen(shared, sample, top_k):
            found = changes(before[0], after[0])
            sums[index] += float(found.double().sum())
            tokens += len(found) if index == 0 else 0
    return [total / tokens for total in sums]


def _seen(shared: Instrumented, sample: _Sample, top_k: int | None) -> Iterator[tuple[int, Tensor, Tensor]]:
    """What enters and leaves each block; calibration is the one time that hooks are used."""
    found: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(index: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            found[index] = (args[0] if args else kwargs["hidden_states"], output)

        return hook

    handles = [
        block.register_forward_hook(keep(index), with_kwargs=True)
        for index, block in enumerate(shared.blocks)
    ]
    try:
        sample.run(TurnedKnobs(top_k))
    finally:
        for handle in handles:
            handle.remove()
    for index, (before, after) in sorted(found.items()):
        yield index, before, after
