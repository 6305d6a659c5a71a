"""Moments of the one-point distribution, of a whole map and of its band-passed versions.

The skewness and kurtosis of a Gaussian field are zero in every band; those of dust are not, so the banded moments show
at which scales a learned prior is as intermittent as its training maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from bayesdiff.fields.inputs import field_array
from bayesdiff.fields.spectra import wavenumbers


class Moments(NamedTuple):
    """Pixel moments of each map, all of one shape.

    Attributes:
        mean: in field units.
        standard_deviation: in field units.
        skewness: E (x - mean)^3 / sd^3.
        kurtosis: excess, E (x - mean)^4 / sd^4 - 3.
    """

    mean: jax.Array
    standard_deviation: jax.Array
    skewness: jax.Array
    kurtosis: jax.Array


def moments(field: ArrayLike) -> Moments:
    """Moments over the pixels of each map; a constant map has skewness 0 and kurtosis -3.

    Args:
        field: (..., channels, height, width).

    Returns:
        Mean, standard deviation, skewness and excess kurtosis, each (..., channels).

    Raises:
        ValueError: if the field has fewer than two axes or NaN pixels.
    """
    field = field_array(field)
    mean = jnp.mean(field, axis=(-2, -1))
    deviation = field - mean[..., None, None]
    variance = jnp.mean(deviation**2, axis=(-2, -1))
    varied = variance > 0
    scale = jnp.sqrt(jnp.where(varied, variance, 1.0))
    standard = deviation / scale[..., None, None]
    skewness = jnp.mean(standard**3, axis=(-2, -1))
    kurtosis = jnp.mean(standard**4, axis=(-2, -1)) - 3
    return Moments(mean, jnp.where(varied, scale, 0.0), skewness, kurtosis)


def banded_moments(
    field: ArrayLike, edges: Sequence[float] | np.ndarray = (1, 2, 4, 8, 16, 32), pixel_arcmin: float | None = None
) -> Moments:
    """Moments of a periodic field filtered to bands of |k|.

    Args:
        field: (..., channels, height, width).
        edges: (num_bands + 1,) increasing band edges, in units of the fundamental mode of the map, or as ell if the
            pixel size is given; a band holds its lower edge.
        pixel_arcmin: pixel size [arcmin].

    Returns:
        Moments, each (..., channels, num_bands).

    Raises:
        ValueError: if the edges do not increase or a band has no modes, or the field has fewer than two axes or NaN
            pixels.
    """
    field = field_array(field)
    edges = np.asarray(edges, dtype=float)
    if edges.ndim != 1 or edges.size < 2 or not np.all(np.diff(edges) > 0):
        raise ValueError(f"edges must be two or more increasing wavenumbers, got {edges}")
    height, width = field.shape[-2:]
    k = wavenumbers((height, width), pixel_arcmin)[:, : width // 2 + 1]
    lower, upper = edges[:-1, None, None] * (1 - 1e-9), edges[1:, None, None] * (1 - 1e-9)
    inside = (k >= lower) & (k < upper)
    empty = np.flatnonzero(~inside.any(axis=(-2, -1)))
    if empty.size:
        low, high = edges[empty[0] : empty[0] + 2]
        raise ValueError(f"bands must hold modes of the map, got none between {low:g} and {high:g}")
    fourier = jnp.fft.rfft2(field)

    def one_band(mask: jax.Array) -> Moments:
        return moments(jnp.fft.irfft2(fourier * mask, s=(height, width)))

    bands = jax.lax.map(one_band, jnp.asarray(inside, field.dtype))
    return Moments(*(jnp.moveaxis(values, 0, -1) for values in bands))
