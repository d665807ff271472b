"""Stage 2: the decoder alone learns to answer from described scenes, at the full configuration.

Nothing is left out while it learns, so that what needs depth or many experts needs them, as in models that were never
trained to be elastic.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from paceline.models.molmoe import knob_state
from paceline.models.molmoe.decoder import Decoder
from paceline.models.molmoe.knob_state import KnobState
from paceline.models.molmoe.options import TINY
from paceline.models.molmoe.tokenizer import MolmoTokenizer
from paceline.tasks.questions import KINDS
from paceline.tasks.scenes import COLOR_NAMES
from training import parallel
from training.codebook import ROWS, codebook
from training.muon import Muon, split_parameters
from training.symbolic import PackedBatch, packed_batch
from training.vocabulary import tiny_tokenizer

EARLY_SCALE, CODE_SCALE, RAISED_AT = 4.0, 240.0, 0.5
"""Length of a code in the decoder's input, before and after a share of the steps.

Look-ups are found in a tenth of the steps when codes are short and blocks therefore move the residual fast; at full
length they are not found at all. But by half of the steps what blocks add has outgrown short codes twentyfold, and
answers that are colours are never learned.
"""
LOOK_UPS = {"read": 1.0, "count": 0.4, "larger": 0.5}
REASONING = {
    "read": 0.7, "count": 0.6, "larger": 0.8, "plus": 1.0, "plus3": 1.4, "times": 1.2, "fact": 1.6, "code": 1.8,
    "pair": 1.3, "hop": 1.2,
}  # fmt: skip
EVERYTHING = {
    "read": 0.6, "color": 3.0, "largest": 1.5, "count": 0.8, "larger": 0.6, "plus": 0.8, "plus3": 1.4, "times": 0.8,
    "fact": 1.8, "code": 2.2, "pair": 0.8, "hop": 1.6,
}  # fmt: skip
SLOW = {
    "read": 0.3, "color": 4.0, "largest": 2.0, "count": 0.3, "larger": 0.3, "plus": 0.4, "plus3": 1.2, "times": 0.4,
    "fact": 1.2, "code": 3.0, "pair": 0.4, "hop": 2.5,
}  # fmt: skip
CURRICULUM = ((0.16, LOOK_UPS), (RAISED_AT, REASONING), (0.6, EVERYTHING), (1.0, SLOW))
"""Kinds and their weights until a share of the steps: look-ups of digits, then what follows from them.

Questions that answer with a colour come last: asked from the start they fall into always naming the commonest colour,
with residuals so large that nothing else is learned about them.
"""


def initialise(decoder: Decoder, tokenizer: MolmoTokenizer, seed: int) -> None:
    """Random weights; queries equal keys, and words of colours and digits equal their codes, so look-ups start warm."""
    torch.manual_seed(seed)
    width, book = TINY.width, codebook(TINY.width)
    with torch.no_grad():
        torch.nn.init.normal_(decoder.embedding, std=EARLY_SCALE * width**-0.5)
        for words, (low, _) in ((range(10), ROWS["digit"]), (COLOR_NAMES, ROWS["color"])):
            for index, word in enumerate(words):
                (token, _) = tokenizer.answer_tokens(str(word))
                decoder.embedding[token] = EARLY_SCALE * book[low + index]
        decoder.embedding[tokenizer.image_patch] *= 0.25
        torch.nn.init.normal_(decoder.head.weight, std=0.02)
        for block in decoder.blocks:
            for weight in (block.attention.qkv.weight, block.moe.router.weight, block.moe.gate_up):  # type: ignore[union-attr]
                torch.nn.init.normal_(weight, std=width**-0.5)  # type: ignore[arg-type]
            qkv = block.attention.qkv.weight  # type: ignore[union-attr]
            qkv[width : 2 * width] = qkv[:width]  # type: ignore[index]
            torch.nn.init.normal_(block.attention.out.weight, std=0.5 * width**-0.5)  # type: ignore[union-attr,arg-type]
            torch.nn.init.normal_(block.moe.down, std=0.7)  # type: ignore[union-attr,arg-type]


def optimisers_of(decoder: Decoder) -> list[torch.optim.Optimizer]:
    """Muon for matrices (experts' outputs faster, for a flat router weighs each by about 1/64), AdamW for the rest."""
    matrices, others = split_parameters(decoder.named_parameters(), rest=("embedding", "head"))
    downs = {id(block.moe.down) for block in decoder.blocks}  # type: ignore[union-attr]
    groups = [
        {"params": [p for p in matrices if id(p) not in downs], "lr": 0.02},
        {"params": [p for p in matrices if id(p) in downs], "lr": 0.06},
    ]
    return [Muon(groups, lr=0.02), torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0)]  # type: ignore[arg-type]


