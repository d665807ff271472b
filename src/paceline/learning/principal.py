"""Principal components of features: the directions in which training samples differ most."""

from dataclasses import dataclass

import numpy as np

SMALLEST_SHARE = 1e-9
"""Directions with less than this share of the widest one's variance are rounding: repeated rows, say, have many."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PrincipalComponents:
    """z = (x - centre) @ components, for x of f numbers and z of k."""

    centre: np.ndarray  # float64 (f,): mean of the training rows
    components: np.ndarray  # float64 (f, k): orthonormal columns, the widest direction first

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """float32 (n, k) of rows (n, f)."""
        return ((rows - self.centre) @ self.components).astype(np.float32)


def principal_components(rows: np.ndarray, count: int) -> PrincipalComponents:
    """The first `count` principal components of rows (n, f), or as many directions as rows differ in, but at least one.

    From the smaller of the f x f covariance and the n x n products of samples, so that neither many samples nor many
    features are a problem. The sign of a component is that of its largest entry.
    """
    n, f = rows.shape
    centre = rows.mean(axis=0, dtype=np.float64)
    centred = rows - centre
    values, vectors = np.linalg.eigh(centred.T @ centred if f <= n else centred @ centred.T)
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = min(count, max(1, int((values > SMALLEST_SHARE * max(values[0], 0.0)).sum())))
    components = vectors[:, :kept]
    if f > n:
        spread = np.sqrt(np.maximum(values[:kept], np.finfo(np.float64).tiny))
        components = centred.T @ components / spread
    largest = components[np.abs(components).argmax(axis=0), np.arange(kept)]
    return PrincipalComponents(centre=centre, components=components * np.where(largest < 0, -1.0, 1.0))
