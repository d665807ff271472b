"""Numbers of a router between a cheap and a dear model: how much of the gap is bought with how many dear calls.

Performance gap recovered PGR = (accuracy - cheap's) / (dear's - cheap's); APGR is its mean over shares of dear calls
from 0 to 1; CPT(x) the smallest share at which PGR reaches x (Ong et al. 2024, RouteLLM).
"""

import numpy as np

SHARES = tuple(round(float(share), 2) for share in np.linspace(0.05, 0.95, 19))
"""Shares of dear calls at which routers are asked."""


def share_budgets(cheap_ms: float, dear_ms: float) -> tuple[float, ...]:
    """Average budgets that allow for `SHARES` of dear calls."""
    return tuple(cheap_ms + share * (dear_ms - cheap_ms) for share in SHARES)


def gap_recovered(accuracy: np.ndarray, cheap: np.ndarray, dear: np.ndarray) -> np.ndarray:
    """PGR at 0, `SHARES` and 1: accuracies (..., shares) at `SHARES`, and those of the models (...) alone.

    >>> gap_recovered(np.full(19, 0.7), np.array(0.6), np.array(0.8))[[0, 1, -1]].round(2).tolist()
    [0.0, 0.5, 1.0]
    """
    inside = (accuracy - cheap[..., None]) / (dear - cheap)[..., None]
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
