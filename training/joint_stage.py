"""Stage 3: tower and decoder together, on pixels, with all blocks and experts and mostly with all crops."""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from paceline.models.molmoe import knob_state
from paceline.models.molmoe.knob_state import KnobState
from paceline.models.molmoe.model import MolmoE
from paceline.models.molmoe.options import TINY
from paceline.tasks.questions import KINDS
from training import language_stage, parallel
from training.codebook import codebook
from training.language_stage import CODE_SCALE, save_checkpoint
from training.muon import Muon, split_parameters
from training.pixels import answer_logits, pixel_batch
from training.vision_stage import batch_of, vision_loss
from training.vocabulary import tiny_tokenizer

WEIGHTS = {
    "read": 1.0, "color": 3.5, "largest": 1.2, "count": 0.8, "larger": 0.8, "plus": 0.9, "plus3": 1.4, "times": 0.9,
    "fact": 1.4, "code": 2.0, "pair": 0.9, "hop": 2.2,
}  # fmt: skip
CROPS = (12, 12, 12, 12, 12, 12, 10, 8, 6, 4, 2, 1)
DENSE_CROPS, DENSE_WEIGHT = 24, 0.1
ANSWER, END = 1.0, 0.2  # weight of the answer token and of the end token


def joined(folder: Path) -> MolmoE:
    """The model with the weights of both earlier stages."""
    model = MolmoE(TINY, tiny_tokenizer())
    tower = torch.load(folder / "vision.pt", weights_only=True)["tower"]
    tower["project_down.weight"] *= CODE_SCALE
    model.vision.load_state_dict(tower)
    model.decoder.load_state_dict(torch.load(folder / "language.pt", weights_only=True)["decoder"])
    return model


def optimisers_of(model: MolmoE) -> list[torch.optim.Optimizer]:
    """The decoder's optimisers, slower, and the tower's."""
    decoder = language_stage.optimisers_of(model.decoder)
    matrices, others = split_parameters(model.vision.named_parameters(), rest=("positions", "pad_embedding"))
    for optimiser in decoder:
        for group in optimiser.param_groups:
            group["lr"] *= 0.4
    return [*decoder, Muon(matrices, lr=0.001), torch.optim.AdamW(others, lr=3e-4, weight_decay=0.0)]


