"""What each option about a policy's inputs is worth: one policy per option, judged beside the default.

Accuracy is the mean over six hard and six average budgets, on the same test samples. Differences are paired by sample,
means over the seeds of training, with bootstrap intervals over images; beside them the standard deviation over seeds,
which intervals do not hold. Feature sets that the outcomes lack are left out and listed. All kinds are equally frequent
in these questions, so balancing is judged on train samples where they are not (`uneven`), against the default on these;
kinds of question stand in for data sets. Where OUTCOMES does not exist it is made first, as by

    paceline profile tiny --task digits --out OUTCOMES --configurations 24 --samples 1500 --features-kept all
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.generalisation import DATASETS
from benchmarks.record import write_result
from paceline.cli.progress import Bar
from paceline.cli.threads import one_thread
from paceline.errors import OutcomesError
from paceline.evaluation.budget_grid import budget_grid
from paceline.evaluation.choices import priced
from paceline.evaluation.decision_cost import decision_overhead
from paceline.evaluation.metrics import sample_accuracy
from paceline.evaluation.pricing import one_hot
from paceline.evaluation.splits import fit_and_test
from paceline.evaluation.times import fit_latency
from paceline.learning.learners.policy_contender import policy_contender
from paceline.learning.options import TrainOptions
from paceline.learning.problem import problem_of
from paceline.learning.progress import Progress
from paceline.learning.train import train_controller_policy
from paceline.models.registry import load_model
from paceline.outcomes.bootstrap import SceneBootstrap, interval
from paceline.outcomes.store import read_table
from paceline.outcomes.table import OutcomeTable
from paceline.profiling.options import ProfileOptions
from paceline.profiling.sweep import profile
from paceline.tasks.registry import load_task

DEFAULT = "default"
MODES = ("hard", "average")
VIOLATION_RATE = 0.1
VARIANTS: dict[str, dict[str, str]] = {
    DEFAULT: {},
    "image: class token": {"image_features": "cls"},
    "image: statistics": {"image_features": "statistics"},
    "image: attention": {"image_features": "attention"},
    "question: first token": {"question_features": "first"},
    "question: attention": {"question_features": "attention"},
    "both: attention": {"image_features": "attention", "question_features": "attention"},
    "scaling: quantile": {"feature_scaling": "quantile"},
    "reduction: pca 32": {"reduce": "pca:32"},
    "reduction: learned 32": {"reduce": "learned:32"},
    "statistics, pca 64": {"image_features": "statistics", "reduce": "pca:64"},
    "budget: linear": {"budget_encoding": "linear"},
    "budget: share": {"budget_form": "share"},
    "budget: class": {"budget_form": "class"},
    "augment: noise 0.1": {"augment": "noise=0.1"},
    "augment: dropout 0.1": {"augment": "dropout=0.1"},
    "augment: mix 0.2": {"augment": "mix=0.2"},
    "balance: kind": {"balance": "kind"},
    "balance: data set": {"balance": "dataset"},
    "balance: budget": {"balance": "budget"},
}
"""Name -> fields of TrainOptions that differ from the default."""
UNEVEN = ("balance: kind", "balance: data set")
"""Variants that are judged on uneven train samples."""
RARE = ("looking", "sums")
"""Data sets of which one in `RARITY` train samples stays."""
RARITY = 8
CHOICES = ("image_features", "question_features")


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """One variant: per sample, kind of budget and seed, the mean accuracy over budgets."""

    accuracy: Mapping[str, np.ndarray]  # float64 (seeds, test samples) by mode
    parameters: int
    seconds: float
    decision: Mapping[str, Any] = field(default_factory=dict)


def uneven(table: OutcomeTable) -> OutcomeTable:
    """The table with kinds as data sets (`DATASETS`), and of those in `RARE` few train samples."""
    named = {kind: name for name, kinds in DATASETS.items() for kind in kinds}
    dataset = np.array([named[kind] for kind in table.kind.tolist()])
    rare = np.flatnonzero((table.split == "train") & np.isin(dataset, RARE))
    kept = np.full(table.samples, True)
    kept[rare] = np.random.default_rng(0).random(len(rare)) < 1.0 / RARITY
    return replace(table, dataset=dataset).select(kept)


def judge(
    path: Path, changes: Mapping[str, str], train: TrainOptions, seeds: Sequence[int], thinned: bool = False
) -> Judged:
    """Train with `changes` on the outcomes in `path` for every seed, and judge on the test split.

    `thinned`: on uneven train samples.

    Raises:
        OutcomesError: the directory does not hold the features.
    """
    table = read_table(path, **{name: changes[name] for name in CHOICES if name in changes})
    table = uneven(table) if thinned else table
    latency = fit_latency(table, violation_rate=VIOLATION_RATE)
    fit_table, test_table, _ = fit_and_test(table)
    fit, test = problem_of(fit_table, latency), problem_of(test_table, latency)
    unit_ms = fit.unit_ms
    fit, test = fit.with_unit(unit_ms), test.with_unit(unit_ms)
    validation = fit.select(fit_table.split == "validation")
    budgets_ms = budget_grid(fit.configuration_mean_ms, unit_ms)[0]
    accuracy: dict[str, list[np.ndarray]] = {mode: [] for mode in MODES}
    facts, decision = {}, {}
    for seed in seeds:
        trained = train_controller_policy(table, latency, replace(train, seed=seed, **dict(changes)))
        facts, policy = trained.facts, trained.numpy_policy()
        contender = policy_contender(policy, table.actions)
        shape = test.accuracy.shape
        hard = [one_hot(contender.choose(test, budget, 0.0), *shape) for budget in budgets_ms]
        choose = priced(contender, validation, test)
        average = [choose(budget) for budget in budgets_ms]
        for mode, parts in (("hard", hard), ("average", average)):
            accuracy[mode].append(np.mean([sample_accuracy(test, part) for part in parts], axis=0))
        decision = decision_overhead(policy, latency, test_table, budget_ms=budgets_ms[2], full_ms=unit_ms)
    return Judged(
        accuracy={mode: np.stack(rows) for mode, rows in accuracy.items()},
        parameters=facts["parameters"],
        seconds=facts["seconds"],
        decision=decision,
    )


def compared(found: Judged, default: Judged, bootstrap: SceneBootstrap) -> dict[str, Any]:
    """One variant's accuracy, and its difference to the default with interval and spread over seeds."""
    value: dict[str, Any] = {
        "parameters": found.parameters,
        "train_seconds": found.seconds,
        "decision_ms": found.decision.get("decision_ms_p50"),
        "decision_share_of_full": found.decision.get("share"),
    }
    for mode in MODES:
        difference = found.accuracy[mode] - default.accuracy[mode]
        low, high = interval(bootstrap.means(difference.mean(axis=0)))
        per_seed = difference.mean(axis=1)
        value[mode] = {
            "accuracy": float(found.accuracy[mode].mean()),
            "over_default": float(difference.mean()),
            "over_default_ci": [float(low), float(high)],
            "over_default_sd_of_seeds": float(per_seed.std(ddof=1)) if len(per_seed) > 1 else None,
        }
    return value


