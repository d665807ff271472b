"""Every learner on outcome tables that this project did not make: ASlib scenarios and RouteLLM's judged answers.

    python -m benchmarks.real_tables DATA --seeds 3 [--only NAME] [--learners all] [--processes 2]
    python -m benchmarks.real_tables DATA --seeds 3 --only NAME --learners grpo,lightgbm --again

With --again the named learners are judged anew, and the others' rows stay as they were in the result file: learners do
not see each other, and seeds, folds and draws are the same. `judged` of a table says at which commit rows were made.

DATA holds `aslib/S.{outcomes,features}.parquet` (own folds, column fold) and `routellm/{outcomes,samples}.parquet`
(judged by 5 folds). Nothing of them is kept but numbers. Tables that are finished under `--work` are not judged again.
Published numbers stand beside ours, from those papers' own runs.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.record import RESULTS, commit, hardware, write_result
from benchmarks.standing import markdown, standing
from paceline.cli.progress import Bar
from paceline.cli.threads import one_thread
from paceline.evaluation import routing
from paceline.evaluation.compare import CompareOptions
from paceline.evaluation.contest import ContestOptions
from paceline.evaluation.cross_validation import cross_validate_learners
from paceline.learning.learners.registry import parse_learners
from paceline.outcomes.importers.importing import import_outcomes
from paceline.outcomes.importers.options import ImportOptions, TableOptions
from paceline.outcomes.store import read_table
from paceline.outcomes.table import OutcomeTable

NAME = "real_tables"
SCENARIOS = ("QBF-2011", "MAXSAT12-PMS", "CSP-2010", "CPMP-2015")
TASKS = ("mmlu", "gsm8k")
PRICES = {"mistralai/Mixtral-8x7B-Instruct-v0.1": 0.24, "gpt-4-1106-preview": 24.7}
"""Dollars per million tokens, as the RouteLLM paper states them (section 5)."""
PUBLISHED: dict[str, dict[str, Any]] = {
    "QBF-2011": {"PAReg": 0.80, "SATzilla'11": 0.85, "SUNNY": 0.78, "ISAC": 0.67, "Run2Survive": 0.81}
    | {"AutoFolio 2015": 0.88, "Zilla 2015": 0.86, "ASAP_RF 2015": 0.93},
    "MAXSAT12-PMS": {"PAReg": 0.74, "SATzilla'11": 0.76, "SUNNY": 0.72, "ISAC": 0.51, "Run2Survive": 0.73}
    | {"AutoFolio 2015": 0.76, "Zilla 2015": 0.78, "ASAP_RF 2015": 0.83},
    "CSP-2010": {"PAReg": 0.64, "SATzilla'11": 0.76, "SUNNY": 0.66, "ISAC": 0.63, "Run2Survive": 0.76}
    | {"AutoFolio 2015": 0.68, "Zilla 2015": 0.72, "ASAP_RF 2015": 0.80},
    "CPMP-2015": {"PAReg": 0.12, "SATzilla'11": 0.15, "SUNNY": 0.01, "ISAC": 0.02, "Run2Survive": 0.19},
    "routellm-mmlu": {"best of RouteLLM's routers, not trained in-domain": {"APGR": 0.603, "CPT50": 0.354}},
}
"""PAR10 closed gaps (arXiv 2007.02816; 2015 challenge: arXiv 1805.01214, approximate), and APGR (arXiv 2406.18665)."""


def aslib_table(data: Path, scenario: str, work: Path) -> OutcomeTable:
    """A scenario as `paceline import` reads it."""
    features = data / "aslib" / f"{scenario}.features.parquet"
    names = [name for name in pq.read_schema(features).names if name[0] == "f" and name[1:].isdigit()]
    columns = TableOptions(
        sample="sample_id",
        knobs=("config",),
        quality="solved",
        latency="seconds:runtime_s",
        features_table=str(features),
        features=tuple(names),
        split="fold:test=1,validation=2",
    )
    path = data / "aslib" / f"{scenario}.outcomes.parquet"
    return imported(path, work / scenario, ImportOptions(table=columns, latency_unknown=True))


def router_table(data: Path, task: str, work: Path) -> OutcomeTable:
    """The questions of one task under both models, at fixed prices per call."""
    samples = pq.read_table(data / "routellm" / "samples.parquet")
    kept = samples.filter([value.split("/")[0] == task for value in samples["task"].to_pylist()])
    outcomes = pq.read_table(data / "routellm" / "outcomes.parquet")
    named = set(kept["sample_id"].to_pylist())
    rows = outcomes.filter([value in named for value in outcomes["sample_id"].to_pylist()])
    work.mkdir(parents=True, exist_ok=True)
    pq.write_table(kept, work / f"{task}.samples.parquet")
    pq.write_table(rows, work / f"{task}.outcomes.parquet")
    columns = TableOptions(
        sample="sample_id",
        knobs=("config",),
        quality="score",
        cost="usd:" + ",".join(f"{model}={price / 1000}" for model, price in PRICES.items()),
        features_table=str(work / f"{task}.samples.parquet"),
        question="prompt",
        kind="task",
        group="prompt",
    )
    return imported(work / f"{task}.outcomes.parquet", work / task, ImportOptions(table=columns))


def imported(path: Path, out: Path, options: ImportOptions) -> OutcomeTable:
    """The outcomes directory of a table, made where it is not there yet."""
    if not (out / "manifest.json").exists():
        import_outcomes([path], out, options)
    return read_table(out)


def judged_scenario(table: OutcomeTable, options: CompareOptions, progress: Bar) -> dict[str, Any]:
    """PAR10 and deadlines, by the scenario's own folds."""
    value = cross_validate_learners(table, options, "fold", progress)
    return {
        "par10_s": value["par10"]["par10_s"],
        "closed_gaps": {"par10": value["par10"]["closed_gaps"], "deadlines": value["hard"]["closed_gaps"]},
        "deadlines_ms": value["hard"]["budgets_ms"],
        "accuracy": value["hard"]["accuracy"],
        "learners": value["learners"],
        "stability": value.get("stability"),
    }


