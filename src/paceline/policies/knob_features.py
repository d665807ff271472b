"""Configurations as numbers: what an embedding head reads instead of an action's name. numpy only."""

from itertools import combinations

import numpy as np
from jaxtyping import Float, Int

from paceline.knobs import Knob, KnobSpace


def option_positions(knob: Knob) -> Float[np.ndarray, " option"]:
    """Every option of a knob as a place in [0, 1]: its value between the least and the greatest, else its rank.

    A knob of one option has place 0.

    >>> option_positions(Knob(name="top_k", options=(4, 8, 24))).tolist()
    [0.0, 0.2, 1.0]
    >>> option_positions(Knob(name="solver", options=("a", "b", "c"))).tolist()
    [0.0, 0.5, 1.0]
    """
    numbers = all(isinstance(option, int | float) for option in knob.options)
    values = np.array(knob.options if numbers else range(len(knob.options)), dtype=np.float64)
    return (values - values.min()) / max(float(np.ptp(values)), np.finfo(np.float64).tiny)


def configuration_positions(
    space: KnobSpace, actions: Int[np.ndarray, " action"]
) -> Float[np.ndarray, "action knob"]:
    """The place in [0, 1] of each configuration's option, per knob."""
    indices = space.option_indices(actions)
    places = [option_positions(knob)[indices[:, column]] for column, knob in enumerate(space.knobs)]
    return np.stack(places, axis=1)


def knob_features(
    space: KnobSpace, actions: Int[np.ndarray, " action"], tested: Int[np.ndarray, " tested"]
) -> Float[np.ndarray, "action feature"]:
    """What is known of configurations without having tried them: float32 (actions, features).

    One column per option (1 where a configuration holds it), then per knob its place scaled to [-1, 1], then the
    products of the places of every two knobs. Options that none of the `tested` configurations holds have columns
    of zeros: nothing was learned about them beyond their place.
    """
    indices, known = space.option_indices(actions), space.option_indices(tested)
    columns = []
    for knob, count in enumerate(space.shape):
        held = indices[:, knob, None] == np.arange(count)
        columns.append(held & np.isin(np.arange(count), known[:, knob]))
    places = 2.0 * configuration_positions(space, actions) - 1.0
    pairs = [places[:, a] * places[:, b] for a, b in combinations(range(len(space.knobs)), 2)]
    return np.column_stack([*columns, places, *pairs]).astype(np.float32)
