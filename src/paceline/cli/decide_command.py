"""`paceline decide`: which configuration a request would get, and why."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paceline.cli.calibrate_command import ControllerArgument
from paceline.cli.output import AsJson, check_files, emit, say
from paceline.errors import BudgetError, PacelineError

if TYPE_CHECKING:
    from paceline.runtime.controller import Controller
    from paceline.runtime.decision import Context


def run(
    controller: ControllerArgument,
    image: Annotated[Path | None, typer.Option(help="Image file.")] = None,
    prompt: Annotated[str | None, typer.Option(help="The question.")] = None,
    outcomes: Annotated[
        Path | None, typer.Option(help="In place of an image: an outcomes directory, profiled or imported.")
    ] = None,
    sample: Annotated[str | None, typer.Option(help="The sample in it to decide for.")] = None,
    budget_ms: Annotated[float | None, typer.Option(help="Hard limit of the whole call, in ms.")] = None,
    first_token_budget_ms: Annotated[
        float | None, typer.Option(help="Hard limit to the first token, in ms.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help='"60ms", "0.06s", "80%" of the full latency, "low", "medium", "high", or a cost such as "0.002usd".'
        ),
    ] = None,
    average_budget_ms: Annotated[
        float | None, typer.Option(help="Mean latency of a stream of requests, in ms.")
    ] = None,
    average_budget: Annotated[
        str | None, typer.Option(help='The same with its unit: "40ms", or a cost such as "0.001usd".')
    ] = None,
    when_infeasible: Annotated[str, typer.Option(help="cheapest, best_effort or reject.")] = "cheapest",
    model: Annotated[
        str | None,
        typer.Option(help="The model that reads the image: a shipped one or a directory. Default: tiny."),
    ] = None,
    calibrate: Annotated[
        bool | None, typer.Option(help="Scale the controller to this machine first; kept. Default: yes.")
    ] = None,
    backend: Annotated[
        str, typer.Option(help="What computes it: auto, native, numpy, onnx or torch.")
    ] = "auto",
    provider: Annotated[str, typer.Option(help="Of backend onnx: cpu, cuda or tensorrt.")] = "cpu",
    precision: Annotated[
        str | None,
        typer.Option(help="Of backend onnx: which exported file, e.g. fp32. Default: the one that passed."),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Say why, what other budgets would choose, and whose share it is."),
    ] = False,
    method: Annotated[
        str, typer.Option(help="Of the shares in an explanation: occlusion or integrated_gradients.")
    ] = "occlusion",
    report: Annotated[
        Path | None, typer.Option(help="Also write the explanation to this file, as HTML.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Decide for one image and prompt, one prompt for a text model, or one recorded sample, without generating."""
    from paceline.runtime.attribution import check_method
    from paceline.runtime.controller import Controller
    from paceline.runtime.decision import check_when_infeasible

    check_method(method)
    check_files(report)
    loaded = Controller.load(controller, backend=backend, provider=provider, precision=precision)
    if average_budget is not None and average_budget_ms is not None:
        raise BudgetError(
            f"average budget: got both {average_budget_ms} ms and {average_budget!r}, expected one of them"
        )
    loaded.quantity.check_milliseconds("average_budget_ms", average_budget_ms)
    average = average_budget_ms if average_budget is None else average_budget
    loaded.check_budgets(
        budget_ms=budget_ms, first_token_budget_ms=first_token_budget_ms, budget=budget, average=average
    )
    check_when_infeasible(when_infeasible)
    if image is not None and prompt is not None and (outcomes, sample) == (None, None):
        loaded, context = _live(loaded, image, prompt, model or "tiny", calibrate is not False)
    elif prompt is not None and loaded.text_features is not None and (image, outcomes, sample) == (None,) * 3:
        context = _text(loaded, prompt, model, calibrate)
    elif outcomes is not None and sample is not None and (image, prompt) == (None, None):
        _check_no_model("--sample", model, calibrate)
        context = _recorded(loaded, outcomes, sample)
    elif prompt is not None and loaded.made_from_texts and (image, outcomes, sample) == (None,) * 3:
        context = loaded.text_context(prompt)  # says what is missing
    else:
        raise PacelineError(
            "decide: expected --image FILE and --prompt TEXT, or --outcomes DIRECTORY and --sample ID, and not both; "
            "--prompt TEXT alone is for controllers that read nothing but text"
        )
    decision = loaded.decide(
        context,
        budget_ms=budget_ms,
        first_token_budget_ms=first_token_budget_ms,
        budget=budget,
        average=average,
        when_infeasible=when_infeasible,
    )
    value, text = decision.to_json(), decision.summary()
    if explain or report is not None:
        explanation = decision.explanation(method=method)
        value["explanation"], text = explanation.to_json(), explanation.to_text() if explain else text
        if report is not None:
            from paceline.report.decision_page import write_decision

            value["report"] = str(write_decision(explanation, report))
    emit(value, [text], as_json=as_json)


def _live(
    controller: "Controller", image: Path, prompt: str, model: str, calibrate: bool
) -> "tuple[Controller, Context]":
    """The controller on this machine, and the request as it sees it."""
    from paceline.cli.threads import one_thread
    from paceline.images import open_image
    from paceline.models.registry import load_model
    from paceline.runtime.adaptive import AdaptiveModel
    from paceline.workflows.deciding import live_context

    picture = open_image(image)
    one_thread()
    adaptive = AdaptiveModel(load_model(model), controller, on_message=say)
    if calibrate:
        adaptive.calibrate()
    return adaptive.controller, live_context(adaptive.model, adaptive.controller, picture, prompt)


def _text(controller: "Controller", prompt: str, model: str | None, calibrate: bool | None) -> "Context":
    _check_no_model("--prompt alone", model, calibrate)
    context = controller.text_context(prompt)
    if not context.question_features.any():
        say("no word of the prompt is known from training; what is chosen is a guess for any text")
    return context


def _check_no_model(with_: str, model: str | None, calibrate: bool | None) -> None:
    if model is not None or calibrate is not None:
        raise PacelineError(
            f"decide: got --model or --calibrate with {with_}, expected neither; nothing is run by a model there"
        )


def _recorded(controller: "Controller", outcomes: Path, sample: str) -> "Context":
    from paceline.workflows.deciding import recorded_context
    from paceline.workflows.reading import read_for

    return recorded_context(read_for(controller, outcomes), controller, sample)