def ablate(
    path: Path, names: Sequence[str], train: TrainOptions, seeds: Sequence[int], progress: Progress
) -> dict[str, Any]:
    """Every variant in `names` against the default."""
    _, test_table, samples = fit_and_test(read_table(path))
    bootstrap = SceneBootstrap(test_table.image_hash, seed=0)
    progress.start(len(names) + 1, "training one policy per option")
    default = judge(path, VARIANTS[DEFAULT], train, seeds)
    progress.advance()
    uneven_default = None
    if set(names) & set(UNEVEN):
        uneven_default = judge(path, VARIANTS[DEFAULT], train, seeds, thinned=True)
    variants, left_out = {DEFAULT: compared(default, default, bootstrap)}, {}
    for name in names:
        if name != DEFAULT:
            try:
                thinned = name in UNEVEN
                found = judge(path, VARIANTS[name], train, seeds, thinned)
                beside = uneven_default if thinned and uneven_default is not None else default
                variants[name] = compared(found, beside, bootstrap)
            except OutcomesError as error:
                left_out[name] = str(error).removeprefix(f"{path}")
        progress.advance()
    return {"samples": samples, "variants": variants, "left_out": left_out}


def main() -> None:
    """Write benchmarks/results/NAME.json and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("outcomes", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--samples", type=int, default=1500, help="questions, where OUTCOMES is made first")
    parser.add_argument("--configurations", type=int, default=24, help="likewise")
    parser.add_argument("--quick", action="store_true", help="a few epochs of a small network: does it run?")
    parser.add_argument("--name", default="inputs_ablation", help="of the result file")
    options = parser.parse_args()
    one_thread()
    train = TrainOptions(algorithm="grpo_warm")
    if options.quick:
        train = TrainOptions(algorithm="grpo_warm", hidden=16, members=2, warm_epochs=2, epochs=1)
    with Bar() as bar:
        if not options.outcomes.exists():
            sweep = ProfileOptions(
                configurations=options.configurations, samples=options.samples, features_kept="all"
            )
            profile(load_model("tiny"), load_task("digits"), options.outcomes, sweep, bar)
        found = ablate(options.outcomes, options.variants, train, range(options.seeds), bar)
        manifest = read_table(options.outcomes).manifest
    value = {
        "model": manifest.model,
        "task": manifest.task,
        "outcomes": manifest.options,
        "train": train.to_json(),
        "seeds": options.seeds,
        "accuracy": "mean over 6 hard or 6 average budgets; over_default: paired by sample, intervals over images",
        "uneven": {"variants": UNEVEN, "rare": {name: DATASETS[name] for name in RARE}, "one_in": RARITY},
        "fields": {name: VARIANTS[name] for name in found["variants"]},
        **found,
    }
    path = write_result(options.name, value)
    for name, row in found["variants"].items():
        told = (
            f"{mode} {row[mode]['over_default']:+.4f} [{row[mode]['over_default_ci'][0]:+.4f}, "
            f"{row[mode]['over_default_ci'][1]:+.4f}]"
            for mode in MODES
        )
        print(f"{name:24} {';  '.join(told)};  decision {1000 * row['decision_ms']:.0f} us")
    for name, reason in found["left_out"].items():
        print(f"{name:24} left out: {reason}")
    print(path)


if __name__ == "__main__":
    main()
