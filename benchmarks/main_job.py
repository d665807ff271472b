"""The main job at full size: profile, train, compare and answer live on the embedded model, beside the promises.

The stages are those of `paceline demo` with more configurations and questions. An interrupted run goes on where its
profile stopped. `--ship` puts the trained controller into the package.
"""

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, without_release, write_result
from paceline.cli.progress import Bar
from paceline.cli.threads import one_thread
from paceline.learning.options import TrainOptions
from paceline.profiling.options import ProfileOptions
from paceline.report.plots import save_frontier
from paceline.workflows.demo import run_demo
from paceline.workflows.demo_options import DemoOptions

SHIPPED = Path("src/paceline/assets/controllers/tiny")
QUANTILES_HARD, QUANTILES_AVERAGE = (0.25, 0.5), (0.1, 0.25, 0.5)


def promises(results: dict[str, Any]) -> dict[str, Any]:
    """What the project promises of itself, as measured; nothing is judged here."""
    hard, average, live = results["hard"], results["average"], results["live"]

    def at(section: dict[str, Any], name: str, quantiles: tuple[float, ...]) -> list[Any]:
        return [section[name][section["quantiles"].index(quantile)] for quantile in quantiles]

    return {
        "hard_gain_points": at(hard, "gain", QUANTILES_HARD),
        "hard_gain_ci": at(hard, "gain_ci", QUANTILES_HARD),
        "hard_closed_gap_mean": hard["closed_gap_mean"],
        "hard_closed_gap_mean_ci": hard["closed_gap_mean_ci"],
        "hard_gain_over_lookup_ci": hard["gain_over_lookup_ci"],
        "hard_gain_over_supervised_ci": hard["gain_over_supervised_ci"],
        "hard_gain_over_outcome_ci": hard["gain_over_outcome_ci"],
        "average_gain_points": at(average, "gain", QUANTILES_AVERAGE),
        "average_gain_ci": at(average, "gain_ci", QUANTILES_AVERAGE),
        "average_gain_over_lookup_ci": average["gain_over_lookup_ci"],
        "average_gain_over_supervised_ci": average["gain_over_supervised_ci"],
        "average_gain_over_outcome_ci": average["gain_over_outcome_ci"],
        "latency_share_at_full_accuracy": results["latency_share_at_full_accuracy"],
        "live_violation_rate": live["hard"]["violation_rate"],
        "live_mean_over_average_budget": live["average"]["mean_latency_ms"] / live["average"]["budget_ms"],
        "overhead_share": results["overhead_share"],
    }


def main() -> None:
    """Write benchmarks/results/NAME.json, and the frontier plots of the README with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/main_job"))
    parser.add_argument("--configurations", type=int, default=64)
    parser.add_argument("--samples", type=int, default=7000)
    parser.add_argument("--timed-samples", type=int, default=120)
    parser.add_argument("--splits", type=float, nargs=3, default=(0.6, 0.1, 0.3))
    parser.add_argument("--batch-threads", type=int, default=2)
    parser.add_argument("--algorithm", default="grpo_warm", help="of the controller; grpo_warm's is shipped")
    parser.add_argument("--name", default="main_job", help="of the result file")
    parser.add_argument("--remark", default="", help="what a reader of the result must know")
    parser.add_argument("--ship", action="store_true", help=f"copy the controller to {SHIPPED}")
    options = parser.parse_args()
    one_thread()
    profile = ProfileOptions(
        configurations=options.configurations,
        samples=options.samples,
        timed_samples=options.timed_samples,
        splits=tuple(options.splits),
        importance_samples=0,  # the ranking that ships with the model, measured on 128 validation questions
        batch_threads=options.batch_threads,
    )
    with Bar() as bar:
        results = run_demo(
            options.out,
            replace(
                DemoOptions(replicates=2000),
                profile=profile,
                train=TrainOptions(algorithm=options.algorithm),
                rivals=("supervised", "outcome"),
            ),
            bar,
        )
    for section in results["live"].values():  # one number per request: in results.json of the run, not here
        for name in ("request_latency_ms", "request_budget_ms"):
            section.pop(name, None)
    for name in ("controller", "report"):
        results.pop(name)
    evaluation = results.pop("provenance")
    results["evaluation"] = evaluation | {"software": without_release(evaluation["software"])}
    kept = {"remark": options.remark, "promises": promises(results), **results}
    path = write_result(options.name, kept)
    for mode in ("hard", "average") if options.name == "main_job" else ():
        for theme in ("light", "dark"):
            save_frontier(results, RESULTS / f"frontier_{mode}_{theme}.svg", mode, theme)
    if options.ship:
        shutil.rmtree(SHIPPED, ignore_errors=True)
        shutil.copytree(options.out / "controller", SHIPPED)
    print(json.dumps(kept["promises"], indent=1))
    print(path)


if __name__ == "__main__":
    main()
