"""`paceline profile`: run samples under many configurations and keep accuracy and latency."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.knobs_command import ModelArgument
from paceline.cli.output import AsJson, emit


def run(
    model: ModelArgument,
    task: Annotated[
        str,
        typer.Option(
            help="The task that asks the questions: digits, folder:PATH (your images and questions), or vqav2, "
            "textvqa, okvqa, chartqa, docvqa, ai2d, scienceqa, mmmu, pope, each also from a local copy as NAME:PATH."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Outcomes directory; an interrupted sweep in it goes on.")],
    plan: Annotated[
        str,
        typer.Option(
            help="lhs (Latin hypercube), balanced (even grid), stratified (over latency), boundary (corners, then "
            "around the frontier), successive (few, then more where the frontier is unsure) or full."
        ),
    ] = "lhs",
    configurations: Annotated[
        int | None, typer.Option(help="How many to test, at most under successive; by default 48, or all.")
    ] = None,
    bound: Annotated[
        float | None,
        typer.Option(
            help="Plan successive stops when no step of the frontier may be higher; a fraction, by default 0.05."
        ),
    ] = None,
    scout_samples: Annotated[
        int | None,
        typer.Option(
            help="Training and validation questions by which stratified, boundary and successive choose; up to 240."
        ),
    ] = None,
    samples: Annotated[int, typer.Option(help="Questions in all splits together.")] = 400,
    timed_samples: Annotated[
        int | None, typer.Option(help="How many of them are also timed, one at a time; by default up to 96.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Timed calls of each sample and configuration.")] = 1,
    importance_samples: Annotated[
        int | None,
        typer.Option(
            help="Training questions on which blocks are ranked first; 0 keeps the model's own order. By default 32, "
            "or 0 for a model that comes with a measured order."
        ),
    ] = None,
    importance: Annotated[
        str,
        typer.Option(
            help="How blocks are ranked: loss (how much worse the known answers get without a block) or similarity "
            "(how little a block changes what enters it; one pass)."
        ),
    ] = "loss",
    shard_samples: Annotated[int, typer.Option(help="Samples per shard: what a kill can lose.")] = 48,
    features_kept: Annotated[
        str,
        typer.Option(
            help="Features beside the pooled ones that training may read: stored (none), pooled, or all (every token)."
        ),
    ] = "stored",
    seed: Annotated[int, typer.Option(help="Of samples, plan and order.")] = 0,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="exp6 or core_exp: also write OUT/FORMAT in that layout; repeat it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Profile MODEL on a task: outcomes of every sample under every planned configuration."""
    from paceline.cli.progress import Bar
    from paceline.cli.threads import one_thread
    from paceline.models.registry import load_model
    from paceline.outcomes.exporters.exporting import check_format, export_outcomes
    from paceline.profiling.options import ProfileOptions
    from paceline.profiling.sweep import profile
    from paceline.tasks.registry import load_task

    options = ProfileOptions(
        plan=plan,
        configurations=configurations,
        bound=bound,
        scout_samples=scout_samples,
        samples=samples,
        timed_samples=timed_samples,
        repeats=repeats,
        importance_samples=importance_samples,
        importance=importance,
        shard_samples=shard_samples,
        features_kept=features_kept,
        seed=seed,
    )
    asked = load_task(task)
    one_thread()
    with Bar() as bar:
        loaded = load_model(model)
        for name in formats or []:
            check_format(name, loaded.knobs)
        table = profile(loaded, asked, out, options, bar)
        exports = [export_outcomes(out, name) for name in dict.fromkeys(formats or [])]
    n, m = table.accuracy.shape
    value = {"outcomes": str(out), "samples": n, "configurations": m, "audit": table.manifest.audit}
    if exports:
        value["exports"] = [asdict(export) | {"path": str(export.path)} for export in exports]
    lines = [f"{n} samples x {m} configurations in {out}"]
    if options.adaptive:
        rounds = table.manifest.audit["plan"]["rounds"]
        lines.append(f"plan {plan}: {len(rounds) - 1} rounds, then {rounds[-1]['reason']}")
    for export in exports:
        lines.append(f"{export.files} {export.format} files in {export.path}; not in them:")
        lines += [f"  {line}" for line in export.left_out]
    emit(value, lines, as_json=as_json)
