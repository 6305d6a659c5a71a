"""TARP: tests of accuracy with random points, a check of the joint posterior in any number of dimensions.

For each simulation a reference point is drawn, and the rank of the truth's distance from it among the draws' distances
is the posterior mass that is nearer to the reference than the truth is. For a correct posterior that rank is uniform,
whatever the distance and whatever the law of the reference given the data; the expected coverage at level alpha is then
alpha (Lemos et al. 2023, arXiv:2302.03026). What a violation looks like does depend on both:

* quantities are divided by their prior's standard deviation first, or the largest in its units would decide alone;
* references are drawn from the prior by default, as the truths of other simulations. A reference that knows nothing of
  the data cannot reveal a posterior that ignores the data too, so references that depend on it can be given.

The curve is evaluated where ranks among L draws have their steps and tested exactly as discrete ranks are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from bayesdiff.calibration.arrays import Key, generator, matched, refuse_nan
from bayesdiff.calibration.ecdf import ecdf_test, rank_counts
from bayesdiff.calibration.ranks import rank_statistics
from bayesdiff.calibration.scores import checked_scale


class Tarp(NamedTuple):
    """Expected coverage of regions around random references.

    Attributes:
        levels: (draw + 2,) from 0 to 1 in steps of 1 / (L + 1).
        coverage: (draw + 2,) expected coverage; the diagonal for a correct posterior.
        lower: (draw + 2,) lower end of the bootstrap band, over simulations, of each level on its own.
        upper: (draw + 2,) its upper end.
        area: area between curve and diagonal above level 1/2 (the ATC). Negative for an over-confident posterior,
            positive for one that is too wide; a bias may move it either way, and the p-value is what finds it.
        area_p_value: that an area as far from zero arises by chance.
        p_value: of the whole curve, exact for discrete ranks.
        ranks: (simulation,) number of draws nearer to the reference than the truth.
        num_draws: L.
    """

    levels: np.ndarray
    coverage: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    area: float
    area_p_value: float
    p_value: float
    ranks: np.ndarray
    num_draws: int

    @property
    def adjusted(self) -> float:
        """The smaller of the two p-values, corrected for there being two."""
        return min(1.0, 2.0 * min(self.p_value, self.area_p_value))


def tarp(
    truth: ArrayLike,
    draws: ArrayLike,
    references: ArrayLike | None = None,
    scale: ArrayLike | None = None,
    key: Key = 0,
    num_bootstrap: int = 500,
    band: float = 0.95,
) -> Tarp:
    """Expected coverage of the joint posterior.

    Args:
        truth: (simulation, ...); all other axes are taken as one vector.
        draws: (simulation, draw, ...), independent draws.
        references: (simulation, ...) one for each simulation, in the units of the truth; they may depend on the data
            but not on the truth. Default: the truth of another simulation, a draw of the prior.
        scale: (...) each quantity is divided by it. Default: the standard deviation of the truths.
        key: for references, ties and the bootstrap.
        num_bootstrap: number of bootstrap samples.
        band: probability of the bootstrap band.

    Raises:
        ValueError: if the shapes do not fit, a value is NaN, a scale is not positive, or there is a single simulation
            and no reference.

    >>> rng = np.random.default_rng(1)
    >>> y = rng.standard_normal((300, 1, 2))
    >>> truth, draws = y[:, 0] + rng.standard_normal((300, 2)), y + rng.standard_normal((300, 50, 2))
    >>> bool(tarp(truth, draws).p_value > 0.01), bool(tarp(truth, y + 0.5 * (draws - y)).p_value < 0.01)
    (True, True)
    """
    truth, draws = matched(truth, draws)
    rng = generator(key)
    divide = checked_scale(truth, scale)
    references = other_truths(truth, rng) if references is None else np.asarray(references)
    if references.shape != truth.shape:
        raise ValueError(f"references have the shape of the truth, {truth.shape}, got {references.shape}")
    refuse_nan("references", references)
    far = distances(truth[:, None], references, divide)[:, 0]
    near = np.stack([distances(d[None], r[None], divide)[0] for d, r in zip(draws, references, strict=True)])
    return tarp_of_ranks(rank_statistics(far, near, rng), draws.shape[1], rng, num_bootstrap, band)


def other_truths(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The truth of another simulation for each, every one used once: a draw of the prior, independent of the data.

    Raises:
        ValueError: if there is a single simulation.
    """
    if len(truth) < 2:
        raise ValueError("a single simulation has no other truth to be its reference: give references")
    order = rng.permutation(len(truth))
    references = np.empty_like(truth)
    references[order] = truth[np.roll(order, 1)]
    return references


def box_references(truth: ArrayLike, key: Key = 0) -> np.ndarray:
    """References drawn uniformly from the box that the truths span, as in Lemos et al. 2023, section 4."""
    truth = np.asarray(truth)
    return generator(key).uniform(truth.min(axis=0), truth.max(axis=0), truth.shape)


def distances(points: np.ndarray, references: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Euclidean distance (simulation, point) of points (simulation, point, ...) from references (simulation, ...)."""
    difference = (points - references[:, None]) / scale
    return np.linalg.norm(difference.reshape(*difference.shape[:2], -1), axis=-1)


def tarp_of_ranks(ranks: ArrayLike, num_draws: int, key: Key = 0, num_bootstrap: int = 500, band: float = 0.95) -> Tarp:
    """The curve and its tests from ranks (simulation,) of distances, for distances of one's own."""
    ranks = np.asarray(ranks)
    rng = generator(key)
    number = len(ranks)
    counts = rank_counts(ranks, num_draws)
    # Resampling simulations is drawing a histogram of their ranks.
    again = rng.multinomial(number, counts / number, size=num_bootstrap)
    curves = np.cumsum(np.pad(again, ((0, 0), (1, 0))), axis=1) / number
    lower, upper = np.quantile(curves, [(1 - band) / 2, (1 + band) / 2], axis=0)
    area, area_p_value = _area(ranks, num_draws)
    return Tarp(
        levels=np.arange(num_draws + 2) / (num_draws + 1),
        coverage=np.cumsum(np.pad(counts, (1, 0))) / number,
        lower=lower,
        upper=upper,
        area=area,
        area_p_value=area_p_value,
        p_value=float(ecdf_test(ranks, num_draws).p_value),
        ranks=ranks,
        num_draws=num_draws,
    )


def _area(ranks: np.ndarray, num_draws: int) -> tuple[float, float]:
    """Integral from 1/2 to 1 of the coverage minus the level, a mean over ranks, and its p-value."""
    fraction = (np.arange(num_draws + 1) + 0.5) / (num_draws + 1)
    share = 1 - np.maximum(fraction, 0.5)
    area = float(share[ranks].mean() - share.mean())
    deviation = float(share.std() / np.sqrt(len(ranks)))
    return area, float(2 * norm.sf(abs(area) / deviation)) if deviation > 0 else 1.0
