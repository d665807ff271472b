"""From a controller to files that ONNX Runtime decides with: written, compared with torch, measured, recorded."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from paceline import __version__
from paceline.errors import ExportError
from paceline.export.contexts import drawn_requests
from paceline.export.gates import Gate, check_models, fastest
from paceline.export.precisions import DEFAULT_OPSET, FILES, Source, check_opset, export_models
from paceline.learning.checks import check_whole
from paceline.learning.progress import Progress, SilentProgress
from paceline.outcomes.table import OutcomeTable
from paceline.runtime.controller import Controller
from paceline.runtime.exports import Exports, decided_digest
from paceline.runtime.hardware import hardware_facts
from paceline.runtime.onnx_backend import OnnxWeigher, open_session
from paceline.runtime.recorded import check_features_of
from paceline.runtime.storage import sha256


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """Options of `export_controller`."""

    opset: int = DEFAULT_OPSET
    requests: int = 2000  # on which every file is compared with torch, of validation samples
    calibration_requests: int = 1000  # for the ranges of static int8, of train samples
    seed: int = 0  # of the requests' budgets and prices

    def __post_init__(self) -> None:
        for name, least in (("requests", 1), ("calibration_requests", 1), ("seed", 0)):
            check_whole(name, getattr(self, name), least, ExportError)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Exported:
    """The controller with its files, and what was measured of each."""

    controller: Controller
    gates: list[Gate]
    chosen: Gate


def export_controller(
    controller: Controller,
    table: OutcomeTable,
    out: Path,
    options: ExportOptions | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write the controller with its decision as ONNX files into `out`, each checked on real requests.

    Args:
        controller: what to export.
        table: outcomes with the features that it reads, of the configurations that it chooses from.
        out: a directory; the controller's own, to add the files to it.

    Raises:
        DependencyError: onnx or onnxruntime is not installed.
        ExportError: an unknown opset, outcomes of another controller or without train and validation samples.
        OutcomesError: features that were made by another maker than those the controller was trained on.
    """
    options, progress = options or ExportOptions(), progress or SilentProgress()
    check_opset(options.opset)
    _check_table(controller, table)
    whole, first = controller.latency, controller.first_token_latency
    source = Source(
        spec=controller.policy.spec,
        arrays=controller.policy.arrays,
        latency=whole,
        first_token_latency=first,
        metadata={
            "paceline_version": __version__,
            "decided_digest": decided_digest(controller),
            "knobs": json.dumps(controller.space.to_json()),
            "quantity": json.dumps({"kind": controller.quantity.kind, "unit": controller.quantity.unit}),
        },
    )
    machine: dict[str, Any] = {
        "scales": (whole.scale, first.scale),
        "margins": (whole.margin, first.margin),
    }
    calibration = drawn_requests(
        table,
        source.spec,
        split="train",
        count=options.calibration_requests,
        seed=options.seed + 1,
        **machine,
    )
    requests = drawn_requests(
        table, source.spec, split="validation", count=options.requests, seed=options.seed, **machine
    )
    progress.message(f"writing {len(FILES)} files, opset {options.opset}")
    models = export_models(source, calibration.inputs, opset=options.opset)
    samples = int((table.split == "validation").sum())
    progress.message(
        f"comparing them with torch on {requests.count} requests about {min(samples, requests.count)} samples"
    )
    gates = check_models(source, models, FILES, requests)
    chosen = fastest(gates)
    record = {
        "opset": options.opset,
        "requests": requests.count,
        "calibration_requests": calibration.count,
        "decides": controller.fingerprint,
        "chosen": chosen.file,
        "gates": [gate.to_json() for gate in gates],
        "hardware": hardware_facts()["processor"],
    }
    return Exported(controller=_saved(controller, models, record, out), gates=gates, chosen=chosen)


def _saved(
    controller: Controller, models: Mapping[str, bytes], record: Mapping[str, Any], out: Path
) -> Controller:
    """The controller with its files, written to `out` together; none is there until all are known to load."""
    files = {
        FILES[precision]: {"sha256": sha256(data), "size_bytes": len(data)}
        for precision, data in models.items()
    }
    with tempfile.TemporaryDirectory() as staged:
        for precision, data in models.items():
            OnnxWeigher(controller, open_session(data, FILES[precision]), FILES[precision])
            (Path(staged) / FILES[precision]).write_bytes(data)
        exports = Exports(directory=Path(staged), record=record, files=files)
        made = replace(controller, make_weigher=None, exports=exports)
        made.save(out)
    return replace(made, exports=replace(exports, directory=out))


def _check_table(controller: Controller, table: OutcomeTable) -> None:
    """Refuse outcomes that the controller cannot have been trained on."""
    widths = (table.image_features.shape[1], table.question_features.shape[1])
    expected = controller.policy.spec.columns
    fits = all(wanted in (None, width) for width, wanted in zip(widths, expected, strict=True))
    if table.space != controller.space or not fits:
        raise ExportError(
            f"export: the outcomes have {widths} image and question features and the knobs {list(table.space.names)}; "
            f"expected {expected} and the knob space of the controller; name the outcomes it was trained on"
        )
    check_features_of(table, controller)
    untested = ~np.isin(controller.actions, table.actions)
    if untested.any():
        raise ExportError(
            f"export: {int(untested.sum())} of the controller's {len(untested)} configurations were not tested in the "
            "outcomes, so what choosing them is worth is not known; name the outcomes it was trained on"
        )
