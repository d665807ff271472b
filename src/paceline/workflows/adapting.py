"""From a controller and a few labelled samples of a new data set to a controller that serves it."""

from dataclasses import replace

import numpy as np

from paceline.errors import OutcomesError, TrainError
from paceline.knobs import KnobSpace
from paceline.learning.adaptation import AdaptOptions, adapt_policy
from paceline.learning.problem import problem_of
from paceline.outcomes.feature_makers import difference, feature_maker, maker_label
from paceline.outcomes.table import OutcomeTable
from paceline.runtime.building import fit_prices
from paceline.runtime.controller import Controller
from paceline.workflows.training import TrainedController


def adapt_controller(
    controller: Controller, table: OutcomeTable, options: AdaptOptions | None = None
) -> TrainedController:
    """Fine-tune the controller's policy on all complete samples of `table` outside its test split.

    Latency estimates, guard and named budgets stay: the machine is the same, and the new samples need no times.
    Prices of time are fitted again, on the new samples.

    Raises TrainError where the samples do not belong to the controller (another knob space, other configurations or
    features) or are too few, OutcomesError where none is complete.
    """
    if table.space != controller.space:
        raise TrainError(
            f"adaptation: the outcomes have the knobs {_told(table.space)}, expected the controller's "
            f"{_told(controller.space)}; profile the new samples under its configurations"
        )
    _check_features(controller, table)
    labelled = table.select(table.tested.all(axis=1) & (table.split != "test"))
    if not labelled.samples:
        raise OutcomesError(
            f"adaptation: no sample outside the test split has an outcome under all {len(table.actions)} "
            "configurations; profile more"
        )
    problem = problem_of(labelled, controller.latency)
    trained = adapt_policy(controller.policy, problem, options, scale=controller.scale)
    policy = trained.numpy_policy()
    priced = replace(labelled, split=np.full(labelled.samples, "validation"))
    adapted = replace(
        controller,
        policy=policy,
        prices=fit_prices(policy, priced, controller.latency),
        metrics={},
        provenance={**controller.provenance, "adaptation": trained.facts},
    )
    return TrainedController(controller=adapted, policy=trained)


def _check_features(controller: Controller, table: OutcomeTable) -> None:
    known = controller.provenance
    makers = (
        feature_maker(table.manifest.model, table.manifest.options),
        feature_maker(known.get("model", table.manifest.model), known.get("profile", table.manifest.options)),
    )
    if makers[0] != makers[1]:
        raise TrainError(
            f"adaptation: the outcomes' features were made by {maker_label(makers[0])}, the controller was trained on "
            f"those of {maker_label(makers[1])}{difference(*makers)}; name outcomes with the same features"
        )


def _told(space: KnobSpace) -> str:
    return ", ".join(f"{knob.name} {list(knob.options)}" for knob in space.knobs)
