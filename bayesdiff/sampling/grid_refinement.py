"""Evaluations where they matter: refine the cells of a log density until its integral is known to a tolerance.

1. Divide the box into a few cells along each axis and evaluate the log density at their nodes.
2. A cell's polynomial L has an error e along each axis: the next degree, by the decay of the coefficients. It may
   misplace the mass integral exp(L + |e|) min(|e|, 1): what is wrong near a peak counts, and so does a distant cell
   whose error is so large that it could hide one.
3. Take the cells that make up most of the sum. Those that have evaluations of their own are halved along their worst
   axis, and their halves keep the polynomial; halves are evaluated when they are taken themselves. So a cell that
   holds no mass is left with its parent's polynomial.
4. Stop when the sum is below the tolerance, relative to the integral, or the evaluations are used up.

Nothing is proved by the decay of coefficients. So draws of the
result are evaluated at the end: their weights exp(log density - L) measure the error of the integral and of all
marginals at once. A mode so narrow that no node of the first cells feels it is lost, as on any grid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .grid_cells import NODES, Cells, divide, evaluated, halve, join, log_sum, node_positions, resolve
from .grid_draws import draw

Evaluate = Callable[[np.ndarray], np.ndarray]
# Cells along each axis at the start, by dimension.
FIRST_CELLS = {1: 8, 2: 4, 3: 2, 4: 2}
NUM_CHECK = 128
_MAX_CHECKS = 4
# The cells that are taken in one round make up this part of the error.
_BULK = 0.7
# Part of the tolerance that sums over the cells may spend: it costs no evaluations.
_SUM_PART = 0.02
# A cell whose polynomial may misplace more than this part of its mass is not worth an exact sum yet.
_SETTLED = 0.3


class Budget:
    """Evaluations of a log density, counted; a density of zero becomes a low but finite one.

    Attributes:
        used: evaluations made.
        left: evaluations that may still be made.
    """

    # In nat below the highest value known: nothing there is seen in any integral, yet polynomials stay tame.
    _ZERO = 30.0

    def __init__(self, evaluate: Evaluate, limit: int) -> None:
        self._evaluate, self._best = evaluate, -np.inf
        self.used, self.left = 0, limit

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Log densities (n,) at points (n, d).

        Raises:
            ValueError: the density is zero at all of the first points.
        """
        values = self._evaluate(points)
        self.used += len(points)
        self.left -= len(points)
        self._best = max(self._best, values.max())
        if self._best == -np.inf:
            raise ValueError(f"the density is zero at all {len(points)} points of the grid: widen or move its axes")
        return np.where(values == -np.inf, self._best - self._ZERO, values)


class Refinement(NamedTuple):
    """Cells that hold the density, and how well.

    Attributes:
        cells: the density.
        log_evidence_error: error of the log of its integral.
        marginal_error: bound on the error of any marginal cumulative distribution.
    """

    cells: Cells
    log_evidence_error: float
    marginal_error: float


def refine_and_check(
    rng: np.random.Generator, evaluate: Budget, low: np.ndarray, high: np.ndarray, num: int, max_error: float
) -> Refinement:
    """Refine until fresh draws show errors below ``max_error``, or the evaluations are used up.

    Args:
        rng: makes the draws.
        evaluate: the log density.
        low: lower corner of the box (d,).
        high: upper corner (d,).
        num: cells along each axis at the start.
        max_error: in the log evidence, and in any marginal cumulative distribution.
    """
    low, high = divide(low, high, num)
    cells = _evaluate(evaluate, low, high)
    tolerance, result = 0.5 * max_error, None
    for _ in range(_MAX_CHECKS):
        cells = refine(cells, evaluate, tolerance, reserve=NUM_CHECK)
        result = check(rng, cells, evaluate)
        if max(result.log_evidence_error, result.marginal_error) < max_error or evaluate.left < 2 * NUM_CHECK:
            break
        tolerance *= 0.3
    assert result is not None
    return result


def refine(cells: Cells, evaluate: Budget, tolerance: float, reserve: int = 0) -> Cells:
    """Halve and evaluate cells until the part of the mass that may be misplaced is below ``tolerance``.

    ``reserve`` evaluations are left.
    """
    while True:
        cells = resolve(cells, _SUM_PART * tolerance, _SETTLED)
        error = log_sum(cells.log_error, (1,)) - cells.log_total
        if log_sum(error, (0,)) < np.log(tolerance):
            count = len(cells.low)
            cells = resolve(cells, _SUM_PART * tolerance)
            if len(cells.low) == count:
                return cells
            continue
        taken = _largest(error)
        old = taken[~cells.fresh[taken]]
        old = old[: max(evaluate.left - reserve, 0) // NODES**cells.dimension]
        new = taken[cells.fresh[taken]]
        if not len(old) + len(new):
            return cells
        rest = np.setdiff1d(np.arange(len(cells.low)), np.concatenate([old, new]))
        parts = [cells.select(rest)]
        if len(old):
            parts.append(_evaluate(evaluate, cells.low[old], cells.high[old]))
        if len(new):
            parts.append(halve(cells.select(new), cells.log_error[new].argmax(axis=1)))
        cells = join(*parts)


def check(rng: np.random.Generator, cells: Cells, evaluate: Budget) -> Refinement:
    """Compare the cells with the log density at fresh draws.

    With weights w = exp(log density - polynomial), the integral is wrong by the factor mean(w), and half the mean of
    |w / mean(w) - 1| is the total variation, which bounds the error of every cumulative distribution. What the draws
    cannot see, because the polynomials have no mass there, is added: the errors that remain, and those of the sums.
    """
    points, heights = draw(rng, cells, NUM_CHECK)
    log_weight = evaluate(points) - heights
    log_mean = log_sum(log_weight, (0,)) - np.log(NUM_CHECK)
    weight = np.exp(log_weight - log_mean)
    scatter = weight.std(ddof=1) / np.sqrt(NUM_CHECK)
    unseen = remaining_error(cells)
    return Refinement(cells, float(abs(log_mean) + scatter + unseen), float(0.5 * np.abs(weight - 1.0).mean() + unseen))


def remaining_error(cells: Cells) -> float:
    """Part of the mass that polynomials and sums may misplace, by the decay of their coefficients."""
    return sum(
        float(np.exp(min(log_sum(x, (0, 1)) - cells.log_total, 0.0))) for x in (cells.log_error, cells.log_ripple)
    )


def _evaluate(evaluate: Budget, low: np.ndarray, high: np.ndarray) -> Cells:
    points = node_positions(low, high)
    return evaluated(low, high, evaluate(points.reshape(-1, low.shape[1])).reshape(len(low), -1))


def _largest(error: np.ndarray) -> np.ndarray:
    """Indices of the fewest cells that make up most of the error (in logs), the largest first."""
    order = np.argsort(-error)
    part = np.cumsum(np.exp(error[order] - error.max()))
    return order[: 1 + np.searchsorted(part, _BULK * part[-1])]
