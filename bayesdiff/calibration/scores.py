"""Proper scores and simple summaries of how far posteriors are from the truth, and how much they learnt.

A proper score is smallest on average for the true posterior, so of two methods that are both calibrated it prefers the
one that learnt more, which no check of calibration can (Gneiting and Raftery 2007). From L draws X_l and the truth y

    CRPS = mean_l |X_l - y| - 1 / (2 L (L - 1)) sum_lm |X_l - X_m|,

and the energy score is the same with Euclidean norms. With L - 1 instead of L in the second term its expectation does
not depend on the number of draws (the fair estimator, Ferro 2014).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import pdist

from bayesdiff.calibration.arrays import matched


class ZScores(NamedTuple):
    """Where the posterior lies and how narrow it is, for each simulation.

    Attributes:
        z: (simulation, ...) (posterior mean - truth) / posterior standard deviation.
        contraction: (simulation, ...) 1 - posterior variance / prior variance: 1 where the data decide everything, 0
            where they say nothing.
        mean_absolute_z: (...) 0.80 for a normal posterior that is calibrated.
    """

    z: np.ndarray
    contraction: np.ndarray
    mean_absolute_z: np.ndarray


def z_scores(truth: ArrayLike, draws: ArrayLike, prior_sd: ArrayLike | None = None) -> ZScores:
    """z-scores and contraction of every posterior.

    Args:
        truth: (simulation, ...).
        draws: (simulation, draw, ...).
        prior_sd: (...) standard deviation of the prior. Default: that of the truths.

    Raises:
        ValueError: if the shapes do not fit, a value is NaN, or there are fewer than 2 draws. A posterior without
            spread gives an infinite z.
    """
    truth, draws = matched(truth, draws, smallest=2)
    sd = draws.std(axis=1, ddof=1)
    prior = np.asarray(truth.std(axis=0, ddof=1) if prior_sd is None else prior_sd)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (draws.mean(axis=1) - truth) / sd
        contraction = 1 - (sd / prior) ** 2
    return ZScores(z, contraction, np.abs(z).mean(axis=0))


def crps(truth: ArrayLike, draws: ArrayLike) -> np.ndarray:
    """Continuous ranked probability score of every simulation and quantity; smaller is better.

    Args:
        truth: (simulation, ...).
        draws: (simulation, draw, ...), 2 or more.

    Returns:
        (simulation, ...) in the units of the quantity. Single values of the fair estimator may be negative.

    Raises:
        ValueError: if the shapes do not fit, a value is NaN, or there are fewer than 2 draws.

    >>> crps([0.0], [[-1.0, 1.0]])
    array([0.])
    """
    truth, draws = matched(truth, draws, smallest=2)
    number = draws.shape[1]
    # In sorted order |X_l - X_m| sums up to weights that increase linearly.
    weight = (2 * np.arange(1, number + 1) - number - 1).reshape(1, -1, *(1,) * (truth.ndim - 1))
    spread = np.sum(weight * np.sort(draws, axis=1), axis=1) / (number * (number - 1))
    return np.abs(draws - truth[:, None]).mean(axis=1) - spread


def energy_score(truth: ArrayLike, draws: ArrayLike, scale: ArrayLike | None = None) -> np.ndarray:
    """Energy score of every simulation, the CRPS of all quantities jointly; smaller is better.

    Args:
        truth: (simulation, ...); all other axes are taken as one vector.
        draws: (simulation, draw, ...), 2 or more.
        scale: (...) each quantity is divided by it, so that none dominates. Default: the standard deviation of the
            truths. Scores can only be compared at the same scale.

    Returns:
        (simulation,)

    Raises:
        ValueError: if the shapes do not fit, a value is NaN, there are fewer than 2 draws, or a scale is not positive.
    """
    truth, draws = matched(truth, draws, smallest=2)
    divide = checked_scale(truth, scale)
    scores = np.empty(len(truth))
    for index, (centre, points) in enumerate(zip(truth / divide, draws, strict=True)):
        white = (points / divide).reshape(len(points), -1)
        scores[index] = np.linalg.norm(white - centre.ravel(), axis=-1).mean() - pdist(white).mean() / 2
    return scores


def checked_scale(truth: np.ndarray, scale: ArrayLike | None) -> np.ndarray:
    """The scale (...) of each quantity of truth (simulation, ...), by default its standard deviation.

    Raises:
        ValueError: if one is not positive and finite.
    """
    divide = np.asarray(truth.std(axis=0) if scale is None else scale, dtype=float)
    divide = np.broadcast_to(divide, truth.shape[1:])
    if not np.all((divide > 0) & np.isfinite(divide)):
        bad = int(np.sum(~((divide > 0) & np.isfinite(divide))))
        raise ValueError(
            f"every quantity needs a positive finite scale, got {bad} of {divide.size} without; leave out quantities "
            "that are constant, or give the scale"
        )
    return divide
