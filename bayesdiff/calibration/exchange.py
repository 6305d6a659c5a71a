"""The truth is exchangeable with its draws: checks that no independent pixels or bins are needed for.

Given the data, the truth and L independent draws of a correct posterior are L + 1 draws of one law. Any of them could
have been the truth. So a statistic T that is computed for each of them in the same way, with the others as its draws,
has a known law: in every simulation the truth's value is one of the L + 1 values at random. The mean over simulations
of the truth's values therefore has

    expectation  mean_i mean_t T_it,      variance  sum_i var_t(T_it) / N^2,

and nothing needs to be known of correlations inside a field, or of the law of T.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import norm


class ExchangeTest(NamedTuple):
    """A mean over simulations against what it would be if the truth were one of the draws, each of one shape.

    Attributes:
        observed: mean of the truths' values.
        expected: mean over all points.
        standard_error: standard deviation of ``observed`` under exchange.
        z: (observed - expected) / standard_error; 0 where all points agree.
        p_value: two-sided, of the normal law that a mean over many simulations follows.
    """

    observed: np.ndarray
    expected: np.ndarray
    standard_error: np.ndarray
    z: np.ndarray
    p_value: np.ndarray


def exchange_test(values: np.ndarray) -> ExchangeTest:
    """Compare the truths with the draws.

    Args:
        values: (simulation, 1 + draw, ...), the truth's value first. The function that gave them must treat all points
            of a simulation alike.
    """
    observed = values[:, 0].mean(axis=0)
    expected = values.mean(axis=(0, 1))
    standard_error = np.sqrt(values.var(axis=1).sum(axis=0)) / values.shape[0]
    varied = standard_error > 1e-12 * (1 + np.abs(expected))
    z = np.where(varied, (observed - expected) / np.where(varied, standard_error, 1.0), 0.0)
    return ExchangeTest(observed, expected, standard_error, z, 2 * norm.sf(np.abs(z)))


def with_truth_first(truth: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """All points (simulation, 1 + draw, ...) of truth (simulation, ...) and draws (simulation, draw, ...)."""
    return np.concatenate([truth[:, None], draws], axis=1)
