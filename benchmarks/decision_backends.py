"""Paceline's side of `decision_overhead`: the backends that are installed, their decisions and their batches."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from benchmarks.decision_job import Batch, Requests
from paceline.errors import PacelineError
from paceline.knobs import Configuration
from paceline.outcomes.table import CELL_FIELDS, OutcomeTable
from paceline.policies.decision import choose, context_logits
from paceline.runtime.average import AverageBudget
from paceline.runtime.controller import Controller
from paceline.runtime.onnx_backend import OnnxWeigher

BACKENDS = ("numpy", "onnx", "torch")
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
    """The controller's decisions for a batch; its own method where it has one, else put together of its parts."""
    own = getattr(controller, "decide_batch", None)
    configurations = [controller.space.configuration(int(action)) for action in controller.actions]

    def by_its_parts(batch: Batch) -> list[Configuration]:
        mean_ms, upper_ms = controller.latency.mean_and_upper(controller.actions, *batch.workload)
        logits = context_logits(
            controller.policy,
            batch.image_features,
            batch.question_features,
            budget_ms=batch.budget_ms / controller.scale,
            price=0.0,
            mean_latency_ms=mean_ms,
            full_latency_ms=controller.policy.spec.full_latency_ms * controller.scale,
        )
        chosen = choose(logits, mean_ms, upper_ms <= batch.budget_ms[:, None])
        chosen = np.where(chosen < 0, mean_ms.argmin(axis=1), chosen)
        return [configurations[place] for place in chosen.tolist()]

    if own is None:
        return by_its_parts
    return lambda batch: [
        decision.configuration for decision in own(batch.contexts, budget_ms=batch.budget_ms)
    ]


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
