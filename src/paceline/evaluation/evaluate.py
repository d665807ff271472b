"""Judge a controller on outcomes: its choices against static configurations, lookup, random and oracle."""

from typing import Any, Protocol, runtime_checkable

import numpy as np

from paceline.errors import ControllerError
from paceline.evaluation.contest import ContestOptions, contest
from paceline.evaluation.decision_cost import decision_overhead
from paceline.evaluation.splits import fit_and_test
from paceline.knobs import KnobSpace
from paceline.latency.estimate import LatencyEstimator
from paceline.latency.quantity import ONLY_AFTERWARDS, Quantity
from paceline.learning.learners.policy_contender import policy_contender
from paceline.learning.problem import Problem, problem_of
from paceline.learning.progress import Progress
from paceline.outcomes.table import OutcomeTable
from paceline.policies.numpy_policy import NumpyPolicy


@runtime_checkable
class Judged(Protocol):
    """What a controller must have to be judged."""

    @property
    def space(self) -> KnobSpace: ...

    @property
    def policy(self) -> NumpyPolicy: ...

    @property
    def latency(self) -> LatencyEstimator: ...


def evaluate_controller(
    controller: Judged,
    table: OutcomeTable,
    options: ContestOptions | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The results object of a controller on a table's test split.

    Static configurations, mixes, lookups and prices are chosen on the train and validation splits; feasibility and
    expected latency come from the controller's own latency estimate, for every contender. Raises ControllerError
    for a controller of another knob space or with configurations that the table did not test, OutcomesError for a
    table without complete samples on either side.
    """
    if controller.space != table.space:
        raise ControllerError(
            f"controller: its knobs are {controller.space.to_json()}, the outcomes' are {table.space.to_json()}; "
            "train a controller on these outcomes"
        )
    options = options or ContestOptions()
    latency = controller.latency
    fit_table, test_table, samples = fit_and_test(table)
    fit, test = problem_of(fit_table, latency), problem_of(test_table, latency)
    rows = fit_table.split == "validation"
    rows = rows if rows.any() else np.ones(len(rows), dtype=bool)
    paceline = policy_contender(controller.policy, table.actions, scale=latency.scale)
    value = contest(fit, test, {"paceline": paceline}, options, validation=fit.select(rows))
    value["samples"] = samples
    value["overhead"] = overhead_of(controller.policy, latency, fit, test_table)
    value["provenance"] = provenance_of(table, latency, options)
    return value


def overhead_of(
    policy: NumpyPolicy, latency: LatencyEstimator, fit: Problem, test_table: OutcomeTable
) -> dict[str, Any]:
    """Cost of deciding, as the results hold it."""
    configuration_ms = fit.configuration_mean_ms
    return decision_overhead(
        policy,
        latency,
        test_table,
        budget_ms=float(configuration_ms.mean()),
        full_ms=float(configuration_ms[fit.full]),
    )


def provenance_of(table: OutcomeTable, latency: LatencyEstimator, options: ContestOptions) -> dict[str, Any]:
    """What the numbers rest on."""
    manifest, quantity = table.manifest, Quantity.of(latency.facts)
    ruled = "quantiles of the configurations' mean latency, then full's"
    if not quantity.known_before:
        ruled = "deadlines: quantiles of the runtimes of the single best configuration"
    return {
        "task": manifest.task,
        "model": manifest.model,
        "hardware": manifest.hardware,
        "software": manifest.software,
        "profile": manifest.options,
        "configurations": len(table.actions),
        "latency": {**latency.facts, "scale": latency.scale},
        "unit": quantity.unit,
        "budgets": "given" if options.budgets_ms else ruled,
        "chosen_on": "train and validation",
        "judged_on": "test",
        "violation_rate": options.violation_rate,
        "bootstrap": {"replicates": options.replicates, "unit": "scene", "level": 0.95, "seed": options.seed},
        "latencies": "expected latency of each choice; violation rates are measured on timed test samples"
        if quantity.known_before
        else ONLY_AFTERWARDS,
    }
