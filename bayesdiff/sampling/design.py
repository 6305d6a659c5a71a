"""The points at which a surrogate asks for the density: where they lie, and how closely each is followed."""

from __future__ import annotations

import numpy as np

from .gaussian_process import Fit, fit

# Points so many nat below the best one need not be followed closely, the less the lower they are.
_DEEP, _DOUBT = 20.0, 0.5


def spread_out(rng: np.random.Generator, draws: np.ndarray, num: int, inflate: float) -> np.ndarray:
    """``num`` of the draws, far from each other, moved away from their mean by ``inflate``."""
    mean = draws.mean(axis=0)
    whitening = np.linalg.inv(np.linalg.cholesky(np.cov(draws.T).reshape(draws.shape[1], -1)))
    white = (draws - mean) @ whitening.T
    # The outermost draws would all be chosen first; the design is for the bulk.
    candidates = np.flatnonzero((white**2).sum(axis=1) < 2.0 * draws.shape[1] + 2.0)
    chosen = [int(rng.choice(candidates))]
    distance = np.full(len(candidates), np.inf)
    while len(chosen) < min(num, len(candidates)):
        distance = np.minimum(distance, ((white[candidates] - white[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(candidates[np.argmax(distance)]))
    return mean + inflate * (draws[chosen] - mean)


def least_sure(rng: np.random.Generator, deviation: np.ndarray, num: int) -> np.ndarray:
    """``num`` of the draws, at random among the least certain tenth, or as many as are needed."""
    candidates = np.argsort(-deviation)[: max(num, len(deviation) // 10)]
    return rng.choice(candidates, num, replace=False)


def interpolate(points: np.ndarray, draws: np.ndarray, values: np.ndarray, heights: np.ndarray, capacity: int) -> Fit:
    """The process through ``values`` at ``points``, whitened by ``draws`` and the best points, all in coordinates.

    Far below the best point the density can vary by thousands of nat. A process that followed it there would be wrong
    where it counts, hence the doubt. Chains that a wrong process has led into a corner would make a poor scale: the
    points that are about as good as the best one tell how wide the posterior can be.
    """
    depth = heights.max() - heights
    best = np.argsort(depth)[: max(points.shape[1] + 2, int(np.sum(depth < _DEEP)))]
    doubt = _DOUBT * np.maximum(depth - max(_DEEP, depth[best].max()), 0.0)
    covariance = (np.cov(draws.T) + np.cov(points[best].T)).reshape(draws.shape[1], -1)
    whitening = np.linalg.inv(np.linalg.cholesky(covariance + 1e-10 * np.trace(covariance) * np.eye(len(covariance))))
    return fit(points, values, draws.mean(axis=0), whitening, capacity, doubt)
