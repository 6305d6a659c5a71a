"""Means over bins of a value that pixels or Fourier modes of a map have, such as |k| or a distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Bins(NamedTuple):
    """Which bin each element of a map belongs to, and with which share of the bin's mean.

    Attributes:
        index: (rows, columns) bin of each element, num_bins for those of no bin.
        weight: (rows, columns) share of each element in its bin's mean.
        centers: (num_bins,) mean value of the elements of each bin.
        counts: (num_bins,) number of elements of each bin.
    """

    index: np.ndarray
    weight: np.ndarray
    centers: np.ndarray
    counts: np.ndarray


def bins_of(values: np.ndarray, multiplicity: np.ndarray, edges: Sequence[float] | np.ndarray, unit: str) -> Bins:
    """Bins of the elements of a map by their values; a bin holds its lower edge.

    Args:
        values: (rows, columns), minus infinity for elements of no bin.
        multiplicity: (rows, columns) how many times each element counts.
        edges: (num_bins + 1,) increasing.
        unit: of what is binned and its value, for the messages, such as "mode" or "pixel".

    Raises:
        ValueError: if the edges do not increase, or a bin holds no element.
    """
    edges = np.asarray(edges, dtype=float)
    if edges.ndim != 1 or edges.size < 2 or not np.all(np.diff(edges) > 0):
        raise ValueError(f"edges must be two or more increasing numbers, got {edges}")
    total = edges.size - 1
    # The tolerance keeps elements that lie on an edge in one bin, whatever the units.
    index = np.searchsorted(edges * (1 - 1e-9), values, side="right") - 1
    index = np.where((index >= 0) & (index < total), index, total)
    counts = np.bincount(index.ravel(), weights=multiplicity.ravel(), minlength=total + 1)[:total]
    if np.any(counts == 0):
        empty = int(np.argmin(counts))
        finite = values[np.isfinite(values)]
        raise ValueError(
            f"bin {empty}, from {edges[empty]:.4g} to {edges[empty + 1]:.4g}, holds no {unit} (they lie between "
            f"{finite.min():.4g} and {finite.max():.4g}); use wider or fewer bins"
        )
    sums = np.bincount(index.ravel(), weights=(multiplicity * values).ravel(), minlength=total + 1)[:total]
    return Bins(index, multiplicity / np.append(counts, 1.0)[index], sums / counts, counts)


def bin_mean(values: jax.Array, bins: Bins) -> jax.Array:
    """Weighted mean of values (..., rows, columns) in each bin, shape (..., num_bins)."""
    total = bins.centers.size
    weighted = values * jnp.asarray(bins.weight, values.dtype)
    batch = values.shape[:-2]
    sums = jnp.zeros((*batch, total + 1), values.dtype).at[..., bins.index.ravel()].add(weighted.reshape(*batch, -1))
    return sums[..., :total]
