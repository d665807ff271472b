"""Last stage: the trained weights become the package's `tiny` model, with the order of its blocks and its log."""

import argparse
import json
import shutil
from pathlib import Path

import torch

from paceline.knobs import SEED_SPACE, Knob, KnobSpace
from paceline.models.molmoe.checkpoint import save_model
from paceline.models.molmoe.model import MolmoE
from paceline.models.molmoe.options import TINY
from training.vocabulary import tiny_tokenizer

ASSETS = Path("src/paceline/assets/models/tiny")
LOG = Path("benchmarks/results/training_tiny.jsonl")
STAGES = ("vision", "language", "joint", "ladder")
KNOBS = KnobSpace((Knob(name="max_crops", options=(1, 2, 4, 6, 8, 10, 12)), *SEED_SPACE.knobs[1:]))
"""The default knob space, and one crop: on images this small it shows what the overview shows, and no more."""


def main() -> None:
    """Write src/paceline/assets/models/tiny and the training log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--assets", type=Path, default=ASSETS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = MolmoE(TINY, tiny_tokenizer())
    model.load_state_dict(torch.load(options.out / "ladder.pt", weights_only=True)["model"])
    model.requires_grad_(False).eval()
    save(model, options.assets, json.loads((options.out / "ranking.json").read_text()))
    if options.assets == ASSETS:
        with LOG.open("w") as log:
            for stage in STAGES:
                for line in (options.out / f"{stage}.jsonl").read_text().splitlines():
                    print(json.dumps({"stage": stage, **json.loads(line)}), file=log)


def save(model: MolmoE, directory: Path, ranking: list[int]) -> None:
    """Weights as float16, the order of blocks that they were trained with, and the knobs."""
    fresh = directory.with_name(directory.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    save_model(model, fresh, block_ranking=ranking, knobs=KNOBS)
    shutil.rmtree(directory, ignore_errors=True)
    fresh.replace(directory)
    print(f"{directory}: block ranking {ranking}")


if __name__ == "__main__":
    main()
