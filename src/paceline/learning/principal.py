"""Principal components of features: the directions in which training samples differ most."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PrincipalComponents:
    """z = (x - centre) @ components, for x of f numbers and z of k."""

    centre: np.ndarray  # float64 (f,): mean of the training rows
    components: np.ndarray  # float64 (f, k): orthonormal columns, the widest direction first

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """float32 (n, k) of rows (n, f)."""
        return ((rows - self.centre) @ self.components).astype(np.float32)


def principal_components(rows: np.ndarray, count: int) -> PrincipalComponents:
    """The first `count` principal components of rows (n, f), or as many as there are: min(count, n, f).

    From the smaller of the f x f covariance and the n x n products of samples, so that neither many samples nor many
    features are a problem. The sign of a component is that of its largest entry.
    """
    n, f = rows.shape
    centre = rows.mean(axis=0, dtype=np.float64)
    centred = rows - centre
    kept = min(count, n, f)
    if f <= n:
        _, vectors = np.linalg.eigh(centred.T @ centred)
        components = vectors[:, ::-1][:, :kept]
    else:
        values, vectors = np.linalg.eigh(centred @ centred.T)
        spread = np.sqrt(np.maximum(values[::-1][:kept], np.finfo(np.float64).tiny))
        components = centred.T @ vectors[:, ::-1][:, :kept] / spread
    largest = components[np.abs(components).argmax(axis=0), np.arange(kept)]
    return PrincipalComponents(centre=centre, components=components * np.where(largest < 0, -1.0, 1.0))