def answer_logits(decoder: Decoder, batch: PackedBatch, book: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Logits (answers, vocabulary) and targets (answers,) at the answer positions, for codes of length `scale`."""
    embeddings = decoder.embed(batch.ids) + scale * (batch.codes @ book)
    hidden = decoder(embeddings, batch.positions, batch.mask)
    wanted = batch.targets >= 0
    return decoder.logits(hidden[wanted]), batch.targets[wanted]


@torch.no_grad()
def accuracy_by_kind(
    decoder: Decoder, tokenizer: MolmoTokenizer, book: Tensor, state: KnobState, scale: float
) -> dict[str, float]:
    """Accuracy per kind on described validation scenes."""
    rng = np.random.default_rng(99)
    batch = packed_batch(
        rng,
        tokenizer,
        split="validation",
        scenes_count=24,
        questions_count=24,
        weights=dict.fromkeys(KINDS, 1.0),
        max_crops=12,
    )
    with knob_state.knobs(state):
        logits, targets = answer_logits(decoder, batch, book, scale)
    right = (logits.argmax(-1) == targets).float()
    kinds = batch.kinds[batch.targets >= 0]
    out = {name: round(right[kinds == index].mean().item(), 3) for index, name in enumerate(KINDS)}
    return {"mean": round(float(np.mean(list(out.values()))), 3), **out}


def save_checkpoint(path: Path, state: dict[str, object], optimisers: list[torch.optim.Optimizer]) -> None:
    """Write a checkpoint beside the old one, then replace it."""
    torch.save(
        {**state, "optimisers": [optimiser.state_dict() for optimiser in optimisers]},
        path.with_suffix(".new"),
    )
    path.with_suffix(".new").replace(path)


def main() -> None:
    """Train with checkpoints; the same command goes on where it stopped. Run under torchrun for several processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--scenes", type=int, default=4)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--seed", type=int, default=2)
    options = parser.parse_args()
    rank = parallel.start()
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer, decoder, book = tiny_tokenizer(), Decoder(TINY), codebook(TINY.width)
    initialise(decoder, tokenizer, options.seed)
    optimisers = optimisers_of(decoder)
    rates = [group["lr"] for optimiser in optimisers for group in optimiser.param_groups]
    checkpoint, first = options.out / "language.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        decoder.load_state_dict(state["decoder"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        first = state["step"]
    for block in decoder.blocks:
        block.moe.compile()  # pyright: ignore[reportAttributeAccessIssue]
    decoder.train()
    log = (options.out / "language.jsonl").open("a")
    began, running, tokens = time.time(), {}, 0
    for step in range(first, options.steps):
        share = step / options.steps
        factor = min(1.0, (step + 1) / 60) * (1.0 if share < 0.4 else min(0.5, 2.5 * (1 - share)) + 0.005)
        groups = [group for optimiser in optimisers for group in optimiser.param_groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * factor
        if step == round(RAISED_AT * options.steps):
            with torch.no_grad():
                decoder.embedding.mul_(CODE_SCALE / EARLY_SCALE)
        scale = EARLY_SCALE if share < RAISED_AT else CODE_SCALE
        rng = np.random.default_rng((options.seed, step, rank))
        crops = 12 if rng.random() < 0.7 else int(rng.choice((2, 4, 6, 8, 10)))
        batch = packed_batch(
            rng, tokenizer, split="train", scenes_count=options.scenes, questions_count=options.questions,
            weights=next(weights for until, weights in CURRICULUM if share < until), max_crops=crops,
        )  # fmt: skip
        logits, targets = answer_logits(decoder, batch, book, scale)
        loss = functional.cross_entropy(logits, targets)
        loss.backward()
        parallel.average_gradients(decoder.parameters())
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        tokens += batch.ids.numel()
        right = (logits.argmax(-1) == targets).float()
        kinds = batch.kinds[batch.targets >= 0]
        facts = {name: right[kinds == i].mean().item() for i, name in enumerate(KINDS) if (kinds == i).any()}
        facts["loss"] = loss.item()
        running = {**running, **{k: 0.96 * running.get(k, v) + 0.04 * v for k, v in facts.items()}}
        if rank == 0 and (step + 1) % 50 == 0:
            row = {"step": step + 1, **{key: round(value, 3) for key, value in running.items()}}
            row["tokens_per_s"] = round(tokens / (time.time() - began))
            if (step + 1) % 250 == 0:
                save_checkpoint(checkpoint, {"decoder": decoder.state_dict(), "step": step + 1}, optimisers)
            if (step + 1) % 500 == 0:
                row["validation"] = accuracy_by_kind(decoder, tokenizer, book, KnobState(), scale)
                row["top_k 4"] = accuracy_by_kind(decoder, tokenizer, book, KnobState(top_k=4), scale)["mean"]
                first_half = KnobState(active_blocks=(0, *range(1, 16, 2)))
                row["9 blocks"] = accuracy_by_kind(decoder, tokenizer, book, first_half, scale)["mean"]
            print(json.dumps(row), file=log, flush=True)
            print(json.dumps(row), flush=True)
    parallel.finish()


if __name__ == "__main__":
    main()
