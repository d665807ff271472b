"""`paceline export`: the decision as ONNX files, each checked before it may decide."""

from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.calibrate_command import ControllerArgument
from paceline.cli.output import AsJson, check_controller_directory, emit
from paceline.cli.train_command import OutcomesArgument
from paceline.errors import ExportError


def run(
    controller: ControllerArgument,
    outcomes: OutcomesArgument,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the controller with its files there. Default: add them to CONTROLLER."),
    ] = None,
    opset: Annotated[int, typer.Option(help="Version of the ONNX operator set.")] = 18,
    requests: Annotated[
        int, typer.Option(help="Real requests on which every file is compared with torch.")
    ] = 2000,
    seed: Annotated[int, typer.Option(help="Of the requests' budgets and prices.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write CONTROLLER's decision as ONNX files (fp32, fp16, int8), compare each with torch on OUTCOMES, choose one."""
    from paceline.cli.progress import Bar
    from paceline.cli.threads import one_thread
    from paceline.report.export_table import export_table
    from paceline.runtime.controller import Controller
    from paceline.runtime.storage import shipped_controllers
    from paceline.workflows.exporting import ExportOptions, export_controller
    from paceline.workflows.reading import read_for

    options = ExportOptions(opset=opset, requests=requests, seed=seed)
    if out is None and controller in shipped_controllers():
        raise ExportError(
            f"export: {controller!r} is part of the package; name a directory for a copy of it with --out"
        )
    check_controller_directory(out)
    one_thread()
    loaded = Controller.load(controller, backend="numpy")
    table = read_for(loaded, outcomes)
    with Bar() as bar:
        made = export_controller(loaded, table, out or Path(controller), options, bar)
    record = made.controller.exports.record if made.controller.exports else {}
    value = {"controller": str(out or controller), **record}
    emit(value, [*export_table(record)], as_json=as_json)
