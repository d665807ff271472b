"""Which configurations a trained policy scores: the tested ones, or others of the knob space too."""

import numpy as np

from paceline.errors import TrainError
from paceline.knobs import KnobSpace
from paceline.policies.spec import UNTESTED_HEADS

MOST_SCORED = 20_000
"""Configurations that a decision compares at most; more would take longer than they could save."""


def actions_to_score(
    space: KnobSpace, tested: np.ndarray, head: str, wanted: np.ndarray | None = None
) -> np.ndarray:
    """The actions that a policy with `head` is exported over: int64, ascending, the `tested` ones among them.

    `wanted`: action ids to add to the tested ones; None for all of the space that the head can score, which is
    everything for "embedding" and the combinations of tested options for "independent".

    Raises:
        TrainError: a head that scores tested configurations only, ids outside the space, or too many of them.
    """
    if head not in UNTESTED_HEADS:
        raise TrainError(
            f"score_untested: got head {head!r}, which scores tested configurations only; expected one of "
            f"{list(UNTESTED_HEADS)}"
        )
    if wanted is None:
        if space.size > MOST_SCORED:
            raise TrainError(
                f"score_untested: the knob space has {space.size} configurations, expected at most {MOST_SCORED}; "
                "name those to score (scored_actions)"
            )
        wanted = _reachable(space, tested) if head == "independent" else np.arange(space.size)
    actions = np.union1d(np.asarray(wanted, dtype=np.int64), tested)
    if actions[0] < 0 or actions[-1] >= space.size:
        raise TrainError(
            f"scored_actions: got ids from {actions[0]} to {actions[-1]}, expected 0 to {space.size - 1}, those of "
            "the knob space"
        )
    if len(actions) > MOST_SCORED:
        raise TrainError(
            f"scored_actions: got {len(actions)} configurations, expected at most {MOST_SCORED}; leave some out"
        )
    return actions


def _reachable(space: KnobSpace, tested: np.ndarray) -> np.ndarray:
    """All combinations of options that some tested configuration holds."""
    seen, all_actions = space.option_indices(tested), np.arange(space.size)
    held = space.option_indices(all_actions)
    known = [np.isin(held[:, knob], seen[:, knob]) for knob in range(len(space.knobs))]
    return all_actions[np.logical_and.reduce(known)]
