"""What each plan of `paceline profile` loses against testing everything, and what it saves.

A smaller knob space of the embedded model is profiled in full, once (an interrupted run goes on). Every plan is then
replayed on that table: it gets the outcomes of the configurations it asks for and no others, a controller is trained
on them, and all controllers are judged on the same test samples, against the best static configuration and the oracle
of the whole space. Seeds change the split by image, the plan's own draws and the training, together.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import RESULTS, write_result
from benchmarks.sampling_plans_judge import MODES, VIOLATION_RATE, Judge
from benchmarks.sampling_plans_plot import save_plot
from paceline.cli.progress import Bar
from paceline.cli.threads import one_thread
from paceline.evaluation.splits import resplit
from paceline.evaluation.times import fit_latency
from paceline.knobs import Knob, KnobSpace
from paceline.learning.learners.policy_contender import policy_scorer
from paceline.learning.options import TrainOptions
from paceline.learning.progress import Progress
from paceline.learning.train import train_controller_policy
from paceline.models.molmoe.elastic import ElasticMolmoE
from paceline.models.registry import load_model
from paceline.outcomes.table import OutcomeTable
from paceline.profiling.options import DEFAULT_SCOUT_SAMPLES, ProfileOptions
from paceline.profiling.plans import plan_actions
from paceline.profiling.rounds import next_round
from paceline.profiling.scouted import Scouted
from paceline.profiling.sweep import profile
from paceline.tasks.registry import load_task

SPACE = KnobSpace(
    (
        Knob(name="max_crops", options=(1, 2, 4, 12)),
        Knob(name="top_k", options=(4, 8, 16, 32)),
        Knob(name="num_active_blocks", options=(8, 10, 13, 16)),
    )
)
COUNTED = ("lhs", "balanced", "stratified", "boundary")
SPLITS = (0.45, 0.15, 0.40)


def full_table(out: Path, samples: int, timed_samples: int, bar: Progress) -> OutcomeTable:
    """Every configuration of `SPACE` on every sample."""
    tiny = load_model("tiny")
    assert isinstance(tiny, ElasticMolmoE)
    model = ElasticMolmoE(
        tiny.model, name="tiny", knobs=SPACE, block_ranking=tiny.block_ranking, revision=tiny.revision
    )
    options = ProfileOptions(
        plan="full",
        samples=samples,
        timed_samples=timed_samples,
        splits=SPLITS,
        importance_samples=0,  # the ranking that ships with the model
    )
    return profile(model, load_task("digits"), out, options, bar)


def columns_of(table: OutcomeTable, actions: np.ndarray) -> OutcomeTable:
    """The table as if only these configurations had been tested."""
    columns = np.searchsorted(table.actions, actions)
    cells = {
        name: getattr(table, name)[:, columns]
        for name in (
            "accuracy",
            "latency_ms",
            "first_token_ms",
            "tiles",
            "vision_tokens",
            "prompt_tokens",
            "output_tokens",
        )
    }
    return dataclasses.replace(table, actions=actions, **cells)


def replay(table: OutcomeTable, options: ProfileOptions) -> tuple[np.ndarray, list[str]]:
    """The configurations that a plan tests when the model answers as the table says, and why its rounds ended."""
    if not options.adaptive:
        return plan_actions(table.space, options.plan, options.configurations, options.seed), []
    fit = np.flatnonzero(table.split != "test")
    timed = np.isfinite(table.latency_ms[fit]).all(axis=1)
    order = np.argsort(~timed, kind="stable")  # few samples are timed here: all of them scout
    scouts = table.select(fit[order][:DEFAULT_SCOUT_SAMPLES])
    tested, scouted, reasons = np.zeros(0, np.int64), None, []
    while True:
        chosen = next_round(table.space, options, scouted)
        reasons.append(chosen.reason)
        if not len(chosen.actions):
            return tested, reasons
        tested = np.union1d(tested, chosen.actions)
        part = columns_of(scouts, tested)
        scouted = Scouted(
            space=part.space,
            actions=tested,
            accuracy=part.accuracy,
            latency_ms=part.latency_ms,
            scene=part.image_hash,
        )


def contenders(counts: Sequence[int], bounds: Sequence[float], seed: int) -> dict[str, ProfileOptions]:
    """Name -> options of every replayed plan."""
    plans = {
        f"{plan} {count}": ProfileOptions(plan=plan, configurations=count, seed=seed)
        for plan in COUNTED
        for count in counts
    }
    plans |= {
        f"successive {bound:g}": ProfileOptions(
            plan="successive", bound=bound, configurations=SPACE.size, seed=seed
        )
        for bound in bounds
    }
    return plans | {"full": ProfileOptions(plan="full", seed=seed)}


def judge_plan(judge: Judge, options: ProfileOptions, train: TrainOptions) -> dict[str, Any]:
    """One plan at one seed: what it tested, what that costs, how good its controller is."""
    actions, reasons = replay(judge.table, options)
    seen = columns_of(judge.table, actions)
    latency = fit_latency(seen, violation_rate=VIOLATION_RATE)
    policy = train_controller_policy(seen, latency, train).numpy_policy()
    accuracy = judge.accuracy(policy_scorer(policy, judge.table.actions))
    return {
        "configurations": len(actions),
        "share_of_outcomes": len(actions) / SPACE.size,
        "share_of_time": judge.time_share(actions),
        "rounds": max(1, len(reasons) - 1),
        "ended": reasons[-1] if reasons else "",
        "closed_gap": judge.closed_gap(accuracy),
        "accuracy": {mode: values.tolist() for mode, values in accuracy.items()},
    }


def over_lhs(results: Mapping[str, Sequence[Mapping[str, Any]]], name: str, mode: str) -> list[float]:
    """Closed gap less that of lhs with as many configurations (interpolated between its counts), seed by seed."""
    known = [rows for other, rows in results.items() if other.startswith(("lhs ", "full"))]
    found = []
    for seed, row in enumerate(results[name]):
        points = sorted((rows[seed]["configurations"], rows[seed]["closed_gap"][mode]) for rows in known)
        at_lhs = np.interp(row["configurations"], *np.array(points).T)
        found.append(row["closed_gap"][mode] - float(at_lhs))
    return found


def summary(results: Mapping[str, Sequence[Mapping[str, Any]]], name: str) -> dict[str, Any]:
    """Mean and standard deviation over seeds of one plan's cost and closed gap."""
    rows = results[name]
    value: dict[str, Any] = {
        key: spread([row[key] for row in rows])
        for key in ("configurations", "share_of_outcomes", "share_of_time", "rounds")
    }
    for mode in MODES:
        value[f"closed_gap_{mode}"] = spread([row["closed_gap"][mode] for row in rows])
        difference = spread(over_lhs(results, name, mode))
        value[f"over_lhs_{mode}"] = {
            "mean": difference["mean"],
            "standard_error": difference["sd"] / len(rows) ** 0.5,
        }
    return value


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and standard deviation."""
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}


def main() -> None:
    """Write benchmarks/results/sampling_plans.json and its plots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/sampling_plans"))
    parser.add_argument("--samples", type=int, default=700)
    parser.add_argument("--timed-samples", type=int, default=48)
    parser.add_argument("--counts", type=int, nargs="+", default=(10, 16, 28))
    parser.add_argument("--bounds", type=float, nargs="+", default=(0.2, 0.1, 0.06))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--algorithm", default="grpo")
    options = parser.parse_args()
    one_thread()
    results: dict[str, list[dict[str, Any]]] = {}
    with Bar() as bar:
        table = full_table(options.out / "outcomes", options.samples, options.timed_samples, bar)
        plans = [contenders(options.counts, options.bounds, seed) for seed in range(options.seeds)]
        bar.start(options.seeds * len(plans[0]), "replaying plans")
        for seed, by_name in enumerate(plans):
            judge = Judge(resplit(table, SPLITS, seed))
            train = TrainOptions(algorithm=options.algorithm, seed=seed)
            for name, plan in by_name.items():
                results.setdefault(name, []).append(judge_plan(judge, plan, train))
                bar.advance()
    value = {
        "space": SPACE.to_json(),
        "samples": len(table.sample_id),
        "timed_samples": table.manifest.audit["timed_samples"],
        "model": table.manifest.model,
        "violation_rate": VIOLATION_RATE,
        "seeds": options.seeds,
        "algorithm": options.algorithm,
        "closed_gap": "(controller - best static) / (oracle - best static), means over 6 budgets, of the whole space",
        "plans": {name: summary(results, name) for name in results},
        "runs": results,
    }
    path = write_result("sampling_plans", value)
    for theme in ("light", "dark"):
        save_plot(value["plans"], RESULTS / f"sampling_plans_{theme}.svg", theme)
    for name, row in value["plans"].items():
        told = (
            f"{mode} {row[f'closed_gap_{mode}']['mean']:.3f}, {row[f'over_lhs_{mode}']['mean']:+.3f} "
            f"+- {row[f'over_lhs_{mode}']['standard_error']:.3f} over lhs"
            for mode in MODES
        )
        print(f"{name:16} {row['configurations']['mean']:5.1f} of {SPACE.size};  {';  '.join(told)}")
    print(path)


if __name__ == "__main__":
    main()
