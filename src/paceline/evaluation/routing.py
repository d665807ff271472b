"""Numbers of a router between a cheap and a dear model: how much of the gap is bought with how many dear calls.

Performance gap recovered PGR = (accuracy - cheap's) / (dear's - cheap's); APGR is its mean over shares of dear calls
from 0 to 1; CPT(x) the smallest share at which PGR reaches x (Ong et al. 2024, RouteLLM).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paceline.evaluation.metrics import sample_accuracy
from paceline.learning.problem import Problem
from paceline.outcomes.bootstrap import SceneBootstrap, interval, ratio

SHARES = tuple(round(float(share), 2) for share in np.linspace(0.05, 0.95, 19))
"""Shares of dear calls that routers are asked for."""


def share_budgets(cheap_ms: float, dear_ms: float) -> tuple[float, ...]:
    """Average budgets that allow for `SHARES` of dear calls."""
    return tuple(cheap_ms + share * (dear_ms - cheap_ms) for share in SHARES)


def budgets_of(problem: Problem) -> tuple[float, ...]:
    """`share_budgets` of a problem whose two configurations have prices; none for any other."""
    means = problem.configuration_mean_ms
    if not problem.priced or len(means) != 2 or means[0] == means[1]:
        return ()
    return share_budgets(float(means.min()), float(means.max()))


def gap_recovered(accuracy: np.ndarray, cheap: np.ndarray, dear: np.ndarray) -> np.ndarray:
    """PGR of accuracies (..., budgets), from those of the models (...) alone; NaN where the dear one is no better.

    >>> gap_recovered(np.array([0.6, 0.7, 0.8]), np.array(0.6), np.array(0.8)).round(2).tolist()
    [0.0, 0.5, 1.0]
    """
    return ratio(accuracy - cheap[..., None], (dear - cheap)[..., None])


def router_curve(share: np.ndarray, recovered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares of dear calls in ascending order and the PGR at each, (..., budgets + 2), both models alone included.

    Of equal shares the smallest PGR comes first, in whatever order the budgets came.

    Args:
        share: of dear calls that were really made under each budget, (..., budgets).
        recovered: PGR there, of the same shape.
    """
    order = np.lexsort((recovered, share), axis=-1)
    nothing = np.zeros((*share.shape[:-1], 1))

    def whole(inside: np.ndarray) -> np.ndarray:
        ordered = np.take_along_axis(inside, order, axis=-1)
        return np.concatenate([nothing, ordered, nothing + 1.0], axis=-1)

    return whole(share), whole(recovered)


def mean_gap_recovered(share: np.ndarray, recovered: np.ndarray) -> np.ndarray:
    """APGR: area under a `router_curve` over the share of dear calls, by the trapezoid rule."""
    return np.trapezoid(recovered, share, axis=-1)


def share_needed(share: np.ndarray, recovered: np.ndarray, wanted: float) -> float:
    """CPT: the smallest share of dear calls at which a `router_curve` reaches `wanted`, interpolated.

    >>> share_needed(np.array([0.0, 0.4, 1.0]), np.array([0.0, 0.8, 1.0]), 0.5)
    0.25
    """
    first = int(np.argmax(recovered >= wanted))
    if first == 0:
        return 0.0
    part = (wanted - recovered[first - 1]) / (recovered[first] - recovered[first - 1])
    return float(share[first - 1] + part * (share[first] - share[first - 1]))


def routing_section(
    test: Problem, shares: Mapping[str, Sequence[np.ndarray]], bootstrap: SceneBootstrap
) -> dict[str, dict[str, Any]]:
    """APGR with its interval, CPT50 and CPT80 of every contender; None where the dear model is no better.

    Budgets are met on validation samples, so the share of dear calls on these is another one: it is counted, and it is
    what a gap was recovered with (`dear_share`, one per budget).

    shares: contender -> shares (n, 2) under each of `share_budgets`. Models are judged on the same test samples.
    """
    cheap, dear = test.cheapest, 1 - test.cheapest
    alone = test.accuracy[:, [cheap, dear]]
    value = {}
    for name, parts in shares.items():
        reached = [sample_accuracy(test, part) for part in parts]
        columns = np.column_stack([*reached, *(part[:, dear] for part in parts), alone])
        means = columns.mean(axis=0)
        share, recovered = _curve(means)
        known = bool(np.isfinite(recovered).all())
        ends = interval(mean_gap_recovered(*_curve(bootstrap.means(columns))))
        value[name] = {
            "APGR": float(mean_gap_recovered(share, recovered)) if known else None,
            "APGR_ci": ends.tolist() if known and np.isfinite(ends).all() else None,
            "CPT50": share_needed(share, recovered, 0.5) if known else None,
            "CPT80": share_needed(share, recovered, 0.8) if known else None,
            "dear_share": means[len(parts) : -2].tolist(),
        }
    return value


def _curve(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The curve from means (..., 2 budgets + 2): accuracies, shares of dear calls, the cheap and the dear model."""
    accuracy, share = np.split(means[..., :-2], 2, axis=-1)
    return router_curve(share, gap_recovered(accuracy, means[..., -2], means[..., -1]))
