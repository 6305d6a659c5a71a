"""A log density of up to four variables as polynomials on cells: its integral and its marginals.

The box is divided into cells, each half-open towards the next. On a cell the log density is the tensor product of
polynomials of degree 4 through 5 Gauss-Legendre nodes along each axis, so that a Gaussian is exact on a cell of any
size, and nothing is evaluated on the boundary, where log densities may be infinite. What the highest degree contributes
along an axis is kept beside the polynomial as its error.

A half of a cell can carry the restriction of the cell's polynomial, which costs no evaluation: cells may be as small as
integrals of the exponential need, however few the evaluations. Integrals are Gauss-Legendre sums; the coefficients of
the integrand at the highest degrees say how far such a sum can be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.polynomial.legendre import leggauss, legvander

NODES = 5
# Nodes along each axis of a cell at which the density is summed, by dimension.
SUM_NODES = {1: 32, 2: 16, 3: 12, 4: 10}
_MAX_CELLS = 20_000
_BATCH = 2**18

_X = leggauss(NODES)[0]
_COEFFICIENTS = np.linalg.inv(legvander(_X, NODES - 1))


class Cells(NamedTuple):
    """Cells of a box in d dimensions; the leading axis of every array counts them.

    Attributes:
        low: lower corners (n, d).
        high: upper corners (n, d).
        values: log density at the nodes, (n, 5, ..., 5).
        errors: error of it along each axis, at the nodes, (n, d, 5, ..., 5).
        fresh: whether the cell has evaluations of its own, (n,).
        log_profile: log of the mass at each summation node along each axis, the others summed over, (n, d, q).
        log_error: log of the mass that the errors along each axis may misplace, (n, d).
        log_ripple: log of the error of the sum along each axis, (n, d).
    """

    low: np.ndarray
    high: np.ndarray
    values: np.ndarray
    errors: np.ndarray
    fresh: np.ndarray
    log_profile: np.ndarray
    log_error: np.ndarray
    log_ripple: np.ndarray

    @property
    def dimension(self) -> int:
        """Number of variables."""
        return self.low.shape[1]

    @property
    def log_mass(self) -> np.ndarray:
        """Log of each cell's integral, (n,)."""
        return log_sum(self.log_profile[:, 0], (1,))

    @property
    def log_total(self) -> float:
        """Log of the integral over the box."""
        return float(log_sum(self.log_profile[:, 0], (0, 1)))

    def select(self, which: np.ndarray) -> Cells:
        """Some of the cells, by mask or index."""
        return Cells(*(x[which] for x in self))


