"""Paceline's side of `decision_overhead`: the backends that are installed, their decisions and their batches."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from benchmarks.decision_job import Batch, Requests
from paceline.errors import PacelineError
from paceline.knobs import Configuration
from paceline.outcomes.table import CELL_FIELDS, OutcomeTable
from paceline.runtime.average import AverageBudget
from paceline.runtime.controller import Controller
from paceline.runtime.many import FIELDS, ContextBatch
from paceline.runtime.onnx_backend import OnnxWeigher

BACKENDS = ("native", "numpy", "onnx", "torch")
DEFAULT = "paceline"


def load_backends(path: str) -> tuple[dict[str, Controller], dict[str, str]]:
    """The controller by backend, `DEFAULT` first; and why others are missing."""
    found, missing = {DEFAULT: Controller.load(path)}, {}
    for backend in BACKENDS:
        try:
            found[f"{DEFAULT} {backend}"] = Controller.load(path, backend=backend)
        except PacelineError as error:
            missing[f"{DEFAULT} {backend}"] = str(error)
    return found, missing


def batching(controller: Controller) -> Callable[[Batch], list[Configuration]]:
    """The controller's decisions for a batch."""

    def decide(batch: Batch) -> list[Configuration]:
        contexts = ContextBatch(**{name: getattr(batch, name) for name in FIELDS})
        return controller.decide_batch(contexts, budget_ms=batch.budget_ms).configurations

    return decide


def deciding(backend: Controller, requests: Requests) -> Callable[[int], Configuration]:
    """A decision on request number so-and-so under its hard budget."""

    def decide(index: int) -> Configuration:
        context, budget_ms = requests[index]
        return backend.decide(context, budget_ms=budget_ms).configuration

    return decide


def averaging(backend: Controller, requests: Requests, stream: AverageBudget) -> Callable[[int], object]:
    """A decision under an average budget alone."""
    return lambda index: backend.decide(requests[index][0], average=stream).configuration


def weight_bytes(controller: Controller) -> int:
    """What a decision reads of the policy: an exported file, or the policy's arrays."""
    if isinstance(controller.weigher, OnnxWeigher) and controller.exports is not None:
        return int(controller.exports.files[controller.weigher.name]["size_bytes"])
    return sum(array.nbytes for array in controller.policy.arrays.values())


def with_actions_of(controller: Controller, table: OutcomeTable) -> OutcomeTable:
    """The table with the controller's configurations only."""
    columns = np.searchsorted(table.actions, controller.actions)
    cells = {name: getattr(table, name)[:, columns] for name in CELL_FIELDS}
    return replace(table, actions=controller.actions, **cells)
