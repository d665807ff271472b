"""`paceline demo`: the whole product on the embedded model."""

from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.output import AsJson, check_directories, emit


def run(
    out: Annotated[Path, typer.Option(help="Directory of everything the demo writes.")] = Path("runs/demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A tenth of the work: shows the way, not the gain.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of questions, plan, training and budgets.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Profile the embedded model here, train, compare, answer live under budgets, and write a report."""
    from paceline.cli.progress import Bar
    from paceline.cli.threads import one_thread
    from paceline.report.tables import result_tables
    from paceline.workflows.demo import run_demo
    from paceline.workflows.demo_options import DemoOptions

    check_directories(out)
    one_thread()
    with Bar() as bar:
        results = run_demo(out, DemoOptions.quick(seed) if quick else DemoOptions(seed=seed), bar)
    closing = (
        f"overhead {results['overhead_share']:.2%} of the full configuration's latency; "
        f"{sum(results['seconds'].values()):.0f} s in all; report: {results['report']}"
    )
    emit(results, [*result_tables(results, results["live"]), closing], as_json=as_json)
