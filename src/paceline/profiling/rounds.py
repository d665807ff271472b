"""The adaptive plans: which configurations to test next, given those tested so far. Pure functions of a table.

All three begin with the ends of the knobs and choose the rest from what these measured:

- stratified: as many configurations in every stratum of latency, those of a stratum far apart in the knobs;
- boundary: all corners of the knob space, then configurations expected on or above the frontier, along all of it;
- successive: a few where the frontier's interval is widest, until none is wider than a bound.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from paceline.errors import ProfileError
from paceline.knobs import KnobSpace
from paceline.profiling.options import DEFAULT_BOUND, ProfileOptions
from paceline.profiling.plans import actions_pool, anchors, checked_count, plan_actions
from paceline.profiling.scouted import Scouted, Steps, frontier_columns, frontier_steps
from paceline.profiling.surface import knob_levels, predict

STRATA = 8
"""Strata of equal width in log latency, from the fastest to the slowest configuration that is expected."""
COMBINED_KNOBS = 12
"""Knobs whose ends are combined into corners; further ones stay full. 4,096 corners are more than anybody tests."""
ROUND_CONFIGURATIONS = 6
"""Most configurations that one round of boundary or successive adds: few, so that the next one knows more."""


HOPE = 2.0
"""Standard deviations above its expected accuracy that an untested configuration is given credit for."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Round:
    """What to test next; no configurations: the plan is at its end."""

    actions: np.ndarray  # int64 (k,), ascending, none of them tested before
    reason: str  # why these, or why no more
    widest: float | None = None  # plan successive: the highest step of the frontier so far


def first_actions(space: KnobSpace, options: ProfileOptions) -> np.ndarray:
    """What any plan tests before it has measured anything: all of a fixed plan, the first round of an adaptive one.

    Raises:
        ProfileError: a number of configurations that the space or the plan does not have.
    """
    if options.adaptive:
        return next_round(space, options, None).actions
    return plan_actions(space, options.plan, options.configurations, options.seed)


def next_round(space: KnobSpace, options: ProfileOptions, scouted: Scouted | None) -> Round:
    """The next round of an adaptive plan: a function of its arguments alone.

    Args:
        options: their `plan`, `configurations`, `bound` and `seed` are read.
        scouted: all rounds so far; None before the first.

    Raises:
        ProfileError: a plan without rounds, or a number of configurations that the space does not have.
    """
    count = checked_count(space, options.configurations)
    chooser = _CHOOSERS.get(options.plan)
    if chooser is None:
        raise ProfileError(f"plan: {options.plan!r} has no rounds, expected one of {list(_CHOOSERS)}")
    if scouted is None:
        first = corners(space, count) if options.plan == "boundary" else anchors(space, count)
        return Round(actions=np.sort(np.array(first, dtype=np.int64)), reason="the ends of the knobs")
    left = np.setdiff1d(actions_pool(space, options.seed), scouted.actions)
    room = min(count - len(scouted.actions), len(left))
    if room < 0:
        raise ProfileError(
            f"configurations: {len(scouted.actions)} were tested in the rounds so far, expected at most {count}"
        )
    return chooser(scouted, left, room, options)