def judged_router(table: OutcomeTable, options: CompareOptions, progress: Bar) -> dict[str, Any]:
    """Cost budgets on the mean, by 5 folds, as closed gaps and as APGR and CPT."""
    costs, means = table.latency_ms.mean(axis=0), table.accuracy.mean(axis=0)
    budgets = routing.share_budgets(float(costs.min()), float(costs.max()))
    contest = ContestOptions(
        budgets_ms=(float(costs.max()),),
        average_budgets_ms=budgets,
        replicates=options.contest.replicates,
    )
    judged = CompareOptions(
        learners=options.learners,
        train=options.train,
        contest=contest,
        processes=options.processes,
        seeds=options.seeds,
    )
    value = cross_validate_learners(table, judged, 5, progress)
    return {
        "routers": value["routing"],
        "models": {"cheap": float(means[costs.argmin()]), "dear": float(means[costs.argmax()])},
        "closed_gaps": {"average": value["average"]["closed_gaps"]},
        "realised_share": value["average"]["realised_share"],
        "learners": value["learners"],
        "stability": value.get("stability"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", action="append", help="a table; may be repeated")
    parser.add_argument("--learners", default="all")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1, help="judged are means over as many runs")
    parser.add_argument("--replicates", type=int, default=2000)
    parser.add_argument("--work", type=Path, default=Path("runs/real_tables"))
    parser.add_argument("--again", action="store_true", help="replace the rows of these learners alone")
    arguments = parser.parse_args()
    one_thread()
    options = CompareOptions(
        learners=parse_learners(arguments.learners),
        contest=ContestOptions(replicates=arguments.replicates),
        processes=arguments.processes,
        seeds=arguments.seeds,
    )
    arguments.work.mkdir(parents=True, exist_ok=True)
    every = [*SCENARIOS, *(f"routellm-{task}" for task in TASKS)]
    names = arguments.only or every
    known = rows_of_before(arguments.seeds) if arguments.again else {}
    with Bar() as progress:
        for name in names:
            done = arguments.work / f"{name}.{arguments.seeds}{'.again' if arguments.again else ''}.json"
            if done.exists():
                continue
            if name in SCENARIOS:
                value = judged_scenario(aslib_table(arguments.data, name, arguments.work), options, progress)
            else:
                table = router_table(arguments.data, name.removeprefix("routellm-"), arguments.work)
                value = judged_router(table, options, progress)
            value |= {
                "published": PUBLISHED.get(name, {}),
                "judged": dict.fromkeys(value["learners"], f"{commit()}, {hardware()['processor']}"),
            }
            done.write_text(json.dumps(beside(known[name], value) if arguments.again else value))
    ending = ".again.json" if arguments.again else ".json"
    tables = known | {
        name: json.loads((arguments.work / f"{name}.{arguments.seeds}{ending}").read_text()) for name in names
    }
    gaps = all_gaps(tables)
    print(markdown(gaps))
    result = {"seeds": arguments.seeds, "tables": tables, "standing": standing(gaps)}
    print(write_result(NAME, result).relative_to(RESULTS.parent))


def rows_of_before(seeds: int) -> dict[str, Any]:
    """The tables of the result file, which must be of as many seeds."""
    value = json.loads((RESULTS / f"{NAME}.json").read_text())
    if value["seeds"] != seeds:
        raise SystemExit(f"--seeds: got {seeds}, but the rows that would stay are of {value['seeds']} seeds")
    return value["tables"]


def beside(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The tables and lists of `old` with what `new` says: rows of contenders that it has not stay.

    >>> beside({"gaps": {"knn": 1, "ppo": 2}, "folds": 5}, {"gaps": {"ppo": 3}, "folds": 5})
    {'gaps': {'knn': 1, 'ppo': 3}, 'folds': 5}
    """
    mixed = dict(old)
    for name, value in new.items():
        both = isinstance(value, dict) and isinstance(old.get(name), dict)
        mixed[name] = beside(old[name], value) if both else value
    return mixed


def all_gaps(tables: dict[str, Any]) -> dict[str, Any]:
    """Closed gaps by table and kind of budget, with those of the embedded model's table where they were measured.

    Those are means over seeds too, where training was repeated.
    """
    gaps = {
        f"{name}, {kind}": values
        for name, table in tables.items()
        for kind, values in table["closed_gaps"].items()
    }
    embedded = RESULTS / "learners.json"
    if embedded.exists():
        measured = json.loads(embedded.read_text())
        stability = measured.get("stability") or {}
        over_seeds = stability.get("over_seeds", {})
        gaps |= {
            f"embedded, {kind}": over_seeds.get(kind, measured[kind]["closed_gaps"])
            for kind in ("hard", "average")
        }
    return gaps


if __name__ == "__main__":
    main()
