r"""The exponent at which a likelihood is as sure as it has a right to be, from simulations of known truth.

For simulation n the log likelihood l is known at J parameters: the truth, first, and others drawn from a proposal q
that looked at the data alone. Which of them is the truth has the posterior probability

    P_n(b) = exp(b l_n1 - log q_n1) / sum_j exp(b l_nj - log q_nj)

under the power likelihood exp(b l) and a uniform prior. The exponent b maximises the sum of log P_n, a concave function
and a proper score: a likelihood that is right gets b = 1, one that is too sure of itself less (Syring & Martin 2019,
arXiv:1509.00922, choose it by coverage instead).

Where the posterior of one parameter is Gaussian, z standard deviations from its truth, the exponent makes it
1 / sqrt(b) times as wide, and the same score has its maximum in closed form,

.. math:: \sum_n \left(\tfrac12 \log b - \tfrac12 b z_n^2\right), \qquad b = 1 / \overline{z^2} .
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import logsumexp


class Exponent(NamedTuple):
    """A fitted exponent.

    Attributes:
        value: b.
        low: where the sum of log P is lower by half a nat, one standard error below.
        high: one standard error above.
        score: mean of log P at b [nat].
        score_at_one: the same of the likelihood as it is.
    """

    value: float
    low: float
    high: float
    score: float
    score_at_one: float


def fit_exponent(log_likelihood: np.ndarray, log_proposal: np.ndarray, largest: float = 2.0) -> Exponent:
    """Fit the exponent of a power likelihood.

    Args:
        log_likelihood: of each simulation at its candidates, the truth first, shape (N, J).
        log_proposal: log density of the proposal there, up to a constant of each simulation, shape (N, J).
        largest: exponents are searched between 0 and this.

    Raises:
        ValueError: for shapes that differ or fewer than two candidates, or values that are not finite.
    """
    likelihood, proposal = (np.asarray(x, dtype=np.float64) for x in (log_likelihood, log_proposal))
    if likelihood.ndim != 2 or likelihood.shape != proposal.shape or likelihood.shape[1] < 2:
        raise ValueError(
            f"log_likelihood and log_proposal must have one shape (N, J) with J of at least 2, got {likelihood.shape} "
            f"and {proposal.shape}"
        )
    if not (np.isfinite(likelihood).all() and np.isfinite(proposal).all()):
        raise ValueError("log likelihoods and proposals must be finite")

    def score(b: float) -> float:
        logits = b * likelihood - proposal
        return float(np.sum(logits[:, 0] - np.asarray(logsumexp(logits, axis=1))))

    found: Any = minimize_scalar(lambda b: -score(b), bounds=(0.0, largest), method="bounded")
    return _about(float(found.x), score, len(likelihood), (0.0, largest))


def gaussian_exponent(z: np.ndarray) -> Exponent:
    """The exponent at which Gaussian posteriors of one parameter are as wide as their errors.

    Args:
        z: posterior mean less the truth, over the posterior standard deviation, of each simulation, shape (N,).

    Raises:
        ValueError: fewer than two, of another shape, not finite, or all zero.

    Example::

        exponent = gaussian_exponent(study.z[:, 0])
        model = make_model(prior, bd.Tempered(bound, min(exponent.value, 1.0)))
    """
    z = np.asarray(z, dtype=np.float64)
    if z.ndim != 1 or len(z) < 2 or not np.isfinite(z).all() or not np.any(z):
        raise ValueError(
            f"z must be two finite numbers or more, not all zero, got {z.tolist() if z.size < 9 else z.shape}"
        )
    square = float(np.mean(z**2))

    def score(b: float) -> float:
        return 0.5 * len(z) * float(np.log(b) - b * square - np.log(2.0 * np.pi))

    return _about(1.0 / square, score, len(z), (1e-3 / square, 1e3 / square))


def _about(best: float, score: Callable[[float], float], num: int, limits: tuple[float, float]) -> Exponent:
    """The exponent of the highest score, and where the score is lower by half a nat."""
    highest = score(best)
    ends = []
    for end in limits:
        if score(end) > highest - 0.5:
            ends.append(end)
        else:
            root: Any = brentq(lambda b: score(b) - highest + 0.5, min(end, best), max(end, best))
            ends.append(float(root))
    return Exponent(best, ends[0], ends[1], highest / num, score(1.0) / num)
