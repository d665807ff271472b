"""Importance of blocks by the definition: losses of models without them, changes of what passes through them."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hf import exactness
from hf.checkpoints import END_ID
from hf.opened import Small
from paceline.knobs import Knob, KnobSpace
from paceline.models.block_importance import rank_by_loss
from paceline.models.transformers.elastic import ElasticTransformers
from paceline.models.transformers.knob_state import TurnedKnobs, turned

NAMES = ("internvl", "gemma3", "qwen3_vl_moe", "ernie4_5_vl_moe")
TARGETS = ("three", "no")
GetSmall = Callable[[str], Small]


def asked(small: Small, option: int) -> list[tuple[dict[str, Any], Tensor]]:
    """Inputs with the answer's tokens behind, pixels given, and the answer of each sample."""
    found = []
    for overview, target in zip(samples(small), TARGETS, strict=True):
        inputs = small.shared.process_again([overview], option)
        answer = torch.tensor([[*small.shared.question_ids(target), END_ID]])
        whole = {
            name: torch.cat((value, fill(name, answer)), dim=1)
            if name in ("input_ids", "attention_mask") or name.endswith("token_type_ids")
            else value
            for name, value in inputs.items()
        }
        found.append((whole, answer[0]))
    return found


def fill(name: str, answer: Tensor) -> Tensor:
    """What the answer adds to an input per token: itself, ones to attend to, zeros for text."""
    return answer if name == "input_ids" else torch.full_like(answer, int(name == "attention_mask"))


def samples(small: Small) -> list[Any]:
    return [small.overview(), small.overview(60, 60, "Why?")]


@torch.inference_mode()
def summed_loss(model: Any, requests: Sequence[tuple[dict[str, Any], Tensor]]) -> float:
    """Cross-entropy of the answers, token by token."""
    total = 0.0
    for inputs, answer in requests:
        logits = model(**inputs, use_cache=False).logits[0]
        start = len(logits) - len(answer)
        for place, token in enumerate(answer.tolist()):
            total -= float(functional.log_softmax(logits[start + place - 1].float(), dim=-1)[token])
    return total


@pytest.mark.parametrize("name", NAMES)
def test_loss_scores_are_rises_without_a_block(small: GetSmall, name: str) -> None:
    opened = small(name)
    always, blocks = opened.shared.limits.always_kept, len(opened.shared.blocks)
    option = opened.model.default_configuration[opened.model.knobs.names[0]]
    requests = asked(opened, int(option))
    tokens = sum(len(answer) for _, answer in requests)

    def losses_without(kept: Sequence[int], candidates: Sequence[int]) -> dict[int, float]:
        left = {block: [other for other in kept if other != block] for block in candidates}
        return {
            block: summed_loss(exactness.with_blocks(opened.shared, rest), requests)
            for block, rest in left.items()
        }

    found = opened.model.block_importance(samples(opened), TARGETS, "loss")
    fewest = int(min(opened.model.knobs.knobs[-1].options))
    order, alone = rank_by_loss(blocks, losses_without, fewest=fewest, always_kept=always)
    whole = summed_loss(exactness.with_blocks(opened.shared, range(blocks)), requests)
    assert found.ranking == (*always, *(block for block in order if block not in always))
    for block in range(blocks):
        if block in always:
            assert found.scores[block] is None
        else:
            assert found.scores[block] == pytest.approx((alone[block] - whole) / tokens, rel=1e-4, abs=1e-5)


def test_losses_are_those_of_the_most_expensive_options(small: GetSmall) -> None:
    """Of a knob space whose most is less than the model's own."""
    opened = small("qwen3_vl_moe")
    blocks = len(opened.shared.blocks)
    space = KnobSpace(
        (
            Knob(name="max_pixels", options=(1024, 2304)),
            Knob(name="top_k", options=(1, 2)),
            Knob(name="num_active_blocks", options=(blocks - 1, blocks)),
        )
    )
    model = ElasticTransformers(opened.shared, knobs=space)
    found = model.block_importance(samples(opened), TARGETS, "loss")
    requests = asked(opened, 2304)
    tokens = sum(len(answer) for _, answer in requests)
    losses = []
    for kept in (range(blocks), range(blocks - 1)):
        with turned(TurnedKnobs(top_k=2, kept_blocks=frozenset(kept))):
            losses.append(summed_loss(opened.shared.model, requests))
    assert found.scores[-1] == pytest.approx((losses[1] - losses[0]) / tokens, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", ["internvl", "gemma3", "ernie4_5_vl_moe"])
def test_similarity_scores_are_changes_of_tokens(small: GetSmall, name: str) -> None:
    opened = small(name)
    option = opened.model.default_configuration[opened.model.knobs.names[0]]
    physical: Any = exactness.with_blocks(opened.shared, range(len(opened.shared.blocks)))
    passed: list[list[Tensor]] = [[] for _ in opened.shared.blocks]
    with torch.inference_mode():
        for inputs, _ in asked(opened, int(option)):
            hidden = physical(**inputs, use_cache=False, output_hidden_states=True).hidden_states
            for block in range(len(passed) - 1):  # the last is told after the norm
                before, after = hidden[block][0], hidden[block + 1][0]
                dot = (before * after).sum(-1) / before.norm(dim=-1) / after.norm(dim=-1)
                passed[block].append(1 - dot)
    found = opened.model.block_importance(samples(opened), TARGETS, "similarity")
    for block in range(len(passed) - 1):
        expected = float(torch.cat(passed[block]).mean())
        assert found.scores[block] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    always = opened.shared.limits.always_kept
    measured = [score for score in found.scores if score is not None]
    rest = [block for block in range(len(passed)) if block not in always]
    assert found.ranking == (*always, *sorted(rest, key=lambda block: -measured[block]))
