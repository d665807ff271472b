"""What policies do with what they did not see: new data sets, budgets outside training, several data sets at once.

Three tables, each with intervals over images, paired by sample. The embedded model's questions are of one data set, so
kinds of question stand in for data sets: four of three kinds each (`DATASETS`). Training is short (`--warm-epochs`,
`--epochs`): differences between rows count, not how good the best can be.
One seed: intervals hold the test samples' chance, not that of training or of which samples were labelled.
"""

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.generalisation_judge import Limits, Reached, bounds, compared, lines, reached, stacked
from benchmarks.record import write_result
from paceline.cli.progress import Bar
from paceline.cli.threads import one_thread
from paceline.errors import OutcomesError
from paceline.evaluation.splits import fit_and_test
from paceline.evaluation.times import fit_latency
from paceline.latency.estimate import LatencyEstimator
from paceline.learning.adaptation import AdaptOptions, adapt_policy
from paceline.learning.learners.contender import Contender
from paceline.learning.learners.policy_contender import policy_contender
from paceline.learning.options import TrainOptions
from paceline.learning.problem import Problem, problem_of
from paceline.learning.progress import Progress
from paceline.learning.reference.contexts import ranges_of
from paceline.learning.train import train_controller_policy
from paceline.learning.trained import TrainedPolicy
from paceline.outcomes.store import read_table
from paceline.outcomes.table import OutcomeTable

DATASETS = {
    "looking": ("read", "color", "count"),
    "facts": ("fact", "code", "pair"),
    "sums": ("plus", "plus3", "times"),
    "order": ("larger", "largest", "hop"),
}
"""Name -> kinds of question."""
LABELLED = 50
HELD_FOR_STOPPING = 10  # of the labelled samples, where a policy is trained from nothing
RANGES = {"gap": "0-0.35,0.65-1", "middle": "0.35-0.65"}
"""Positions in the range of budgets that training is limited to."""
POSITIONS = {"low": (0.1, 0.2, 0.3), "centre": (0.4, 0.5, 0.6), "high": (0.7, 0.8, 0.9)}
UNSEEN = {"gap": ("centre",), "middle": ("low", "high")}
AVERAGE_SHARES = (0.3, 0.5, 0.7)
"""Average budgets as shares of the full configuration's mean latency."""