@torch.no_grad()
def accuracy_by_kind(
    model: MolmoE, state: KnobState, max_crops: int, *, scenes_count: int = 24
) -> dict[str, float]:
    """Accuracy per kind on rendered validation scenes, answers teacher-forced one token long."""
    rng = np.random.default_rng(98)
    rights, kinds = [], []
    for _ in range(scenes_count // 4):
        batch = pixel_batch(
            model,
            rng,
            split="validation",
            scenes_count=4,
            questions_count=24,
            weights=dict.fromkeys(KINDS, 1.0),
            max_crops=max_crops,
        )
        with knob_state.knobs(state):
            logits, targets = answer_logits(model, batch)
        answer = targets != model.tokenizer.end_of_text
        rights.append((logits.argmax(-1) == targets)[answer].float())
        kinds.append(batch.packed.kinds[batch.packed.targets >= 0][answer])
    right, kind = torch.cat(rights), torch.cat(kinds)
    out = {name: round(right[kind == index].mean().item(), 3) for index, name in enumerate(KINDS)}
    return {"mean": round(float(np.mean(list(out.values()))), 3), **out}


def reduced(model: MolmoE) -> Iterator[tuple[str, float]]:
    """Mean over kinds with each knob low."""
    half = KnobState(active_blocks=(0, *range(1, 16, 2)))
    yield "2 crops", accuracy_by_kind(model, KnobState(), 2)["mean"]
    yield "top_k 4", accuracy_by_kind(model, KnobState(top_k=4), 12)["mean"]
    yield "9 blocks", accuracy_by_kind(model, half, 12)["mean"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What one step trains on."""

    weights: dict[str, float]  # of the kinds of questions
    max_crops: int
    knobs: KnobState


def drawn_step(rng: np.random.Generator) -> Step:
    """All kinds, all blocks and experts, mostly all crops."""
    return Step(weights=WEIGHTS, max_crops=int(rng.choice(CROPS)), knobs=KnobState())


def training_loss(
    model: MolmoE, rng: np.random.Generator, book: Tensor, step: Step, scenes_count: int, questions_count: int
) -> tuple[Tensor, float]:
    """Answers under the step's knobs, plus what dense crops should say."""
    batch = pixel_batch(
        model, rng, split="train", scenes_count=scenes_count, questions_count=questions_count,
        weights=step.weights, max_crops=step.max_crops,
    )  # fmt: skip
    with knob_state.knobs(step.knobs):
        logits, targets = answer_logits(model, batch)
    weight = torch.where(targets == model.tokenizer.end_of_text, END, ANSWER)
    loss = (functional.cross_entropy(logits, targets, reduction="none") * weight).sum() / weight.sum()
    answer = targets != model.tokenizer.end_of_text
    right = (logits.argmax(-1) == targets)[answer].float().mean().item()
    patches, labels = batch_of(rng, "train", DENSE_CROPS)
    dense, _ = vision_loss(model.vision(patches, torch.ones(patches.shape[:2])) / CODE_SCALE, book, labels)
    return loss + DENSE_WEIGHT * dense, right


def stage_options(steps: int, seed: int) -> argparse.Namespace:
    """The command line of this stage and the next."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--scenes", type=int, default=4)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--seed", type=int, default=seed)
    return parser.parse_args()


def train(
    model: MolmoE,
    options: argparse.Namespace,
    rank: int,
    *,
    name: str,
    draw: Callable[[np.random.Generator], Step],
    speed: float = 1.0,
    warm_up: int = 50,
) -> None:
    """Train with checkpoints NAME.pt; the same command goes on where it stopped."""
    book, optimisers = codebook(TINY.width), optimisers_of(model)
    rates = [speed * group["lr"] for optimiser in optimisers for group in optimiser.param_groups]
    checkpoint, first = options.out / f"{name}.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        first = state["step"]
    for block in model.decoder.blocks:
        block.moe.compile()  # pyright: ignore[reportAttributeAccessIssue]
    model.train()
    began, running = time.time(), {"loss": 0.0, "accuracy": 0.0}
    for step in range(first, options.steps):
        factor = min(1.0, (step + 1) / warm_up) * (1 - step / options.steps)
        groups = [group for optimiser in optimisers for group in optimiser.param_groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * factor
        rng = np.random.default_rng((options.seed, step, rank))
        loss, right = training_loss(model, rng, book, draw(rng), options.scenes, options.questions)
        if not loss.isfinite():
            raise RuntimeError(f"step {step}: the loss is {loss.item()}; look at the last batch")
        loss.backward()
        parallel.average_gradients(model.parameters())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        weight = 0.04 if step > first else 1.0
        running["loss"] += weight * (loss.item() - running["loss"])
        running["accuracy"] += weight * (right - running["accuracy"])
        if rank == 0 and (step + 1) % 50 == 0:
            row: dict[str, object] = {
                "step": step + 1,
                **{key: round(value, 3) for key, value in running.items()},
            }
            row["seconds"] = round(time.time() - began)
            if (step + 1) % 150 == 0 or step + 1 == options.steps:
                save_checkpoint(checkpoint, {"model": model.state_dict(), "step": step + 1}, optimisers)
                row["validation"] = accuracy_by_kind(model, KnobState(), 12)
            if step + 1 == options.steps:
                row.update(reduced(model))
            with (options.out / f"{name}.jsonl").open("a") as log:
                print(json.dumps(row), file=log)
            print(json.dumps(row), flush=True)


def main() -> None:
    """Run under torchrun for several processes."""
    options, rank = stage_options(600, 3), parallel.start()
    train(joined(options.out), options, rank, name="joint", draw=drawn_step)
    parallel.finish()


if __name__ == "__main__":
    main()
