"""Ranks of the truth among posterior draws, and the thinning that makes them mean something.

If the parameters theta* come from the prior and the data y from the likelihood at theta*, then, given y, theta* is one
more draw of the posterior. Among it and L independent draws every order is equally likely, so the rank of theta* in any
scalar quantity is uniform on {0, ..., L} (Cook, Gelman and Rubin 2006; Talts et al. 2018, arXiv:1804.06788). The
quantity may depend on the data as well (Modrak et al. 2023, arXiv:2211.02383).

Draws of a Markov chain are not independent, and ranks among them are too often extreme, so chains are thinned first to
no more draws than they are worth.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from bayesdiff.calibration.arrays import Key, generator, matched


class Thinned(NamedTuple):
    """Draws that may be taken as independent.

    Attributes:
        draws: (simulation, draw, ...), the same number from every simulation.
        ess: (simulation,) effective sample size of the whole chains, the smallest of bulk and tail over the quantities
            that moved; NaN where none did, or a single chain of one did not.
        enough: (simulation,) whether it is at least the number of draws kept.
    """

    draws: np.ndarray
    ess: np.ndarray
    enough: np.ndarray


def rank_statistics(truth: ArrayLike, draws: ArrayLike, key: Key = 0) -> np.ndarray:
    """Rank of the truth among the draws; ties are broken at random.

    Args:
        truth: (simulation, ...).
        draws: (simulation, draw, ...), independent draws.
        key: for the ties: an integer, a JAX key or a NumPy generator.

    Returns:
        (simulation, ...) integers from 0 to the number of draws.

    Raises:
        ValueError: if the shapes do not fit or a value is NaN.

    >>> rank_statistics([0.5, 3.0], [[0.1, 0.7, 0.2], [1.0, 2.0, 2.5]])
    array([2, 3])
    """
    truth, draws = matched(truth, draws)
    below = np.sum(draws < truth[:, None], axis=1)
    equal = np.sum(draws == truth[:, None], axis=1)
    return below + generator(key).integers(0, equal + 1)


def ranks_of_all(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rank 0, ..., n - 1 of each of n points along the first axis; ties are broken at random, each by itself."""
    # Pixels tied alike, under a mask, would else rise and fall together.
    order = np.lexsort((rng.random(points.shape), points), axis=0)
    ranks = np.empty(points.shape, dtype=np.int32)
    counting = np.arange(points.shape[0], dtype=np.int32).reshape(-1, *(1,) * (points.ndim - 1))
    np.put_along_axis(ranks, order, np.broadcast_to(counting, points.shape), axis=0)
    return ranks


def thin(draws: ArrayLike, num_draws: int | None = None) -> Thinned:
    """Equally spaced draws of every simulation's chains, as many as the chains are worth.

    Args:
        draws: (simulation, chain, draw, ...).
        num_draws: how many to keep of each simulation. Default: the number that 95 % of the simulations support, by the
            smallest of their effective sample sizes. Simulations that support fewer stay, and ``enough`` says which.

    Returns:
        The draws kept, the effective sample sizes, and which of them are large enough.

    Raises:
        ValueError: if the array has no axes (simulation, chain, draw), more draws are asked for than there are, or the
            chains are too short or too stuck to have an effective sample size.
    """
    # ArviZ takes a second to import, which ranks of independent draws need not wait for.
    from arviz_stats import ess

    draws = np.asarray(draws)
    if draws.ndim < 3:
        raise ValueError(f"draws (simulation, chain, draw, ...) expected, got {draws.shape}")
    num_simulations, num_chains, length = draws.shape[:3]
    total = num_chains * length
    quantities = draws.reshape(num_simulations, num_chains, length, -1)
    kinds = {"bulk": None, "tail": (0.05, 0.95)}
    measured = np.stack([ess(quantities, chain_axis=1, draw_axis=2, method=k, prob=p) for k, p in kinds.items()])
    moved = np.any(quantities != quantities[:, :1, :1], axis=(1, 2))
    measured = np.where(moved, measured, np.nan).min(axis=0)
    # What has one value in several chains, each from a start of its own, is not stuck: there is nothing to it.
    smallest = smallest_known(measured) if num_chains > 1 else measured.min(axis=1)
    known = smallest[np.isfinite(smallest)]
    if num_draws is None:
        if known.size == 0:
            raise ValueError(f"no effective sample size from {num_chains} chains of {length} draws that never move")
        num_draws = int(np.clip(np.quantile(known, 0.05), 1, total))
    if not 1 <= num_draws <= total:
        raise ValueError(f"num_draws must lie in [1, {total}], the draws that there are, got {num_draws}")
    # Positions along the chains laid end to end.
    positions = ((np.arange(num_draws) + 0.5) * total / num_draws).astype(int)
    kept = draws.reshape(num_simulations, total, *draws.shape[3:])[:, positions]
    return Thinned(kept, smallest, smallest >= num_draws)


def smallest_known(values: np.ndarray) -> np.ndarray:
    """Smallest value of each row (simulation, quantity), NaN left out; NaN where there is no other."""
    smallest = np.where(np.isnan(values), np.inf, values).min(axis=1)
    return np.where(np.isinf(smallest), np.nan, smallest)
