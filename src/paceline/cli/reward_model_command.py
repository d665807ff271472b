"""`paceline reward-model`: fit a learned reward to scores or preferences."""

from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.output import AsJson, check_directories, emit


def run(
    examples: Annotated[
        Path,
        typer.Argument(
            metavar="EXAMPLES",
            help="A .csv or .parquet table of outcomes with scores, or of preferred and rejected outcomes.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Reward model directory to write.")],
    outcomes: Annotated[
        Path | None,
        typer.Option(
            help="Outcomes directory whose knobs the examples have; by default max_crops, top_k and "
            "num_active_blocks of MolmoE-1B."
        ),
    ] = None,
    score_loss: Annotated[
        str,
        typer.Option(help="squared (the mean of noisy scores) or absolute (finer where nothing is noise)."),
    ] = "squared",
    updates: Annotated[int | None, typer.Option(help="Of the weights.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Fit a reward model to EXAMPLES, for paceline train --reward learned --reward-model."""
    from dataclasses import replace

    from paceline.cli.progress import Bar
    from paceline.cli.threads import one_thread
    from paceline.knobs import SEED_SPACE
    from paceline.learning.reward_examples import read_reward_examples
    from paceline.learning.reward_fitting import RewardModelOptions, fit_reward_model
    from paceline.outcomes.store import read_manifest

    options = RewardModelOptions(score_loss=score_loss, seed=seed)
    if updates is not None:
        options = replace(options, updates=updates)
    check_directories(out)
    space = SEED_SPACE if outcomes is None else read_manifest(outcomes).space
    one_thread()
    with Bar() as bar:
        model = fit_reward_model(read_reward_examples(examples, space), options, bar)
    model.save(out)
    facts = model.facts
    source, kept = facts["source"], facts["validation_examples"]
    share = facts["r2"] if source == "scores" else facts["ordered"]
    quality = "nothing" if share is None else f"{share:.1%}"
    told = "of the variance" if source == "scores" else "of the preferences"
    text = f"{out}: fitted to {facts['examples']} {source}; explains {quality} {told} in {kept} kept aside"
    if share is not None and share <= (0.0 if source == "scores" else 0.5):
        text += ", no more than guessing: give more examples, or others"
    emit({"reward_model": str(out), "facts": dict(facts)}, [text], as_json=as_json)