def join(*parts: Cells) -> Cells:
    """The cells of several boxes."""
    return Cells(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def divide(low: np.ndarray, high: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Corners (num^d, d) of the cells that divide a box into ``num`` along each axis."""
    edges = [np.linspace(a, b, num + 1) for a, b in zip(low, high, strict=True)]
    return _product([e[:-1] for e in edges]), _product([e[1:] for e in edges])


def node_positions(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Positions (n, 5^d, d) at which cells with these corners (n, d) are evaluated."""
    unit = 0.5 * (_product([_X] * low.shape[1]) + 1.0)
    return low[:, None] + (high - low)[:, None] * unit


def evaluated(low: np.ndarray, high: np.ndarray, values: np.ndarray) -> Cells:
    """Cells with their own log densities (n, 5^d) at `node_positions`."""
    count, dimension = low.shape
    values = values.reshape(count, *[NODES] * dimension)
    errors = np.stack([_error(values, axis + 1) for axis in range(dimension)], axis=1)
    return _summed(low, high, values, errors, np.ones(count, dtype=bool))


def from_grid(axes: Sequence[np.ndarray], log_density: np.ndarray) -> Cells:
    """Cells from log densities on a product grid of at least 5 points along each axis: four intervals make a cell."""
    corners, values = [], log_density
    for axis, points in enumerate(axes):
        first = np.arange(0, len(points) - 1, NODES - 1)
        last = np.minimum(first + NODES - 1, len(points) - 1)
        matrix = np.zeros((len(first), NODES, len(points)))
        for row, (i, j) in enumerate(zip(first, last, strict=True)):
            stencil = slice(j - NODES + 1, j + 1)
            centre, half = 0.5 * (points[i] + points[j]), 0.5 * (points[j] - points[i])
            through = legvander((points[stencil] - centre) / half, NODES - 1)
            matrix[row, :, stencil] = legvander(_X, NODES - 1) @ np.linalg.inv(through)
        values = along(matrix.reshape(-1, len(points)), values, axis)
        corners.append((points[first], points[last]))
    low, high = (_product([pair[side] for pair in corners]) for side in range(2))
    blocks = values.reshape([n for pair in corners for n in (len(pair[0]), NODES)])
    dimension = len(axes)
    order = [*range(0, 2 * dimension, 2), *range(1, 2 * dimension, 2)]
    return evaluated(low, high, blocks.transpose(order).reshape(len(low), -1))


def halve(cells: Cells, axes: np.ndarray) -> Cells:
    """Two cells for each, split in the middle of its axis ``axes`` (n,), with the polynomials as they were."""
    parts = []
    for axis in np.unique(axes):
        whole = cells.select(axes == axis)
        middle = 0.5 * (whole.low[:, axis] + whole.high[:, axis])
        for side in (-1.0, 1.0):
            matrix = basis(0.5 * (_X + side))
            low, high = whole.low.copy(), whole.high.copy()
            (high if side < 0 else low)[:, axis] = middle
            values, errors = along(matrix, whole.values, axis + 1), along(matrix, whole.errors, axis + 2)
            parts.append(_summed(low, high, values, errors, np.zeros(len(low), dtype=bool)))
    return join(*parts)


def resolve(cells: Cells, tolerance: float, settled: float = np.inf) -> Cells:
    """The same density on cells so small that the relative error of its integral is below ``tolerance``.

    Cells whose polynomial may misplace more than the part ``settled`` of their mass are left as they are.
    """
    while True:
        ripple = log_sum(cells.log_ripple, (1,)) - cells.log_total
        coarse = ripple > np.log(tolerance / len(cells.low))
        coarse &= log_sum(cells.log_error, (1,)) < cells.log_mass + np.log(settled)
        if not coarse.any() or len(cells.low) > _MAX_CELLS:
            return cells
        cut = cells.select(coarse)
        cells = join(cells.select(~coarse), halve(cut, cut.log_ripple.argmax(axis=1)))


def integrate(cells: Cells, points: Sequence[np.ndarray | None]) -> np.ndarray:
    """Log density at the product of points along some axes, integrated over the axes whose entry is None.

    Args:
        cells: the density.
        points: increasing positions in the box along each axis, or None.

    Returns:
        One axis per entry that is not None, in their order.
    """
    nodes, weights = leggauss(SUM_NODES[cells.dimension])
    summed = tuple(axis for axis, x in enumerate(points) if x is None)
    out = np.full([len(x) for x in points if x is not None], -np.inf)
    inner, ends = basis(nodes), cells.high.max(axis=0)
    for low, high, values in zip(cells.low, cells.high, cells.values, strict=True):
        where, log_weight = [], 0.0
        for axis, x in enumerate(points):
            if x is None:
                values = along(inner, values, axis)
                shape = [-1 if a == axis else 1 for a in range(cells.dimension)]
                log_weight = log_weight + np.log(0.5 * (high[axis] - low[axis]) * weights).reshape(shape)
            else:
                first, last = np.searchsorted(x, (low[axis], high[axis]))
                # Cells are half-open, but for the end of the box.
                last = len(x) if high[axis] == ends[axis] else last
                where.append(slice(first, last))
                values = along(basis(_reference(x[first:last], low[axis], high[axis])), values, axis)
        if values.size:
            part = log_sum(values + log_weight, summed)
            out[tuple(where)] = np.logaddexp(out[tuple(where)], part)
    return out


def basis(x: np.ndarray) -> np.ndarray:
    """Matrix (len(x), 5) that takes values at a cell's nodes to values at positions x in [-1, 1] of the cell."""
    return legvander(x, NODES - 1) @ _COEFFICIENTS


def along(matrix: np.ndarray, array: np.ndarray, axis: int) -> np.ndarray:
    """Apply a matrix along one axis of an array."""
    return np.moveaxis(np.tensordot(matrix, array, (1, axis)), 0, axis)


def log_sum(x: np.ndarray, axes: tuple[int, ...], factor: np.ndarray | float = 1.0) -> np.ndarray:
    """Log of the sum of ``factor * exp(x)`` over axes."""
    if not axes:
        return x
    top = x.max(axis=axes, keepdims=True)
    return np.log((factor * np.exp(x - top)).sum(axis=axes) + 1e-300) + top.squeeze(axes)


def _error(values: np.ndarray, axis: int) -> np.ndarray:
    """What degree 5 would add along an axis: the coefficient of degree 4 times the decay of coefficients per degree.

    It is the same all along the axis, lest the zeros of a polynomial be taken for accuracy.
    """
    others = tuple(a for a in range(1, values.ndim) if a != axis)
    coefficients = np.abs(along(_COEFFICIENTS, values, axis))
    size = coefficients.max(axis=others, keepdims=True) if others else coefficients
    second, highest = (size.take([degree], axis) for degree in (NODES - 3, NODES - 1))
    decay = np.sqrt(np.minimum(highest / np.maximum(second, 1e-300), 1.0))
    return np.repeat(coefficients.take([NODES - 1], axis) * decay, NODES, axis)


def _summed(low: np.ndarray, high: np.ndarray, values: np.ndarray, errors: np.ndarray, fresh: np.ndarray) -> Cells:
    """Cells with their integrals."""
    dimension = low.shape[1]
    count = SUM_NODES[dimension]
    num = max(1, _BATCH // count**dimension)
    rows = [slice(i, i + num) for i in range(0, len(low), num)]
    sums = [_sums(low[r], high[r], values[r], errors[r]) for r in rows]
    return Cells(low, high, values, errors, fresh, *(np.concatenate(x) for x in zip(*sums, strict=True)))


def _sums(low: np.ndarray, high: np.ndarray, values: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, ...]:
    """``log_profile``, ``log_error`` and ``log_ripple`` of cells; a cell has thousands of summation nodes."""
    dimension = low.shape[1]
    nodes, weights = leggauss(SUM_NODES[dimension])
    matrix, highest = basis(nodes), legvander(nodes, len(nodes) - 1)[:, -2:]
    every = tuple(range(1, dimension + 1))
    height = at_all(matrix, values) + log_volume(low, high, weights)
    profile, error, ripple = [], [], []
    for axis in every:
        profile.append(log_sum(height, tuple(a for a in every if a != axis)))
        size = np.abs(at_all(matrix, errors[:, axis - 1]))
        # An error beyond one nat could hide a mode as high as it says.
        error.append(log_sum(height + size, every, np.minimum(size, 1.0)))
        mass = np.exp(profile[-1] - profile[-1].max(axis=1, keepdims=True))
        # Coefficients decay at least geometrically, and the error of the sum is that of twice the degree.
        relative = (2 * len(nodes) - 1) * np.abs(mass @ highest).max(axis=1) / mass.sum(axis=1)
        ripple.append(log_sum(profile[-1], (1,)) + 2.0 * np.log(relative + 1e-300))
    return np.stack(profile, axis=1), np.stack(error, axis=1), np.stack(ripple, axis=1)


def log_volume(low: np.ndarray, high: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Log of the volume that each summation node stands for, (n, q, ..., q)."""
    log_width = np.log(0.5 * (high - low)[:, :, None] * weights)
    total: Any = 0.0
    for axis in range(low.shape[1]):
        total = total + log_width[:, axis].reshape([len(low), *(-1 if a == axis else 1 for a in range(low.shape[1]))])
    return total


def at_all(matrix: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Apply a matrix along every axis but the first."""
    for axis in range(1, values.ndim):
        values = along(matrix, values, axis)
    return values


def _reference(x: np.ndarray, low: float, high: float) -> np.ndarray:
    return (2.0 * x - low - high) / (high - low)


def _product(axes: Sequence[Any]) -> np.ndarray:
    """All combinations (n, d) of one entry of each axis, the last axis fastest."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
