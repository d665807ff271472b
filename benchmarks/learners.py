"""Every learner on the embedded model's outcomes: closed gaps, costs and the spread over seeds.

    python -m benchmarks.learners [OUTCOMES] [--seeds 5] [--processes 2]

OUTCOMES are those of `python -m benchmarks.main_job`, 7,000 questions x 64 configurations.
"""

import argparse
from pathlib import Path

from benchmarks.record import RESULTS, write_result
from paceline.cli.progress import Bar
from paceline.cli.threads import one_thread
from paceline.evaluation.compare import CompareOptions, compare
from paceline.evaluation.contest import ContestOptions
from paceline.learning.learners.registry import parse_learners
from paceline.outcomes.store import read_table

VIOLATION_RATE = 0.05


def main() -> None:
    """Write benchmarks/results/learners.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("outcomes", type=Path, nargs="?", default=Path("runs/main_job/outcomes"))
    parser.add_argument("--learners", default="all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    one_thread()
    options = CompareOptions(
        learners=parse_learners(arguments.learners),
        contest=ContestOptions(violation_rate=VIOLATION_RATE),
        processes=arguments.processes,
        seeds=arguments.seeds,
    )
    with Bar() as progress:
        value = compare(read_table(arguments.outcomes), options, progress)
    kept = ("samples", "learners", "stability", "overhead")
    result = {name: value[name] for name in kept if name in value}
    for mode in ("hard", "average"):
        section = value[mode]
        names = ("budgets_ms", "quantiles", "accuracy", "accuracy_ci", "closed_gaps")
        result[mode] = {name: section[name] for name in names}
    result["average"]["realised_share"] = value["average"]["realised_share"]
    result["judged"] = {
        name: value["provenance"][name] for name in ("model", "configurations", "tuning", "violation_rate")
    }
    print(write_result("learners", result).relative_to(RESULTS.parent))


if __name__ == "__main__":
    main()
