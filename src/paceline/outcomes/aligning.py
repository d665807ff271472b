"""Outcomes of the same knobs and options in another order: their configurations get the ids of the other order."""

from dataclasses import replace

import numpy as np

from paceline.knobs import KnobSpace
from paceline.outcomes.table import CELL_FIELDS, OutcomeTable


def aligned(table: OutcomeTable, space: KnobSpace) -> OutcomeTable:
    """The table with its configurations named as in `space`; as it is where knobs or options are others.

    Imports order options that are texts by what they took in that table, so that two tables of the same models may
    differ in nothing but the order.
    """
    if table.space == space or _options(table.space) != _options(space):
        return table
    named = [table.space.configuration(action) for action in table.actions.tolist()]
    actions = space.actions(named)
    order = np.argsort(actions)
    cells = {name: getattr(table, name)[:, order] for name in CELL_FIELDS}
    return replace(table, space=space, actions=actions[order], **cells)


def _options(space: KnobSpace) -> dict[str, frozenset[object]]:
    return {knob.name: frozenset((type(option), option) for option in knob.options) for knob in space.knobs}
