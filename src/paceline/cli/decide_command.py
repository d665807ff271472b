"""`paceline decide`: which configuration a request would get, and why."""

from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.calibrate_command import ControllerArgument
from paceline.cli.output import AsJson, emit, say


def run(
    controller: ControllerArgument,
    image: Annotated[Path, typer.Option(help="Image file.")],
    prompt: Annotated[str, typer.Option(help="The question.")],
    budget_ms: Annotated[float | None, typer.Option(help="Hard limit of the whole call, in ms.")] = None,
    first_token_budget_ms: Annotated[
        float | None, typer.Option(help="Hard limit to the first token, in ms.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help='"60ms", "0.06s", "80%" of the full latency, "low", "medium" or "high".'),
    ] = None,
    average_budget_ms: Annotated[
        float | None, typer.Option(help="Mean latency of a stream of requests, in ms.")
    ] = None,
    when_infeasible: Annotated[str, typer.Option(help="cheapest, best_effort or reject.")] = "cheapest",
    model: Annotated[
        str, typer.Option(help="The model that reads the image: a shipped one or a directory.")
    ] = "tiny",
    calibrate: Annotated[bool, typer.Option(help="Scale the controller to this machine first; kept.")] = True,
    explain: Annotated[bool, typer.Option("--explain", help="Say why the others lost.")] = False,
    as_json: AsJson = False,
) -> None:
    """Decide for one image and prompt, without generating."""
    from paceline.cli.threads import one_thread
    from paceline.models.images import open_image
    from paceline.models.registry import load_model
    from paceline.runtime.adaptive import AdaptiveModel
    from paceline.runtime.controller import Controller
    from paceline.runtime.decision import check_when_infeasible
    from paceline.workflows.deciding import decide_for

    loaded = Controller.load(controller)
    loaded.check_budgets(budget_ms=budget_ms, first_token_budget_ms=first_token_budget_ms, budget=budget)
    check_when_infeasible(when_infeasible)
    picture = open_image(image)
    one_thread()
    adaptive = AdaptiveModel(load_model(model), loaded, on_message=say)
    if calibrate:
        adaptive.calibrate()
    decision = decide_for(
        adaptive.model,
        adaptive.controller,
        picture,
        prompt,
        budget_ms=budget_ms,
        first_token_budget_ms=first_token_budget_ms,
        budget=budget,
        average=average_budget_ms,
        when_infeasible=when_infeasible,
    )
    chosen = ", ".join(f"{name} {option}" for name, option in decision.configuration.items())
    text = f"{chosen}: {decision.predicted_ms:.1f} ms expected, {decision.upper_ms:.1f} ms at most ({decision.reason})"
    value = decision.to_json() | ({"explanation": decision.explain()} if explain else {})
    emit(value, [decision.explain() if explain else text], as_json=as_json)
