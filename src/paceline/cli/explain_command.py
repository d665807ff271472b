"""`paceline explain`: what a controller chooses for which questions and budgets, and by which inputs."""

from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.calibrate_command import ControllerArgument
from paceline.cli.evaluate_command import AverageBudgets, HardBudgets
from paceline.cli.output import AsJson, check_files, emit
from paceline.cli.train_command import OutcomesArgument


def run(
    controller: ControllerArgument,
    outcomes: OutcomesArgument,
    split: Annotated[str, typer.Option(help="Samples to explain: train, validation or test.")] = "test",
    report: Annotated[Path | None, typer.Option(help="Also write an HTML report to this file.")] = None,
    budgets_ms: HardBudgets = None,
    average_budgets_ms: AverageBudgets = None,
    samples: Annotated[int, typer.Option(help="Samples at most, drawn at random.")] = 2000,
    permutations: Annotated[int, typer.Option(help="Of features among samples, per group of inputs.")] = 5,
    replicates: Annotated[int, typer.Option(help="Bootstrap replicates behind the intervals.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the samples, the permutations and the bootstrap.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Show what CONTROLLER chooses on the samples of OUTCOMES, which inputs matter, and a tree that imitates it."""
    from paceline.cli.progress import Bar
    from paceline.evaluation.budget_grid import parse_budgets
    from paceline.report.explanation_tables import explanation_parts
    from paceline.runtime.controller import Controller
    from paceline.workflows.explaining import ExplainOptions, explain_controller
    from paceline.workflows.reading import read_for

    check_files(report)
    options = ExplainOptions(
        split=split,
        budgets_ms=parse_budgets("budgets_ms", budgets_ms),
        average_budgets_ms=parse_budgets("average_budgets_ms", average_budgets_ms),
        samples=samples,
        permutations=permutations,
        replicates=replicates,
        seed=seed,
    )
    if report is not None:
        from paceline.report.theme import import_matplotlib

        import_matplotlib()
    loaded = Controller.load(controller)
    table = read_for(loaded, outcomes)
    with Bar() as bar:
        value = explain_controller(loaded, table, options, bar)
    if report is not None:
        from paceline.report.explanation_page import write_explanation

        value["report"] = str(write_explanation(value, report))
    emit(value, explanation_parts(value), as_json=as_json)
