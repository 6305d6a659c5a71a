"""Probability that the whole path of an empirical distribution function stays inside a band, exactly.

Of N independent values, C_i lie below the i-th point of an increasing sequence, each with probability z_i. Then
C_i ~ Binomial(N, z_i), and how unusual a count c is at its point is the two-sided tail probability

    t_i(c) = min(1, 2 min(P(C_i <= c), P(C_i >= c))).

The smallest over the points, gamma = min_i t_i(C_i), measures the whole path, and the band of a threshold g is the set
{c : t_i(c) > g} at every point (Saeilynoja, Buerkner and Vehtari 2022, arXiv:2103.10522, section 2). The p-value is
P(gamma <= observed): one minus the probability that the path stays inside the band of the observed gamma.

That probability follows from a recursion over the points. The counts are the increments of a Poisson process of rate N
given that it ends at N, so that each step is a convolution with one kernel, and the condition is a division at the end
(Moscovich and Nadler 2017, arXiv:1503.04363). Everything is a sum of finitely many terms: ranks among few draws are
treated exactly, and no continuous limit is taken.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np
from scipy.special import gammaln
from scipy.stats import binom


class BinomialPath:
    """Counts of N values below increasing points.

    Args:
        number: N.
        probabilities: (point,) increasing probabilities z_i strictly between 0 and 1.

    Raises:
        ValueError: if the probabilities do not increase from above 0 to below 1.
    """

    def __init__(self, number: int, probabilities: tuple[float, ...]):
        z = np.asarray(probabilities, dtype=float)
        if number < 1 or np.any(np.diff(z, prepend=0.0, append=1.0) <= 0):
            raise ValueError(f"increasing probabilities between 0 and 1 and one value or more expected, got {z}")
        self.number = number
        self.probabilities = z

    @cached_property
    def tails(self) -> np.ndarray:
        """(point, N + 1) two-sided tail probability t_i(c) of every count."""
        counts = np.arange(self.number + 1)
        z = self.probabilities[:, None]
        return np.minimum(
            1.0, 2.0 * np.minimum(binom.cdf(counts, self.number, z), binom.sf(counts - 1, self.number, z))
        )

    @cached_property
    def _log_factorials(self) -> np.ndarray:
        return gammaln(np.arange(self.number + 1) + 1.0)

    def statistic(self, counts: np.ndarray) -> np.ndarray:
        """Gamma (...) of paths of counts (point, ...); 1 where there is no point."""
        points = np.arange(self.probabilities.size).reshape(-1, *(1,) * (counts.ndim - 1))
        return np.min(self.tails[points, counts], axis=0, initial=1.0)

    def band(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest count (point,) with t_i > gamma; empty, as (N, 0), where there is none."""
        # Tails that are equal by symmetry differ by rounding.
        inside = self.tails > gamma * (1 + 1e-9)
        some = inside.any(axis=1)
        low = np.where(some, inside.argmax(axis=1), self.number)
        high = np.where(some, self.number - inside[:, ::-1].argmax(axis=1), 0)
        return low, high

    def probability_inside(self, gamma: float) -> float:
        """Probability that t_i(C_i) > gamma at every point."""
        low, high = self.band(gamma)
        if np.any(low > high):
            return 0.0
        path, first, reached = np.ones(1), 0, 0.0
        for z, a, b in zip(self.probabilities, low, high, strict=True):
            if b < first:
                return 0.0
            kernel = self._poisson(z - reached, np.arange(b - first + 1))
            # path[j] belongs to the count first + j, so the convolution's entry j to the count first + j too.
            grown = np.convolve(path, kernel)[: b - first + 1]
            skipped = max(int(a) - first, 0)
            path, first, reached = grown[skipped:], first + skipped, float(z)
        missing = self.number - first - np.arange(path.size)
        inside = float(path @ self._poisson(1.0 - reached, missing))
        return min(1.0, inside / float(self._poisson(1.0, np.array([self.number]))[0]))

    def p_value(self, gamma: float) -> float:
        """P(gamma of a random path <= this gamma), exact to rounding (about 1e-13)."""
        if gamma >= 1:
            return 1.0
        # The tail at the point where the path is most unusual bounds it from below when the difference is all rounding.
        return max(1.0 - self.probability_inside(gamma), gamma / 2)

    def threshold(self, level: float) -> float:
        """The largest gamma whose band holds the whole path with probability ``level`` or more."""
        if self.probabilities.size == 0:
            return 1.0
        # By the union bound the first always holds.
        low, high = np.log((1 - level) / self.probabilities.size), 0.0
        for _ in range(40):
            middle = (low + high) / 2
            if self.probability_inside(float(np.exp(middle))) >= level:
                low = middle
            else:
                high = middle
        return float(np.exp(low))

    def _poisson(self, share: float, counts: np.ndarray) -> np.ndarray:
        mean = self.number * share
        return np.exp(counts * np.log(mean) - mean - self._log_factorials[counts])


@lru_cache(maxsize=16)
def binomial_path(number: int, probabilities: tuple[float, ...]) -> BinomialPath:
    """A `BinomialPath`, the same one for the same arguments, because its tables serve many tests."""
    return BinomialPath(number, probabilities)


def uniform_path(number: int, num_draws: int) -> BinomialPath:
    """Path of ``number`` ranks uniform on {0, ..., num_draws}: below 1, 2, ..., num_draws."""
    return binomial_path(number, tuple((np.arange(1, num_draws + 1) / (num_draws + 1)).tolist()))
