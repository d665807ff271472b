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
"""Shares of dear calls at which routers are asked."""


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
    """PGR at 0, `SHARES` and 1: accuracies (..., shares) at `SHARES`, and those of the models (...) alone.

    NaN inside where the dear model is no better than the cheap one.

    >>> gap_recovered(np.full(19, 0.7), np.array(0.6), np.array(0.8))[[0, 1, -1]].round(2).tolist()
    [0.0, 0.5, 1.0]
    """
    inside = ratio(accuracy - cheap[..., None], (dear - cheap)[..., None])
    ends = np.zeros((*inside.shape[:-1], 1))
    return np.concatenate([ends, inside, ends + 1.0], axis=-1)


def mean_gap_recovered(recovered: np.ndarray) -> np.ndarray:
    """APGR: area under PGR (..., shares with both ends) over the share of dear calls, by the trapezoid rule."""
    return np.trapezoid(recovered, [0.0, *SHARES, 1.0], axis=-1)


def share_needed(recovered: np.ndarray, wanted: float) -> float:
    """CPT: the smallest share of dear calls at which PGR (shares with both ends,) reaches `wanted`, interpolated.

    >>> share_needed(np.linspace(0, 1, 21), 0.5)
    0.5
    """
    shares = np.array([0.0, *SHARES, 1.0])
    first = int(np.argmax(recovered >= wanted))
    if first == 0:
        return 0.0
    low, high = recovered[first - 1], recovered[first]
    return float(shares[first - 1] + (wanted - low) / (high - low) * (shares[first] - shares[first - 1]))


def routing_section(
    test: Problem, shares: Mapping[str, Sequence[np.ndarray]], bootstrap: SceneBootstrap
) -> dict[str, dict[str, Any]]:
    """APGR with its interval, CPT50 and CPT80 of every contender; None where the dear model is no better.

    shares: contender -> shares (n, 2) under each of `share_budgets`. Models are judged on the same test samples.
    """
    cheap, dear = test.cheapest, 1 - test.cheapest
    alone = test.accuracy[:, [cheap, dear]]
    value = {}
    for name, parts in shares.items():
        columns = np.column_stack([*(sample_accuracy(test, part) for part in parts), alone])
        recovered = _recovered(columns.mean(axis=0))
        known = bool(np.isfinite(recovered).all())
        ends = interval(mean_gap_recovered(_recovered(bootstrap.means(columns))))
        value[name] = {
            "APGR": float(mean_gap_recovered(recovered)) if known else None,
            "APGR_ci": ends.tolist() if known and np.isfinite(ends).all() else None,
            "CPT50": share_needed(recovered, 0.5) if known else None,
            "CPT80": share_needed(recovered, 0.8) if known else None,
        }
    return value


def _recovered(means: np.ndarray) -> np.ndarray:
    """PGR from mean accuracies (..., shares + 2): at `SHARES`, then of the cheap and the dear model."""
    return gap_recovered(means[..., :-2], means[..., -2], means[..., -1])
