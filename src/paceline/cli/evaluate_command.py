"""`paceline evaluate`: judge a controller on the test split of outcomes."""

from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.calibrate_command import ControllerArgument
from paceline.cli.output import AsJson, check_files, emit
from paceline.cli.routing_lines import routing_lines
from paceline.cli.train_command import OutcomesArgument

ReportOption = Annotated[Path | None, typer.Option(help="Also write the HTML report to this file.")]
ReplicatesOption = Annotated[int, typer.Option(help="Bootstrap replicates behind the intervals.")]

HardBudgets = Annotated[
    str | None,
    typer.Option(
        "--budgets-ms",
        help="Hard budgets separated by commas. Default: by quantiles of the configurations' latencies.",
    ),
]
AverageBudgets = Annotated[
    str | None, typer.Option("--average-budgets-ms", help="Average budgets separated by commas; likewise.")
]


def run(
    controller: ControllerArgument,
    outcomes: OutcomesArgument,
    report: ReportOption = None,
    budgets_ms: HardBudgets = None,
    average_budgets_ms: AverageBudgets = None,
    replicates: ReplicatesOption = 2000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Judge CONTROLLER on OUTCOMES beside static configurations, lookup, random and oracle."""
    from paceline.cli.progress import Bar
    from paceline.evaluation.budget_grid import parse_budgets
    from paceline.evaluation.contest import ContestOptions
    from paceline.evaluation.evaluate import evaluate_controller
    from paceline.report.html import write_report
    from paceline.report.tables import result_tables
    from paceline.report.theme import import_matplotlib
    from paceline.runtime.controller import Controller
    from paceline.runtime.recorded import check_features_of
    from paceline.workflows.reading import read_for
    from paceline.workflows.reporting import measured_latencies

    check_files(report)
    if report is not None:
        import_matplotlib()
    contest = ContestOptions(
        budgets_ms=parse_budgets("budgets_ms", budgets_ms),
        average_budgets_ms=parse_budgets("average_budgets_ms", average_budgets_ms),
        replicates=replicates,
        seed=seed,
    )
    loaded = Controller.load(controller)
    table = read_for(loaded, outcomes)
    known = loaded.provenance.get("profile") is not None  # else nobody knows whose features it reads
    if known and table.space == loaded.space:
        check_features_of(table, loaded)
    with Bar() as bar:
        results = evaluate_controller(loaded, table, contest, bar)
    if report is not None:
        results["report"] = str(
            write_report(results, report, latency_samples=measured_latencies(loaded, table, results))
        )
    emit(results, [*result_tables(results), *routing_lines(results)], as_json=as_json)