def with_datasets(table: OutcomeTable, train: int, seed: int) -> OutcomeTable:
    """The complete samples with kinds as data sets, `train` of the train and a fourth as many validation samples."""
    fit, test, _ = fit_and_test(table)
    named = {kind: name for name, kinds in DATASETS.items() for kind in kinds}
    unknown = sorted(set(table.kind.tolist()) - set(named))
    if unknown:
        raise OutcomesError(
            f"kinds: got {unknown}, expected some of {sorted(named)}; profile the task digits"
        )
    rng = np.random.default_rng(seed)
    kept = np.isin(table.sample_id, test.sample_id)
    for split, count in (("train", train), ("validation", train // 4)):
        rows = np.flatnonzero(np.isin(table.sample_id, fit.sample_id) & (table.split == split))
        kept[rng.permutation(rows)[:count]] = True
    table = table.select(kept)
    return replace(table, dataset=np.array([named[kind] for kind in table.kind.tolist()]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """The samples, and how policies are trained on them."""

    table: OutcomeTable
    latency: LatencyEstimator
    train: TrainOptions
    whole: Problem
    progress: Progress
    checkpoints: Path | None = None  # so that an interrupted benchmark goes on

    @classmethod
    def make(
        cls,
        table: OutcomeTable,
        latency: LatencyEstimator,
        train: TrainOptions,
        progress: Progress,
        checkpoints: Path | None = None,
    ) -> "Bench":
        """`latency`: one estimate for all rows, since times are known without labels."""
        whole = problem_of(table, latency)
        whole = whole.with_unit(whole.unit_ms)
        return cls(
            table=table,
            latency=latency,
            train=train,
            whole=whole,
            progress=progress,
            checkpoints=checkpoints,
        )

    def policy(self, name: str, rows: np.ndarray, **changes: Any) -> TrainedPolicy:
        """A policy trained on some samples with some options changed."""
        path = None if self.checkpoints is None else self.checkpoints / name
        options = replace(self.train, **changes)
        trained = train_controller_policy(self.table.select(rows), self.latency, options, checkpoint_dir=path)
        self.progress.advance()
        return trained

    def contender(self, policy: TrainedPolicy) -> Contender:
        """Who decides by a policy."""
        return policy_contender(policy.numpy_policy(), self.table.actions)

    def part(self, split: str, dataset: str | None = None) -> np.ndarray:
        """Indices of a split's samples, of one data set or all."""
        rows = self.table.split == split
        return np.flatnonzero(rows if dataset is None else rows & (self.table.dataset == dataset))


@dataclass(frozen=True, kw_only=True, slots=True)
class Policies:
    """What is trained on whole data sets; by data set where it was left out or is alone."""

    shared: TrainedPolicy
    without: Mapping[str, TrainedPolicy]
    alone: Mapping[str, TrainedPolicy]


def train_policies(bench: Bench) -> Policies:
    """One for all data sets, sampled evenly; one without each; one for each."""
    dataset = bench.table.dataset
    return Policies(
        shared=bench.policy("shared", np.full(len(dataset), True), balance="dataset"),
        without={
            name: bench.policy(f"without_{name}", dataset != name, balance="dataset") for name in DATASETS
        },
        alone={name: bench.policy(f"alone_{name}", dataset == name) for name in DATASETS},
    )


def limits_of(bench: Bench) -> Limits:
    """Budgets that all data sets are judged under."""
    positions = [position for part in POSITIONS.values() for position in part[1:]]
    return Limits(hard_ms=at(bench, positions), average_ms=[s * bench.whole.unit_ms for s in AVERAGE_SHARES])


def at(bench: Bench, positions: Any) -> list[float]:
    """Hard budgets in ms at positions in the range."""
    ranges = ranges_of(bench.whole.select(bench.part("train")))
    return [
        float(ranges.budget_low_ms * (ranges.budget_high_ms / ranges.budget_low_ms) ** p) for p in positions
    ]


def judged_datasets(
    bench: Bench, policies: Policies, draws: int
) -> tuple[list[dict[str, Reached]], list[dict]]:
    """Every contender on the test samples of each data set; what the adaptations did."""
    limits, parts, facts = limits_of(bench), [], []
    for name in DATASETS:
        test = bench.whole.select(bench.part("test", name))
        fit_rows = np.concatenate([bench.part("train", name), bench.part("validation", name)])
        found = bounds(bench.whole.select(fit_rows), test, limits)
        for row, policy in (
            ("zero-shot", policies.without[name]),
            ("shared", policies.shared),
            ("alone", policies.alone[name]),
        ):
            prices_on = bench.whole.select(bench.part("validation", name))
            found[row] = reached(bench.contender(policy), prices_on, test, limits)
        few: dict[str, list[Reached]] = {"few-shot": [], "from nothing": []}
        for draw in range(draws):
            rows = np.random.default_rng(draw).permutation(bench.part("train", name))[:LABELLED]
            samples = bench.whole.select(rows)
            adapted = adapt_policy(policies.without[name].numpy_policy(), samples, AdaptOptions(seed=draw))
            facts.append({"dataset": name, "draw": draw, "steps": adapted.facts["steps"]})
            few["few-shot"].append(reached(bench.contender(adapted), samples, test, limits))
            few["from nothing"].append(
                reached(bench.contender(from_nothing(bench, rows, f"{name}_{draw}")), samples, test, limits)
            )
        for row, repeats in few.items():
            found[row] = {mode: np.mean([one[mode] for one in repeats], axis=0) for mode in repeats[0]}
        parts.append(found)
    return parts, facts


def from_nothing(bench: Bench, rows: np.ndarray, name: str) -> TrainedPolicy:
    """Training from random weights on the labelled samples alone, some of them for stopping; small batches."""
    split = np.full(bench.table.samples, "", dtype="<U10")
    split[rows] = "train"
    split[rows[:HELD_FOR_STOPPING]] = "validation"
    alone = replace(bench, table=replace(bench.table, split=split))
    return alone.policy(f"nothing_{name}", np.isin(np.arange(len(split)), rows), batch_size=16)


def unseen_budgets(bench: Bench, algorithm: str, full: TrainedPolicy | None) -> dict[str, Any]:
    """Policies trained under some budgets against one trained under all, at the budgets that they did not see."""
    everybody = np.full(bench.table.samples, True)
    policies = {"all budgets": full or bench.policy(f"{algorithm}_all", everybody, algorithm=algorithm)}
    for name, text in RANGES.items():
        balance = "dataset" if full else None
        policies[name] = bench.policy(
            f"{algorithm}_{name}", everybody, algorithm=algorithm, budget_range=text, balance=balance
        )
    test = bench.whole.select(bench.part("test"))
    fit = bench.whole.select(np.concatenate([bench.part("train"), bench.part("validation")]))
    value = {}
    for where, positions in POSITIONS.items():
        limits = Limits(hard_ms=at(bench, positions))
        found = bounds(fit, test, limits)
        found |= {name: reached(bench.contender(p), fit, test, limits) for name, p in policies.items()}
        pairs = [(name, "all budgets") for name in RANGES]
        value[where] = compared(found, test.scene, pairs) | {
            "budgets_ms": list(limits.hard_ms),
            "unseen_by": [name for name, places in UNSEEN.items() if where in places],
        }
    return value


def run(bench: Bench, draws: int) -> dict[str, Any]:
    """The three tables."""
    bench.progress.start(1 + 2 * len(DATASETS) + len(DATASETS) * draws + 5, "training policies")
    policies = train_policies(bench)
    parts, facts = judged_datasets(bench, policies, draws)
    scene = np.concatenate([bench.whole.scene[bench.part("test", name)] for name in DATASETS])
    few = ("best_static", "oracle", "zero-shot", "few-shot", "from nothing", "shared")
    many = ("best_static", "oracle", "alone", "shared", "zero-shot")

    def table(names: tuple[str, ...], pairs: list[tuple[str, str]]) -> dict[str, Any]:
        chosen = [{name: part[name] for name in names} for part in parts]
        own = {
            name: compared(part, bench.whole.scene[bench.part("test", name)], pairs)
            for name, part in zip(DATASETS, chosen, strict=True)
        }
        return {"all": compared(stacked(chosen), scene, pairs)} | own

    return {
        "few_shot": table(
            few, [("few-shot", "zero-shot"), ("few-shot", "from nothing"), ("few-shot", "shared")]
        ),
        "adaptations": facts,
        "budgets": {
            "grpo_warm": unseen_budgets(bench, "grpo_warm", policies.shared),
            "grpo_scratch": unseen_budgets(bench, "grpo_scratch", None),
        },
        "multi_task": table(many, [("shared", "alone"), ("zero-shot", "shared")]),
    }


def main() -> None:
    """Write benchmarks/results/NAME.json and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("outcomes", type=Path, nargs="?", default=Path("runs/main_job/outcomes"))
    parser.add_argument("--train", type=int, default=4200, help="train samples, a fourth as many validation")
    parser.add_argument("--warm-epochs", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--draws", type=int, default=2, help="of the labelled samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoints", type=Path, help="directory from which an interrupted run goes on")
    parser.add_argument("--name", default="generalisation", help="of the result file")
    options = parser.parse_args()
    one_thread()
    profiled = read_table(options.outcomes)
    table = with_datasets(profiled, options.train, options.seed)
    train = TrainOptions(
        algorithm="grpo_warm", warm_epochs=options.warm_epochs, epochs=options.epochs, seed=options.seed
    )
    with Bar() as bar:
        bench = Bench.make(table, fit_latency(profiled), train, bar, options.checkpoints)
        value = run(bench, options.draws)
    counts = {
        name: {split: len(bench.part(split, name)) for split in ("train", "validation", "test")}
        for name in DATASETS
    }
    result = {
        "model": table.manifest.model,
        "task": table.manifest.task,
        "datasets": {name: {"kinds": list(DATASETS[name])} | counts[name] for name in DATASETS},
        "labelled": LABELLED,
        "draws": options.draws,
        "train": train.to_json(),
        "adapt": asdict(AdaptOptions()),
        "budget_ranges": RANGES,
        "positions": POSITIONS,
        **value,
    }
    path = write_result(options.name, result)
    print("\n".join(lines("1. A new data set, 50 labelled samples", value["few_shot"]["all"])))
    for algorithm, places in value["budgets"].items():
        for where, part in places.items():
            told = f"2. {algorithm}, {where} budgets, unseen by {' and '.join(part['unseen_by'])}"
            print("\n".join(lines(told, {"hard": part["hard"]})))
    print("\n".join(lines("3. One policy for all data sets, one for each", value["multi_task"]["all"])))
    print(path)


if __name__ == "__main__":
    main()
