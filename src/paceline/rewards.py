"""Rewards of an outcome under a budget, as pure functions of arrays.

Every function takes numpy arrays, torch tensors or plain numbers, broadcasts them, and keeps gradients: only
operators that all three share are used. Accuracy is in [0, 1].
"""

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from paceline.errors import TrainError
from paceline.knobs import KnobSpace

Array: TypeAlias = Any  # a float, a numpy array or a torch tensor

_SHARPNESS = 10.0  # slope of v2's soft penalty: it rises from 27 % to 73 % within +-10 % of the budget
_TINY = 1e-6  # keeps v2's ratios finite, as published


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardParams:
    """Weights of `reward_v1` and `reward_v2`; all must be finite and not negative."""

    alpha: float = 1.0  # accuracy
    beta: float = 0.5  # latency beyond the budget (v1), soft step at the budget (v2)
    gamma: float = 10.0  # squared violation of the budget
    delta: float = 0.1  # bonus for being under the budget
    epsilon: float = 0.05  # complexity of the configuration (v2)

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "gamma", "delta", "epsilon"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value < 0:
                raise TrainError(
                    f"reward parameter {name}: got {value!r}, expected a finite number of at least 0"
                )


def reward_v1(accuracy: Array, latency: Array, budget: Array, params: RewardParams) -> Array:
    """alpha a - beta max(0, l - b) - gamma max(0, l - b)^2 + delta max(0, b - l) / b.

    `latency` and `budget` are in SECONDS: the penalties are not scale-free, and the published weights are for
    seconds. The bonus for being under budget makes policies slide to the cheapest configuration; it is kept as
    an option for comparison.

    >>> round(reward_v1(1.0, 0.7, 0.5, RewardParams()), 6)
    0.5
    """
    over = _positive(latency - budget)
    under = _positive(budget - latency)
    return (
        params.alpha * accuracy - params.beta * over - params.gamma * over**2 + params.delta * under / budget
    )


def reward_v2(
    accuracy: Array,
    latency: Array,
    budget: Array,
    complexity: Array,
    params: RewardParams,
    baseline_accuracy: Array | None = None,
    least_headroom: float = 0.0,
) -> Array:
    """alpha a' - beta sigmoid(10 (r - 1)) - gamma max(0, r - 1)^2 - epsilon c + delta max(0, 1 - r), r = l / b.

    a' is the accuracy, or `relative_accuracy` when a baseline is given; `complexity` c is in [0, 1]
    (see `configuration_complexity`). Any one unit of time serves. Half of beta is already charged at
    latency = budget.
    """
    gained = accuracy
    if baseline_accuracy is not None:
        gained = relative_accuracy(accuracy, baseline_accuracy, least_headroom)
    soft = 1.0 / (1.0 + math.e ** (_SHARPNESS * (1.0 - latency / (budget + _TINY))))
    ratio = latency / budget
    return (
        params.alpha * gained
        - params.beta * soft
        - params.gamma * _positive(ratio - 1.0) ** 2
        - params.epsilon * complexity
        + params.delta * _positive(1.0 - ratio)
    )


def relative_accuracy(accuracy: Array, baseline: Array, least_headroom: float = 0.0) -> Array:
    """(a - baseline) / (max(1 - baseline, least_headroom) + 1e-6): the share of what the baseline left to gain.

    With `least_headroom` 0 this is the published formula, in which an answer that is worse than a perfect baseline
    counts -1e6. A headroom of h > 0 changes nothing where the baseline is at most 1 - h, and bounds the value by
    -1 / h from below elsewhere.

    >>> round(relative_accuracy(0.9, 0.8), 3), round(relative_accuracy(0.0, 1.0, least_headroom=0.1), 3)
    (0.5, -10.0)
    """
    headroom = least_headroom + _positive(1.0 - baseline - least_headroom)
    return (accuracy - baseline) / (headroom + _TINY)


def masked_accuracy_reward(
    accuracy: Array,
    latency: Array,
    budget: Array,
    full_latency: Array,
    price: Array = 0.0,
    tie_break: float = 0.01,
) -> tuple[Array, Array]:
    """(accuracy - (price + tie_break) latency / full_latency, latency <= budget): the default reward and its mask.

    What the mask leaves out must not be chosen, so the reward says nothing about it. `price` is what the full
    configuration's latency costs in accuracy (0 under a hard budget); `tie_break` prefers the cheaper of two
    equally accurate configurations. Any one unit of time serves; `budget` may be infinite.

    >>> masked_accuracy_reward(1.0, 50.0, 60.0, 100.0)
    (0.995, True)
    """
    return accuracy - (price + tie_break) * (latency / full_latency), latency <= budget


def configuration_complexity(space: KnobSpace, actions: np.ndarray) -> np.ndarray:
    """Mean over knobs of option / largest option, in (0, 1]: float64 (actions,). The c of `reward_v2`."""
    return option_shares(space, actions).mean(axis=1)


def option_shares(space: KnobSpace, actions: np.ndarray) -> np.ndarray:
    """Option / largest option of every knob, in (0, 1]: float64 (actions, knobs).

    A knob whose options are not all positive numbers counts by rank: (index + 1) / number of options.

    >>> knobs = [{"name": "top_k", "options": [8, 32]}, {"name": "model", "options": ["small", "large"]}]
    >>> option_shares(KnobSpace.from_json(knobs), np.array([0, 3])).tolist()
    [[0.25, 0.5], [1.0, 1.0]]
    """
    indices = space.option_indices(actions)
    shares = []
    for column, knob in enumerate(space.knobs):
        numeric = all(isinstance(option, int | float) and option > 0 for option in knob.options)
        values = np.array(knob.options if numeric else range(1, len(knob.options) + 1), dtype=np.float64)
        shares.append((values / values.max())[indices[:, column]])
    return np.stack(shares, axis=1)


def _positive(x: Array) -> Array:
    return x * (x > 0)
