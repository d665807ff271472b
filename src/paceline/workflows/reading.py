"""Outcomes as a controller reads them: the features of its policy, configurations in its order."""

from pathlib import Path

from paceline.outcomes.aligning import aligned
from paceline.outcomes.store import read_table
from paceline.outcomes.table import OutcomeTable
from paceline.runtime.controller import Controller


def read_for(controller: Controller, outcomes: Path) -> OutcomeTable:
    """The outcomes in a directory, for `controller`; see `read_table` for what it raises."""
    inputs = controller.policy.spec.inputs
    table = read_table(
        outcomes, image_features=inputs.image_features, question_features=inputs.question_features
    )
    return aligned(table, controller.space)
