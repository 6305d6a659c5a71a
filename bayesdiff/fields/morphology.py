"""Minkowski functionals and the one-point distribution of flat-sky fields.

For the excursion set {u > nu} of a field u on a periodic map, per unit area (pixel = unit of length):

* V0 is the area fraction,
* V1 is a quarter of the boundary length, V1 = 1/4 E[delta(u - nu) |grad u|],
* V2 is the Euler characteristic, V2 = 1/(2 pi) E[delta(u - nu) kappa |grad u|], with the curvature term
  kappa |grad u| = (2 u_x u_y u_xy - u_x^2 u_yy - u_y^2 u_xx) / |grad u|^2.

Derivatives are spectral and the delta function is a window of finite width (Schmalzing and Gorski 1998,
arXiv:astro-ph/9710185; Lim and Simon 2012, arXiv:1103.4300). A Gaussian field's expectations follow from its power in
closed form, at every resolution and for a finite window too, because they are one-pixel expectations.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import erfc, ndtr
from jax.typing import ArrayLike

from bayesdiff.fields.filters import gaussian_smooth
from bayesdiff.fields.inputs import field_array


class MinkowskiFunctionals(NamedTuple):
    """V0 (area fraction), V1 (1/pixel) and V2 (1/pixel^2), each (..., channels, num_thresholds)."""

    v0: jax.Array
    v1: jax.Array
    v2: jax.Array


class Histogram(NamedTuple):
    """One-point density (..., channels, bins) in 1/field unit, and the (bins + 1,) edges in field units."""

    edges: jax.Array
    density: jax.Array


def minkowski_functionals(field: ArrayLike, thresholds: ArrayLike, window: float | None = None) -> MinkowskiFunctionals:
    """Minkowski functionals of the excursion sets {field > threshold} of a periodic field.

    They count pixels: V0 has no gradient, and those of V1 and V2 leave out what moves in or out of the window.

    Args:
        field: (..., channels, height, width).
        thresholds: (num_thresholds,) in the units of the field. Standardise the field to have them in standard
            deviations.
        window: width, in field units, of the window that stands for the delta function in V1 and V2; default the
            smallest spacing of the thresholds. Wider is smoother, and less noisy.

    Returns:
        V0, V1 and V2, each (..., channels, num_thresholds).

    Raises:
        ValueError: if the field has fewer than two axes or NaN pixels, the window is not positive, or there is none
            and the thresholds do not increase.
    """
    field = field_array(field)
    thresholds = jnp.asarray(thresholds, field.dtype)
    width = _window(thresholds, window)
    height, breadth = field.shape[-2:]
    ky, kx = _derivative_wavenumbers((height, breadth))
    fourier = jnp.fft.rfft2(field)

    def derivative(multiplier: np.ndarray) -> jax.Array:
        return jnp.fft.irfft2(fourier * jnp.asarray(multiplier, fourier.dtype), s=(height, breadth))

    u_x, u_y = derivative(1j * kx), derivative(1j * ky)
    u_xx, u_yy, u_xy = derivative(-kx * kx), derivative(-ky * ky), derivative(-kx * ky)
    squared = u_x**2 + u_y**2
    sloped = squared > 0
    safe = jnp.where(sloped, squared, 1.0)
    gradient = jnp.where(sloped, jnp.sqrt(safe), 0.0)
    bending = jnp.where(sloped, (2 * u_x * u_y * u_xy - u_x**2 * u_yy - u_y**2 * u_xx) / safe, 0.0)

    def one_threshold(threshold: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        near = (jnp.abs(field - threshold) < width / 2) / width
        return (
            jnp.mean((field > threshold).astype(field.dtype), axis=(-2, -1)),
            jnp.mean(near * gradient, axis=(-2, -1)) / 4,
            jnp.mean(near * bending, axis=(-2, -1)) / (2 * jnp.pi),
        )

    v0, v1, v2 = jax.lax.map(one_threshold, thresholds)
    return MinkowskiFunctionals(*(jnp.moveaxis(values, 0, -1) for values in (v0, v1, v2)))


def gaussian_minkowski_functionals(
    power: ArrayLike, thresholds: ArrayLike, window: float | None = None
) -> MinkowskiFunctionals:
    """Expected Minkowski functionals of an isotropic Gaussian field of mean zero.

    With sigma0^2 = E u^2, sigma1^2 = E |grad u|^2 and nu = threshold / sigma0:
    V0 = erfc(nu / sqrt 2) / 2, V1 = sigma1 / (8 sqrt 2 sigma0) exp(-nu^2 / 2) and
    V2 = sigma1^2 / (2 (2 pi)^(3/2) sigma0^2) nu exp(-nu^2 / 2)  (Tomita 1986; Schmalzing and Gorski 1998).

    Args:
        power: (height, width) or (channels, height, width), orthonormal power of every mode.
        thresholds: (num_thresholds,) in the units of the field.
        window: averages V1 and V2 over a window as `minkowski_functionals` does, with the same default; 0 gives the
            values at the thresholds themselves.

    Returns:
        V0, V1 and V2, each (num_thresholds,) or (channels, num_thresholds).

    Raises:
        ValueError: if the window is negative, or there is none and the thresholds do not increase.
    """
    power = jnp.asarray(power)
    thresholds = jnp.asarray(thresholds, power.dtype)
    ky, kx = _derivative_wavenumbers(power.shape[-2:], half=False)
    sigma0 = jnp.sqrt(jnp.mean(power, axis=(-2, -1)))[..., None]
    sigma1 = jnp.sqrt(jnp.mean(jnp.asarray(kx**2 + ky**2, power.dtype) * power, axis=(-2, -1)))[..., None]
    nu = thresholds / sigma0
    if window is not None and window == 0:
        bell, slope = jnp.exp(-(nu**2) / 2), nu * jnp.exp(-(nu**2) / 2)
    else:
        width = _window(thresholds, window) / sigma0
        low, high = nu - width / 2, nu + width / 2
        bell = jnp.sqrt(2 * jnp.pi) * (ndtr(high) - ndtr(low)) / width
        slope = (jnp.exp(-(low**2) / 2) - jnp.exp(-(high**2) / 2)) / width
    ratio = sigma1 / sigma0
    return MinkowskiFunctionals(
        v0=erfc(nu / jnp.sqrt(2.0)) / 2,
        v1=ratio / (8 * jnp.sqrt(2.0)) * bell,
        v2=ratio**2 / (2 * (2 * jnp.pi) ** 1.5) * slope,
    )


def histogram(
    field: ArrayLike, bins: int = 50, range: tuple[float, float] = (-5.0, 5.0), smoothing: float = 0.0
) -> Histogram:
    """One-point distribution of each map, smoothed first if asked for.

    Args:
        field: (..., channels, height, width).
        bins: number of equal bins.
        range: lower and upper end, in field units. Pixels outside are not in any bin but do count in the
            normalisation, so the density integrates to the fraction of pixels inside.
        smoothing: standard deviation, in pixels, of the Gaussian that the maps are convolved with first
            (`gaussian_smooth`); 0 for none.

    Returns:
        The bin edges and the density (..., channels, bins).

    Raises:
        ValueError: if the range is empty, the smoothing is negative, or the field has fewer than two axes or NaN
            pixels.
    """
    low, high = range
    if not low < high:
        raise ValueError(f"range must be (low, high) with low < high, got {range}")
    field = field_array(field)
    if smoothing != 0:
        field = gaussian_smooth(field, smoothing)
    edges = jnp.linspace(low, high, bins + 1, dtype=field.dtype)
    # As in numpy.histogram the last bin holds its upper edge.
    index = jnp.searchsorted(edges, field, side="right") - 1
    index = jnp.where(field == edges[-1], bins - 1, index)
    index = jnp.where((index < 0) | (index >= bins), bins, index)
    batch, pixels = field.shape[:-2], field.shape[-2] * field.shape[-1]
    flat = index.reshape(-1, pixels)
    counts = jax.vmap(lambda row: jnp.zeros(bins + 1, field.dtype).at[row].add(1.0))(flat)[:, :bins]
    return Histogram(edges, counts.reshape(*batch, bins) * (bins / (high - low) / pixels))


def _window(thresholds: jax.Array, window: float | None) -> jax.Array:
    if window is not None:
        if not window > 0:
            raise ValueError(f"window must be positive, got {window}")
        return jnp.asarray(window, thresholds.dtype)
    if thresholds.ndim != 1 or thresholds.size < 2:
        raise ValueError("one threshold has no spacing: give the window, or several thresholds")
    spacing = jnp.min(jnp.diff(thresholds))
    if not isinstance(spacing, Tracer) and not spacing > 0:
        raise ValueError(f"thresholds must increase, or the window be given; got {np.asarray(thresholds)}")
    return spacing


def _derivative_wavenumbers(shape: tuple[int, ...], half: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Angular wavenumbers (k_y, k_x) [rad/pixel]; 0 for Nyquist, whose derivative no real field can represent."""
    height, width = shape
    ky, kx = np.fft.fftfreq(height), np.fft.fftfreq(width)
    ky[np.abs(ky) == 0.5] = 0.0
    kx[np.abs(kx) == 0.5] = 0.0
    if half:
        kx = kx[: width // 2 + 1]
    return np.meshgrid(2 * np.pi * ky, 2 * np.pi * kx, indexing="ij")
