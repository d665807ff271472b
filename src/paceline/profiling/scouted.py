"""What the rounds of an adaptive plan have measured so far, and the frontier of accuracy over latency in it."""

from dataclasses import dataclass

import numpy as np

from paceline.errors import ProfileError
from paceline.knobs import KnobSpace
from paceline.outcomes.bootstrap import SceneBootstrap

REPLICATES = 500
"""Draws of the bootstrap behind a step's interval."""
LEVEL = 0.95
"""Of the two-sided interval whose upper end is a step's height."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scouted:
    """Outcomes of n scouting samples under the m configurations of all rounds so far, every cell scored."""

    space: KnobSpace
    actions: np.ndarray  # int64 (m,), ascending
    accuracy: np.ndarray  # float (n, m) in [0, 1]
    latency_ms: np.ndarray  # float (n, m); NaN = not timed
    scene: np.ndarray  # str (n,): equal for equal images

    def __post_init__(self) -> None:
        shape = (len(self.scene), len(self.actions))
        for name in ("accuracy", "latency_ms"):
            if getattr(self, name).shape != shape:
                raise ProfileError(
                    f"scouting: {name} has shape {getattr(self, name).shape}, expected {shape}"
                )
        if np.isnan(self.accuracy).any():
            raise ProfileError("scouting: some configurations lack a score; expected one in every cell")
        if np.isnan(self.latency_ms).all(axis=0).any():
            raise ProfileError(
                "scouting: some configurations were not timed on any scouting sample; time more samples"
            )

    @property
    def configuration_ms(self) -> np.ndarray:
        """Median latency of each configuration, (m,): a spike among few timed samples must not move it."""
        return np.nanmedian(self.latency_ms, axis=0)


def frontier_columns(latency_ms: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Columns on the frontier: every one more accurate than all that are not slower. (m,) each -> int64 (k,).

    >>> frontier_columns(np.array([30.0, 10.0, 20.0, 40.0]), np.array([0.5, 0.4, 0.6, 0.7])).tolist()
    [1, 2, 3]
    """
    kept: list[int] = []
    for column in np.lexsort((-accuracy, latency_ms)).tolist():
        if not kept or accuracy[column] > accuracy[kept[-1]]:
            kept.append(column)
    return np.array(kept, dtype=np.int64)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Steps:
    """The k - 1 steps between neighbours of a frontier, cheapest first.

    Between the latencies of two neighbours an untested configuration may reach anything from the accuracy of the
    cheaper to that of the dearer: that is the frontier's interval there, and `height` is how wide it may be.
    """

    columns: np.ndarray  # int64 (k,): the frontier
    low_ms: np.ndarray  # float64 (k - 1,): latency of the cheaper end
    high_ms: np.ndarray  # float64 (k - 1,): of the dearer one
    base: np.ndarray  # float64 (k - 1,): accuracy of the cheaper end
    top: np.ndarray  # float64 (k - 1,): of the dearer one
    height: np.ndarray  # float64 (k - 1,): upper end of the interval of the difference in accuracy


def frontier_steps(scouted: Scouted, seed: int = 0) -> Steps:
    """The frontier's steps, with intervals by a paired bootstrap over images."""
    accuracy, latency = scouted.accuracy.mean(axis=0, dtype=np.float64), scouted.configuration_ms
    columns = frontier_columns(latency, accuracy)
    rises = np.diff(scouted.accuracy[:, columns].astype(np.float64), axis=1)
    height = np.zeros(len(columns) - 1)
    if len(height):
        draws = SceneBootstrap(scouted.scene, replicates=REPLICATES, seed=seed).means(rises)
        height = np.quantile(draws, (1 + LEVEL) / 2, axis=0)
    return Steps(
        columns=columns,
        low_ms=latency[columns[:-1]],
        high_ms=latency[columns[1:]],
        base=accuracy[columns[:-1]],
        top=accuracy[columns[1:]],
        height=height,
    )
