"""`paceline calibrate`: fit a controller's latency estimates to this machine."""

from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.knobs_command import ModelArgument
from paceline.cli.output import AsJson, check_controller_directory, emit, say

ControllerArgument = Annotated[
    str, typer.Argument(metavar="CONTROLLER", help="Controller directory, or a shipped controller (tiny).")
]


def run(
    controller: ControllerArgument,
    model: ModelArgument,
    out: Annotated[
        Path | None, typer.Option(help="Also write the calibrated controller to this directory.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a dozen short calls of MODEL here and keep the result for every later use of CONTROLLER."""
    from paceline.cli.threads import one_thread
    from paceline.models.registry import load_model
    from paceline.runtime.adaptive import AdaptiveModel
    from paceline.runtime.controller import Controller

    loaded = Controller.load(controller)
    loaded.quantity.check_live()
    check_controller_directory(out)
    one_thread()
    adaptive = AdaptiveModel(load_model(model), loaded, on_message=say)
    made = adaptive.calibrate(force=True)
    if out is not None:
        adaptive.controller.save(out)
    value = {
        "model": made.model,
        "ratio": made.ratio,
        "overview_ms": made.overview_ms,
        "measured_ms": list(made.measured_ms),
        "predicted_ms": list(made.predicted_ms),
        "seconds": made.seconds,
        "controller": None if out is None else str(out),
    }
    text = f"{made.model}: {made.ratio:.2f} x the profiled latency, from {len(made.measured_ms)} measurements"
    emit(value, [text], as_json=as_json)
