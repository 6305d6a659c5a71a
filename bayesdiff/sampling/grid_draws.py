"""Exact draws from a density given as polynomials on cells, by rejection.

The weights of a Gauss-Legendre sum, laid side by side, divide a cell into one part around each node. The density at the
node and at the part's corners bounds it there, up to how far it rises between them. A part is chosen under these
bounds, a position in it uniformly, and kept with the ratio of the density to its bound.
"""

from __future__ import annotations

import numpy as np
from numpy.polynomial.legendre import leggauss

from .grid_cells import SUM_NODES, Cells, at_all, basis, log_volume

_BATCH = 4096
# In nat below the total mass: cells of less are left out.
_NEGLIGIBLE = 30.0
# In nat and per axis: how far the density may rise inside a part of a cell above its node and corners.
_RISE = 0.1


def draw(rng: np.random.Generator, cells: Cells, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws (num, d) from the normalised density, and its log before normalisation (num,)."""
    dimension, count = cells.dimension, SUM_NODES[cells.dimension]
    cells = cells.select(cells.log_mass > cells.log_total - _NEGLIGIBLE)
    nodes, weights = leggauss(count)
    edges = np.concatenate([[-1.0], np.cumsum(weights) - 1.0])
    bound = at_all(basis(nodes), cells.values)
    corners = at_all(basis(edges), cells.values)
    for axis in range(1, dimension + 1):
        corners = np.maximum(corners.take(range(count), axis), corners.take(range(1, count + 1), axis))
    bound = np.maximum(bound, corners) + _RISE * dimension
    log_proposal = bound + log_volume(cells.low, cells.high, weights)
    cumulative = np.cumsum(np.exp(log_proposal - log_proposal.max()).ravel())
    draws, heights, found = [], [], 0
    while found < num:
        chosen = np.searchsorted(cumulative, rng.uniform(0.0, cumulative[-1], _BATCH), side="right")
        cell, *part = np.unravel_index(chosen, bound.shape)
        part = np.stack(part, axis=1)
        x = edges[part] + weights[part] * rng.uniform(size=part.shape)
        height = _at_each(cells.values[cell], x)
        accepted = np.log(rng.uniform(size=_BATCH)) < height - bound.ravel()[chosen]
        position = cells.low[cell] + 0.5 * (x + 1.0) * (cells.high - cells.low)[cell]
        draws.append(position[accepted])
        heights.append(height[accepted])
        found += int(accepted.sum())
    return np.concatenate(draws)[:num], np.concatenate(heights)[:num]


def _at_each(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Polynomials (n, 5, ..., 5), each at its own position x (n, d) in [-1, 1]: (n,)."""
    for axis in range(x.shape[1]):
        values = np.einsum("ni...,ni->n...", values, basis(x[:, axis]))
    return values
