"""Stage 4: questions that need little learn to be answered with little.

A model that was only ever trained at its full configuration loses everything at once when blocks are left out, though
naming a digit needs few of them. Here two steps in five ask simple questions of a shallow and narrow model: the blocks
that matter most, in the order that ships. The other three keep the full configuration as it is, with few crops as often
as with many. What needs depth or many experts is never asked of less, so it still degrades.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from paceline.models.molmoe.elastic import ElasticMolmoE
from paceline.models.molmoe.knob_state import KnobState
from paceline.models.molmoe.model import MolmoE
from paceline.models.molmoe.options import TINY
from paceline.tasks.digits import DigitsTask
from training import joint_stage, parallel
from training.joint_stage import Step
from training.vocabulary import tiny_tokenizer

SIMPLE = {"read": 1.0, "color": 1.4, "largest": 0.6, "count": 0.8, "larger": 0.6}
SIMPLE_SHARE = 0.4
SHALLOW, NARROW, SIMPLE_CROPS = (8, 8, 8, 9, 10, 12), (4, 4, 8, 12), (12, 12, 12, 8, 4, 2)
CROPS = (12, 12, 12, 12, 8, 6, 4, 2, 2, 1)
IMPORTANCE_SAMPLES = 128


def draws(ranking: list[int]) -> Callable[[np.random.Generator], Step]:
    """Simple questions with little, or all questions with everything."""

    def draw(rng: np.random.Generator) -> Step:
        if rng.random() >= SIMPLE_SHARE:
            return Step(weights=joint_stage.WEIGHTS, max_crops=int(rng.choice(CROPS)), knobs=KnobState())
        kept = tuple(sorted(ranking[: int(rng.choice(SHALLOW))]))
        knobs = KnobState(top_k=int(rng.choice(NARROW)), active_blocks=kept)
        return Step(weights=SIMPLE, max_crops=int(rng.choice(SIMPLE_CROPS)), knobs=knobs)

    return draw


def block_ranking(model: MolmoE) -> list[int]:
    """Blocks from most to least important, by greedy ablation on validation questions."""
    task = DigitsTask()
    samples = task.samples("validation", IMPORTANCE_SAMPLES, seed=1)
    elastic = ElasticMolmoE(model, name="tiny")
    overviews = [elastic.overview(task.image(sample), sample.question) for sample in samples]
    return list(elastic.block_importance(overviews, [sample.answer for sample in samples]).ranking)


def ranking_of(folder: Path, model: MolmoE, rank: int) -> list[int]:
    """The order of blocks of the joint stage's weights, measured once."""
    path = folder / "ranking.json"
    if rank == 0 and not path.exists():
        path.write_text(json.dumps(block_ranking(model)))
    parallel.wait()
    return json.loads(path.read_text())


def main() -> None:
    """Run under torchrun for several processes."""
    options, rank = joint_stage.stage_options(500, 4), parallel.start()
    model = MolmoE(TINY, tiny_tokenizer())
    model.load_state_dict(torch.load(options.out / "joint.pt", weights_only=True)["model"])
    ranking = ranking_of(options.out, model.eval(), rank)
    joint_stage.train(model, options, rank, name="ladder", draw=draws(ranking), speed=0.6, warm_up=20)
    parallel.finish()


if __name__ == "__main__":
    main()
