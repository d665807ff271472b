"""Paired bootstrap over scenes: whole scenes are drawn, and every contender is judged on the same draw."""

import numpy as np

from paceline.errors import OutcomesError

REPLICATES_PER_BLOCK = 256
"""Draws held at once, so that memory stays small for many scenes."""


class SceneBootstrap:
    """Draws of scenes with replacement, as counts.

    >>> bootstrap = SceneBootstrap(np.array(["a", "a", "b"]), replicates=100)
    >>> bootstrap.means(np.array([1.0, 1.0, 1.0])).shape
    (100,)
    """

    def __init__(self, scene: np.ndarray, *, replicates: int = 2000, seed: int = 0) -> None:
        if replicates < 1 or not len(scene):
            raise OutcomesError(
                f"bootstrap: got {replicates} replicates of {len(scene)} samples, expected one or more"
            )
        _, self._scene_of = np.unique(scene, return_inverse=True)
        self._scenes = int(self._scene_of.max()) + 1
        self._sizes = np.bincount(self._scene_of).astype(np.float64)
        self.replicates = replicates
        self._seed = seed

    def means(self, values: np.ndarray) -> np.ndarray:
        """Means over samples under every draw: (n,) -> (replicates,) or (n, k) -> (replicates, k).

        Columns share the draws, and so do separate calls: differences of means are paired.
        """
        columns = values.reshape(len(values), -1)
        sums = np.zeros((self._scenes, columns.shape[1]))
        np.add.at(sums, self._scene_of, columns)
        totals = np.concatenate([sums, self._sizes[:, None]], axis=1)
        rng = np.random.default_rng(self._seed)
        blocks = []
        for start in range(0, self.replicates, REPLICATES_PER_BLOCK):
            count = min(REPLICATES_PER_BLOCK, self.replicates - start)
            drawn = rng.integers(0, self._scenes, (count, self._scenes))
            offsets = np.arange(count)[:, None] * self._scenes
            counts = np.bincount((drawn + offsets).ravel(), minlength=count * self._scenes)
            drawn_totals = counts.reshape(count, self._scenes) @ totals
            blocks.append(drawn_totals[:, :-1] / drawn_totals[:, -1:])
        means = np.concatenate(blocks)
        return means[:, 0] if values.ndim == 1 else means


def interval(draws: np.ndarray, level: float = 0.95) -> np.ndarray:
    """Percentile interval over the first axis: (replicates, ...) -> (2, ...); NaN draws are left out.

    NaN where fewer than half of the draws are numbers.
    """
    known = np.isfinite(draws)
    enough = known.mean(axis=0) >= 0.5
    filled = np.where(enough, draws, 0.0)
    filled = np.where(np.isfinite(filled), filled, np.nan)
    ends = np.nanquantile(filled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.where(enough, ends, np.nan)


def ratio(numerator: np.ndarray, denominator: np.ndarray, smallest: float = 1e-9) -> np.ndarray:
    """numerator / denominator, NaN where the denominator is not positive."""
    good = denominator > smallest
    return np.where(good, numerator / np.where(good, denominator, 1.0), np.nan)
