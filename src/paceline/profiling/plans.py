"""The plans that need no measurement: all configurations, an even grid, or a Latin hypercube."""

import itertools
import math

import numpy as np

from paceline.errors import ProfileError
from paceline.knobs import KnobSpace
from paceline.profiling.options import FIXED_PLANS

DEFAULT_CONFIGURATIONS = 48
LARGEST_POOL = 20_000
"""Most configurations among which the next is looked for."""


def plan_actions(space: KnobSpace, plan: str, configurations: int | None, seed: int = 0) -> np.ndarray:
    """The actions to test, int64 (configurations,), ascending.

    The cheapest and the full configuration are always among them; so are, when there is room, the configurations
    that differ from one of these in one knob moved to its other end.

    Args:
        plan: "full" (all), "balanced" (an evenly spaced grid) or "lhs" (Latin hypercube over option indices).
        configurations: how many; None means 48, or all under plan "full" and in smaller spaces.

    Raises:
        ProfileError: a plan that is none of these, or a number of configurations that it cannot test.

    >>> from paceline.knobs import Knob
    >>> space = KnobSpace((Knob(name="crops", options=(2, 4, 8)), Knob(name="top_k", options=(1, 2, 3, 4, 5))))
    >>> plan_actions(space, "balanced", 6).tolist()
    [0, 2, 4, 10, 12, 14]
    """
    if plan not in FIXED_PLANS:
        raise ProfileError(f"plan: got {plan!r}, expected one of {list(FIXED_PLANS)}")
    if plan == "full":
        if configurations is not None and configurations != space.size:
            raise ProfileError(
                f"configurations: plan full tests all {space.size}, got {configurations}; leave the number out "
                "or use plan lhs or balanced"
            )
        return np.arange(space.size, dtype=np.int64)
    count = checked_count(space, configurations)
    rng = np.random.default_rng(seed)
    chosen = anchors(space, count)
    if plan == "balanced":
        chosen = _farthest(space, chosen, _grid(space, count), count)
    else:
        chosen = _hypercube(space, chosen, count, rng)
    if len(chosen) < count:
        chosen = _farthest(space, chosen, actions_pool(space, seed), count)
    return np.sort(np.array(chosen, dtype=np.int64))


def checked_count(space: KnobSpace, configurations: int | None) -> int:
    """How many configurations to test: what was asked for, or the default.

    Raises:
        ProfileError: fewer than the two ends, or more than the space has.
    """
    count = min(DEFAULT_CONFIGURATIONS, space.size) if configurations is None else configurations
    if not min(2, space.size) <= count <= space.size:
        raise ProfileError(
            f"configurations: got {count}, expected {min(2, space.size)} to {space.size}, the size of the knob space"
        )
    return count


def actions_pool(space: KnobSpace, seed: int) -> np.ndarray:
    """All actions, or so many of a large space as can be looked through: int64 (k,), ascending."""
    if space.size <= LARGEST_POOL:
        return np.arange(space.size, dtype=np.int64)
    return np.sort(np.random.default_rng(seed).choice(space.size, LARGEST_POOL, replace=False))


def anchors(space: KnobSpace, count: int) -> list[int]:
    """Cheapest, full and, when `count` has room, one knob at a time moved to its other end."""
    last = np.array(space.shape) - 1
    ends = [np.zeros_like(last), last]
    for knob in range(len(last)):
        ends += [
            np.where(np.arange(len(last)) == knob, last, 0),
            np.where(np.arange(len(last)) == knob, 0, last),
        ]
    found = list(dict.fromkeys(int(np.ravel_multi_index(tuple(end), space.shape)) for end in ends))
    return found if len(found) <= count else list(dict.fromkeys(found[:2]))


def _grid(space: KnobSpace, count: int) -> np.ndarray:
    """The actions of the largest evenly spaced grid of at most `count` points, ascending."""
    sizes = space.shape
    levels = [1] * len(sizes)
    while True:
        allowed = [
            knob
            for knob, level in enumerate(levels)
            if level < sizes[knob] and math.prod(levels) // level * (level + 1) <= count
        ]
        if not allowed:
            break
        levels[min(allowed, key=lambda knob: (levels[knob], -sizes[knob]))] += 1
    axes = [
        np.unique(np.round(np.linspace(0, size - 1, level))) if level > 1 else np.array([size - 1])
        for size, level in zip(sizes, levels, strict=True)
    ]
    points = np.array(list(itertools.product(*axes)), dtype=np.int64)
    return np.asarray(np.ravel_multi_index(tuple(points.T), space.shape))


def _hypercube(space: KnobSpace, chosen: list[int], count: int, rng: np.random.Generator) -> list[int]:
    """Add Latin hypercube points: per knob, each of equal strata of its options is drawn once."""
    chosen = list(chosen)
    seen = set(chosen)
    for _ in range(20):
        rest = count - len(chosen)
        strata = np.stack([rng.permutation(rest) for _ in space.shape], axis=-1)
        points = np.floor((strata + rng.random(strata.shape)) / max(1, rest) * np.array(space.shape))
        drawn = np.asarray(np.ravel_multi_index(tuple(points.astype(np.int64).T), space.shape))
        for action in drawn.tolist():
            if action not in seen:
                seen.add(action)
                chosen.append(action)
    return chosen


def _farthest(space: KnobSpace, chosen: list[int], pool: np.ndarray, count: int) -> list[int]:
    """Add from the pool, one at a time, the action farthest from all chosen ones; knobs have unit length."""
    chosen = list(chosen)
    scale = np.maximum(1, np.array(space.shape) - 1)
    pool = np.setdiff1d(pool, chosen)
    points = space.option_indices(pool) / scale
    taken = space.option_indices(np.array(chosen)) / scale
    distance = np.min([((points - point) ** 2).sum(axis=1) for point in taken], axis=0, initial=np.inf)
    while len(chosen) < count and len(pool) and distance.max() > 0:
        best = int(np.argmax(distance))
        chosen.append(int(pool[best]))
        distance = np.minimum(distance, ((points - points[best]) ** 2).sum(axis=1))
    return chosen
