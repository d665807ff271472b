"""`paceline compare`: every learner and baseline on the same splits."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paceline.cli.evaluate_command import AverageBudgets, HardBudgets, ReplicatesOption, ReportOption
from paceline.cli.output import AsJson, check_directories, check_files, emit, to_json
from paceline.cli.routing_lines import routing_lines
from paceline.cli.train_command import OutcomesArgument
from paceline.cli.training_settings import SettingsOption, with_settings

if TYPE_CHECKING:
    from paceline.learning.options import TrainOptions


def run(
    outcomes: OutcomesArgument,
    out: Annotated[Path | None, typer.Option(help="Also write the results to this JSON file.")] = None,
    report: ReportOption = None,
    plots: Annotated[
        Path | None, typer.Option(help="Also write plots (SVG) and learners.csv into this directory.")
    ] = None,
    learners: Annotated[
        str,
        typer.Option(
            "--learners", "--algorithms", help="Names separated by commas, or all (docs/learners.md)."
        ),
    ] = "grpo,grpo_teacher,stacking,grpo_scratch,supervised",
    cross_validate: Annotated[
        str | None,
        typer.Option(
            help="Judge by folds: their number, fold (as imported by --split) or dataset (leave one out)."
        ),
    ] = None,
    processes: Annotated[int, typer.Option(help="Learners trained at the same time.")] = 1,
    seeds: Annotated[int, typer.Option(help="Runs of every learner, for the spread over seeds.")] = 1,
    settings: SettingsOption = None,
    violation_rate: Annotated[
        float, typer.Option(help="Share of requests that may exceed a hard budget.")
    ] = 0.05,
    budgets_ms: HardBudgets = None,
    average_budgets_ms: AverageBudgets = None,
    replicates: ReplicatesOption = 2000,
    seed: Annotated[int, typer.Option(help="Of training and bootstrap.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train every learner on OUTCOMES and judge them beside the baselines, with intervals."""
    from paceline.cli.progress import Bar
    from paceline.cli.threads import one_thread
    from paceline.evaluation.budget_grid import parse_budgets
    from paceline.evaluation.compare import CompareOptions, compare
    from paceline.evaluation.contest import ContestOptions
    from paceline.evaluation.cross_validation import cross_validate_learners, parse_folds
    from paceline.learning.learners.registry import parse_learners
    from paceline.outcomes.store import read_table
    from paceline.report.html import write_report
    from paceline.report.learner_plots import save_learner_plots
    from paceline.report.standings import write_standings
    from paceline.report.tables import result_tables
    from paceline.report.theme import import_matplotlib

    if report is not None or plots is not None:
        import_matplotlib()
    names = parse_learners(learners)
    options = CompareOptions(
        learners=names,
        train=_options(names, seed, settings or []),
        contest=ContestOptions(
            budgets_ms=parse_budgets("budgets_ms", budgets_ms),
            average_budgets_ms=parse_budgets("average_budgets_ms", average_budgets_ms),
            violation_rate=violation_rate,
            replicates=replicates,
            seed=seed,
        ),
        processes=processes,
        seeds=seeds,
    )
    check_files(out, report)
    check_directories(plots)
    table = read_table(outcomes, **options.train.feature_choice)
    one_thread()
    with Bar() as bar:
        if cross_validate is None:
            results = compare(table, options, bar)
        else:
            results = cross_validate_learners(table, options, parse_folds(cross_validate), bar)
    if report is not None:
        trained = results.get("training", {})
        history = next((trained[name]["history"] for name in options.learners if name in trained), [])
        results["report"] = str(write_report(results, report, training_history=history))
    if plots is not None:
        results["plots"] = [str(path) for path in save_learner_plots(results, plots)]
        results["table"] = str(write_standings(results, plots / "learners.csv"))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(to_json(results) + "\n")
    emit(results, [*result_tables(results), *routing_lines(results)], as_json=as_json)


def _options(learners: tuple[str, ...], seed: int, settings: list[str]) -> "TrainOptions":
    """Options of training for these learners; TrainError for one that none of them reads."""
    from paceline.learning.learners.registry import NETWORKS
    from paceline.learning.options import TrainOptions
    from paceline.learning.unread_options import refuse_unread

    network = next((name for name in learners if name in NETWORKS), None)
    options = with_settings(TrainOptions(algorithm=network or "grpo", seed=seed), settings)
    if network is None:
        refuse_unread(options)
    return options
