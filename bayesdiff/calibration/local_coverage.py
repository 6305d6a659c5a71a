"""Coverage as a function of the true parameter, or of anything known of a simulation.

Coverage is nominal on average over the prior. At a **given true value** it is not, even for the exact posterior: near
the edge of a uniform prior all central intervals lie on one side of the truth. A binomial band around the level is
therefore wrong there. What a correct posterior does predict is the coverage when a *draw* takes the place of the truth,
because the two are exchangeable (`bayesdiff.calibration.exchange`): the expectation in every bin is the coverage of all
L + 1 points that fall into it, and the truths must scatter around it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import chi2

from bayesdiff.calibration.arrays import Key, generator, matched, refuse_nan
from bayesdiff.calibration.coverage import SIGMAS, central_share
from bayesdiff.calibration.exchange import exchange_test, with_truth_first
from bayesdiff.calibration.ranks import ranks_of_all


class LocalCoverage(NamedTuple):
    """Coverage of central intervals in bins.

    Attributes:
        edges: (bin + 1,) of the variable.
        number: (bin,) truths in each bin.
        coverage: (bin,) fraction of those truths that are covered; NaN in an empty bin.
        expected: (bin,) coverage that a correct posterior would have there, which is not the level in general.
        standard_error: (bin,) of the difference between the two.
        z: (bin,) that difference in standard errors; NaN in an empty bin.
        p_value: of all bins together.
    """

    edges: np.ndarray
    number: np.ndarray
    coverage: np.ndarray
    expected: np.ndarray
    standard_error: np.ndarray
    z: np.ndarray
    p_value: float


def local_coverage(
    truth: ArrayLike,
    draws: ArrayLike,
    by: ArrayLike | None = None,
    by_draws: ArrayLike | None = None,
    level: float = SIGMAS[0],
    num_bins: int = 8,
    key: Key = 0,
) -> LocalCoverage:
    """Coverage of one quantity's central interval in bins of a variable that hold equally many points.

    Args:
        truth: (simulation,) of the quantity.
        draws: (simulation, draw) of the quantity.
        by: (simulation,) the variable at the truth. Default: the quantity itself.
        by_draws: (simulation, draw) the variable at the draws, if it is another parameter. A variable that is known
            from the data, such as a property of the observation, has none, and its expected coverage is the level.
        level: of the interval.
        num_bins: number of bins.
        key: for ties.

    Raises:
        ValueError: if the shapes do not fit or a value is NaN.
    """
    truth, draws = matched(truth, draws, smallest=2)
    if truth.ndim != 1:
        raise ValueError(f"one quantity expected, truth (simulation,), got {truth.shape}")
    points = with_truth_first(truth, draws)
    if by is None:
        variable = points
    elif by_draws is None:
        by = np.asarray(by, dtype=float)
        if by.shape != truth.shape:
            raise ValueError(f"by has a value for each of {len(truth)} simulations, got the shape {by.shape}")
        variable = np.broadcast_to(by[:, None], points.shape)
        refuse_nan("by", variable)
    else:
        variable = with_truth_first(*matched(by, by_draws))
    if variable.shape != points.shape:
        raise ValueError(f"the variable has a value for each point, {points.shape} in all, got {variable.shape}")
    rng = generator(key)
    ranks = np.stack([ranks_of_all(simulation, rng) for simulation in points])
    inside = central_share(draws.shape[1], [level])[0][ranks]
    edges = np.quantile(variable, np.linspace(0, 1, num_bins + 1))
    member = np.clip(np.searchsorted(edges, variable, side="right") - 1, 0, num_bins - 1)[..., None] == np.arange(
        num_bins
    )
    total = member.sum(axis=(0, 1))
    expected = np.sum(member * inside[..., None], axis=(0, 1)) / np.maximum(total, 1)
    # Its mean over all points vanishes, so the truths' sum is the excess of covered truths in the bin.
    excess = member * (inside[..., None] - expected)
    test = exchange_test(excess)
    number = member[:, 0].sum(axis=0)
    some = number > 0
    per_truth = len(truth) / np.maximum(number, 1)
    return LocalCoverage(
        edges=edges,
        number=number,
        coverage=np.where(some, expected + test.observed * per_truth, np.nan),
        expected=expected,
        standard_error=test.standard_error * per_truth,
        z=np.where(some, test.z, np.nan),
        p_value=_joint_p_value(excess),
    )


def _joint_p_value(values: np.ndarray) -> float:
    """Wald test that the truths' mean (simulation, point, bin) is that of all points."""
    centred = values - values.mean(axis=1, keepdims=True)
    covariance = np.einsum("itb,itc->bc", centred, centred) / values.shape[1]
    difference = centred[:, 0].sum(axis=0)
    inverse = np.linalg.pinv(covariance, rcond=1e-9, hermitian=True)
    return float(chi2.sf(difference @ inverse @ difference, max(1, np.linalg.matrix_rank(covariance, hermitian=True))))
