"""`paceline compare`: every learner and baseline on the same splits."""

from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.evaluate_command import ReplicatesOption, ReportOption
from paceline.cli.output import AsJson, check_writable, emit, to_json
from paceline.cli.train_command import OutcomesArgument
from paceline.cli.training_settings import SettingsOption, with_settings


def run(
    outcomes: OutcomesArgument,
    out: Annotated[Path | None, typer.Option(help="Also write the results to this JSON file.")] = None,
    report: ReportOption = None,
    algorithms: Annotated[
        str, typer.Option(help="Learners of paceline train, separated by commas.")
    ] = "grpo,supervised",
    settings: SettingsOption = None,
    violation_rate: Annotated[
        float, typer.Option(help="Share of requests that may exceed a hard budget.")
    ] = 0.05,
    replicates: ReplicatesOption = 2000,
    seed: Annotated[int, typer.Option(help="Of training and bootstrap.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train every learner on OUTCOMES and judge them beside the baselines, with intervals."""
    from paceline.cli.progress import Bar
    from paceline.cli.threads import one_thread
    from paceline.evaluation.compare import CompareOptions, compare
    from paceline.evaluation.contest import ContestOptions
    from paceline.learning.options import TrainOptions
    from paceline.outcomes.store import read_table
    from paceline.report.html import write_report
    from paceline.report.tables import result_tables
    from paceline.report.theme import import_matplotlib

    if report is not None:
        import_matplotlib()
    names = tuple(name.strip() for name in algorithms.split(","))
    for name in names:  # an unknown learner is refused before the known ones are trained
        TrainOptions(algorithm=name)
    options = CompareOptions(
        algorithms=names,
        train=with_settings(TrainOptions(seed=seed), settings or []),
        contest=ContestOptions(violation_rate=violation_rate, replicates=replicates, seed=seed),
    )
    check_writable(out, report)
    table = read_table(outcomes)
    one_thread()
    with Bar() as bar:
        results = compare(table, options, bar)
    if report is not None:
        history = results["training"][options.algorithms[0]]["history"]
        results["report"] = str(write_report(results, report, training_history=history))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(to_json(results) + "\n")
    emit(results, result_tables(results), as_json=as_json)