def corners(space: KnobSpace, count: int) -> list[int]:
    """The anchors, then further corners of the knob space while they take at most half of `count` places."""
    chosen = anchors(space, count)
    ends = [sorted({0, size - 1}) for size in space.shape]
    room = max(len(chosen), count // 2)
    tail = [end[-1] for end in ends[COMBINED_KNOBS:]]
    for head in itertools.product(*ends[:COMBINED_KNOBS]):
        if len(chosen) >= room:
            break
        action = int(np.ravel_multi_index((*head, *tail), space.shape))
        if action not in chosen:
            chosen.append(action)
    return chosen


def _stratified(scouted: Scouted, left: np.ndarray, room: int, options: ProfileOptions) -> Round:
    if not room:
        return Round(actions=left[:0], reason="the number of configurations is reached")
    known = np.log(scouted.configuration_ms)
    expected, _ = predict(scouted.space, scouted.actions, known, left)
    edges = np.linspace(known.min(), known.max(), STRATA + 1)[1:-1]
    stratum, held = np.digitize(expected, edges), np.bincount(np.digitize(known, edges), minlength=STRATA)
    points = knob_levels(scouted.space, left)
    taken = knob_levels(scouted.space, scouted.actions)
    distance = ((points[:, None] - taken[None]) ** 2).sum(axis=2).min(axis=1)
    chosen: list[int] = []
    for _ in range(min(room, ROUND_CONFIGURATIONS)):
        open_strata = np.bincount(stratum[distance >= 0], minlength=STRATA) > 0
        emptiest = int(np.argmin(np.where(open_strata, held, np.iinfo(np.int64).max)))
        best = int(np.argmax(np.where(stratum == emptiest, distance, -1.0)))
        chosen.append(best)
        held[emptiest] += 1
        near = ((points - points[best]) ** 2).sum(axis=1)
        distance = np.where(distance >= 0, np.minimum(distance, near), -1.0)
        distance[best] = -1.0
    return Round(actions=np.sort(left[chosen]), reason=f"evenly over {STRATA} strata of latency")


def _boundary(scouted: Scouted, left: np.ndarray, room: int, options: ProfileOptions) -> Round:
    if not room:
        return Round(actions=left[:0], reason="the number of configurations is reached")
    accuracy, latency = scouted.accuracy.mean(axis=0, dtype=np.float64), scouted.configuration_ms
    columns = frontier_columns(latency, accuracy)
    expected_ms, expected, _ = _expected(scouted, left)
    segment = np.clip(np.searchsorted(latency[columns], expected_ms, side="right") - 1, 0, None)
    above = expected - accuracy[columns[segment]]
    order = np.lexsort((left, -above))
    place = np.empty(len(left), dtype=np.int64)  # of a configuration among those of its segment, best first
    for part in range(len(columns)):
        inside = order[segment[order] == part]
        place[inside] = np.arange(len(inside))
    chosen = np.lexsort((left, -above, place))[: min(room, ROUND_CONFIGURATIONS)]
    return Round(actions=np.sort(left[chosen]), reason="around the frontier")


def _successive(scouted: Scouted, left: np.ndarray, room: int, options: ProfileOptions) -> Round:
    bound = DEFAULT_BOUND if options.bound is None else options.bound
    steps = frontier_steps(scouted, options.seed)
    widest = float(steps.height.max(initial=0.0))
    if widest <= bound:
        return Round(actions=left[:0], reason=f"no step of the frontier is over {bound:g}", widest=widest)
    if not room:
        return Round(actions=left[:0], reason="the most configurations are reached", widest=widest)
    chosen = _between(scouted, steps, left, min(room, ROUND_CONFIGURATIONS), bound)
    if not chosen:
        reason = f"no untested configuration is expected to split a step over {bound:g}"
        return Round(actions=left[:0], reason=reason, widest=widest)
    return Round(actions=np.sort(left[chosen]), reason="where the frontier's steps are widest", widest=widest)


def _between(scouted: Scouted, steps: Steps, left: np.ndarray, count: int, bound: float) -> list[int]:
    """For the highest steps over the bound, the configuration between their ends that may raise the frontier most.

    A configuration raises it from its own latency up to the dearer end, by its accuracy less that of the cheaper end:
    the area of that is what counts. On an even slope it is largest in the middle.
    """
    expected_ms, expected, spread = _expected(scouted, left)
    hope = expected + HOPE * spread
    chosen: list[int] = []
    for step in np.argsort(-steps.height, kind="stable").tolist():
        if steps.height[step] <= bound or len(chosen) == count:
            break
        inside = (expected_ms > steps.low_ms[step]) & (expected_ms < steps.high_ms[step])
        rise = np.minimum(hope, steps.top[step]) - steps.base[step]
        area = np.where(inside, (steps.high_ms[step] - expected_ms) * rise, 0.0)
        if area.max(initial=0.0) > 0:
            chosen.append(int(np.argmax(area)))
    return chosen


def _expected(scouted: Scouted, left: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expected latency in ms, expected accuracy and its standard deviation of untested configurations, (k,) each."""
    log_ms, _ = predict(scouted.space, scouted.actions, np.log(scouted.configuration_ms), left)
    accuracy = scouted.accuracy.mean(axis=0, dtype=np.float64)
    return np.exp(log_ms), *predict(scouted.space, scouted.actions, accuracy, left)


_CHOOSERS: dict[str, Callable[[Scouted, np.ndarray, int, ProfileOptions], Round]] = {
    "stratified": _stratified,
    "boundary": _boundary,
    "successive": _successive,
}
