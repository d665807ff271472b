"""How much choices hang on a group of inputs: what changes when they are mixed up among samples, or hidden."""

from typing import Any

import numpy as np

from paceline.outcomes.bootstrap import SceneBootstrap, interval


def importance(
    changed: np.ndarray, lost: np.ndarray, spent: np.ndarray | None, bootstrap: SceneBootstrap
) -> dict[str, Any]:
    """Numbers of one group of inputs.

    changed: (n, budgets, repeats) whether the choice is another. lost: likewise, accuracy of the choice less that
    without the inputs. spent: likewise, expected latency (or cost) without the inputs less with them; None where times
    are known only afterwards. Intervals are of means over samples by bootstrap over scenes; samples keep all their
    budgets and repeats, so that differences are paired.
    """
    value: dict[str, Any] = {}
    for name, differences in (("changed", changed), ("accuracy_lost", lost), ("latency_change_ms", spent)):
        if differences is None:
            continue
        by_sample = differences.mean(axis=(1, 2), dtype=np.float64)
        value[name] = float(by_sample.mean())
        value[f"{name}_ci"] = interval(bootstrap.means(by_sample)).tolist()
        value[f"{name}_by_budget"] = differences.mean(axis=(0, 2), dtype=np.float64).tolist()
    return value


def orders(count: int, repeats: int, seed: int) -> list[np.ndarray]:
    """Seeded orders in which `count` samples exchange their features, int (count,) each."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(count) for _ in range(repeats)]
