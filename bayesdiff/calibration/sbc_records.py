"""What is kept of every simulation of a calibration study: truth, ranks, the draws it is ranked among, and faults.

Nothing is dropped: a simulation whose chains failed has its faults written beside its ranks, and one without a
posterior has the rank -1.
"""

from __future__ import annotations

from enum import IntFlag
from typing import NamedTuple

import numpy as np

from bayesdiff.calibration.ranks import rank_statistics, smallest_known, thin

NO_RANK = -1


class Fault(IntFlag):
    """Why a simulation is not to be trusted; one simulation may have several."""

    NONE = 0
    NOT_CONVERGED = 1
    NO_START = 2
    NOT_FINITE = 4
    ERROR = 8
    RHAT = 16
    ESS = 32

    @property
    def has_ranks(self) -> bool:
        """Whether there are draws at all."""
        return not self & (Fault.NO_START | Fault.NOT_FINITE | Fault.ERROR)


MEANING = {
    Fault.NOT_CONVERGED: "the algorithm's own test failed",
    Fault.NO_START: "no finite density to start a chain from",
    Fault.NOT_FINITE: "data or draws that are not finite",
    Fault.ERROR: "an error instead of a posterior",
    Fault.RHAT: "R-hat too large",
    Fault.ESS: "fewer effective draws than are ranked",
}


class Records(NamedTuple):
    """Results of some simulations, which are the leading axis of every array.

    Attributes:
        truth: (simulation, quantity).
        ranks: (simulation, quantity) integers from 0 to the number of draws; -1 where there is no posterior.
        draws: (simulation, draw, quantity), thinned; NaN where there is no posterior.
        mean: (simulation, quantity) of all draws of the posterior.
        sd: (simulation, quantity) of all draws.
        rhat: (simulation,) largest rank-normalised split R-hat of the quantities that moved; NaN for independent draws,
            or where none did.
        ess: (simulation,) their smallest effective sample size, bulk and tail; the number of draws if they are
            independent.
        divergences: (simulation,) divergent iterations.
        faults: (simulation,) of the algorithm, as numbers of `Fault`; those of R-hat and ESS depend on thresholds.
    """

    truth: np.ndarray
    ranks: np.ndarray
    draws: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    rhat: np.ndarray
    ess: np.ndarray
    divergences: np.ndarray
    faults: np.ndarray

    @property
    def number(self) -> int:
        """How many simulations."""
        return len(self.truth)

    def rows(self, first: int, stop: int) -> Records:
        """Some of the simulations."""
        return Records(*(x[first:stop] for x in self))


def join(parts: list[Records]) -> Records:
    """Simulations one after the other."""
    return Records(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def record(
    truth: np.ndarray,
    draws: np.ndarray,
    seeds: list[list[int]],
    num_draws: int,
    independent: bool,
    divergences: np.ndarray,
    faults: np.ndarray,
) -> Records:
    """Thin, rank and diagnose.

    Args:
        truth: (simulation, quantity).
        draws: (simulation, chain, draw, quantity).
        seeds: of the random numbers that break ties, for each simulation.
        num_draws: L, how many draws are kept of each.
        independent: whether the draws are, so that neither R-hat nor ESS has a meaning.
        divergences: (simulation,) divergent iterations.
        faults: (simulation,) what is known already.
    """
    finite = np.isfinite(draws).all(axis=(1, 2, 3)) & np.isfinite(truth).all(axis=1)
    faults = np.where(finite, faults, faults | Fault.NOT_FINITE).astype(np.int64)
    ranked = np.array([Fault(int(fault)).has_ranks for fault in faults])
    number, num_quantities = truth.shape
    shape = (number, num_quantities)
    ranks = np.full(shape, NO_RANK, dtype=np.int64)
    kept = np.full((number, num_draws, num_quantities), np.nan, dtype=draws.dtype)
    mean, sd = np.full(shape, np.nan), np.full(shape, np.nan)
    rhat, ess = np.full(number, np.nan), np.full(number, np.nan)
    if ranked.any():
        good = draws[ranked].astype(float)
        mean[ranked], sd[ranked] = good.mean(axis=(1, 2)), good.std(axis=(1, 2), ddof=1)
        if independent:
            kept[ranked] = good.reshape(len(good), -1, num_quantities)[:, :num_draws]
            ess[ranked] = num_draws
        else:
            thinned = thin(good, num_draws)
            kept[ranked], ess[ranked], rhat[ranked] = thinned.draws, thinned.ess, _largest_rhat(good)
    for row in np.flatnonzero(ranked):
        ranks[row] = rank_statistics(truth[row, None], kept[row, None], np.random.default_rng(seeds[row]))[0]
    return Records(truth, ranks, kept, mean, sd, rhat, ess, np.asarray(divergences, dtype=np.int64), faults)


def no_posterior(truth: np.ndarray, num_draws: int, fault: Fault) -> Records:
    """One simulation, truth (1, quantity), without a posterior."""
    draws = np.zeros((1, 1, num_draws, truth.shape[1]), dtype=truth.dtype)
    return record(truth, draws, [[]], num_draws, True, np.zeros(1), np.array([int(fault)]))


def _largest_rhat(draws: np.ndarray) -> np.ndarray:
    from arviz_stats import rhat

    # A chain that never moved has no R-hat, and its effective sample size says so.
    moved = np.any(draws != draws[:, :1, :1], axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        measured = np.asarray(rhat(draws, chain_axis=1, draw_axis=2))
    return -smallest_known(np.where(moved, -measured, np.nan))
