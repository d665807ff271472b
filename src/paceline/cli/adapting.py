"""`paceline train --from CONTROLLER`: few-shot adaptation."""

from pathlib import Path

from paceline.cli.output import check_controller_directory, emit
from paceline.cli.training_settings import with_settings


def adapt(
    outcomes: list[Path], start: str, out: Path, settings: list[str], seed: int, *, as_json: bool
) -> None:
    """Adapt the controller `start` to the outcomes and save it in `out`."""
    from paceline.cli.threads import one_thread
    from paceline.learning.adaptation import AdaptOptions
    from paceline.outcomes.combining import combine_tables
    from paceline.runtime.controller import Controller
    from paceline.workflows.adapting import adapt_controller
    from paceline.workflows.reading import read_for

    options = with_settings(AdaptOptions(seed=seed), settings)
    check_controller_directory(out)
    controller = Controller.load(start)
    tables = [read_for(controller, path) for path in outcomes]
    one_thread()
    trained = adapt_controller(controller, combine_tables(tables, [str(path) for path in outcomes]), options)
    trained.controller.save(out)
    facts = trained.policy.facts
    text = (
        f"{out}: {start} adapted to {facts['samples']['train']} labelled samples by {facts['steps']} updates "
        f"in {facts['seconds']:.0f} s"
    )
    if not facts["steps"] and facts["held_out_rewards"]:
        text += "; on held-out samples it did best as it was"
    emit({"controller": str(out), "facts": facts}, [text], as_json=as_json)
