"""Binned power and cross spectra of flat-sky fields.

Powers are in the orthonormal Fourier convention, P(k) = E |fft2(x, norm="ortho")[k]|^2, so unit white noise has power 1
in every mode whatever the size of the map. The spectrum of a bin is the mean over its modes; the mode k = 0, which is
the mean of the map, belongs to no bin. A real field has each mode twice, as k and -k, so the relative standard
deviation of one binned Gaussian power is sqrt(2 / num_modes).

All functions are batched over leading axes, differentiable, and can be jitted with the bins fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


class Spectrum(NamedTuple):
    """A binned spectrum.

    Attributes:
        centers: (num_bins,) mean wavenumber of the modes of each bin: in units of the fundamental mode, or the
            multipole ell if the pixel size was given.
        power: (..., channels, num_bins) mean power per mode, in field units squared.
        num_modes: (num_bins,) number of modes of each bin, k and -k both counted.
    """

    centers: jax.Array
    power: jax.Array
    num_modes: jax.Array


class Correlation(NamedTuple):
    """A binned correlation coefficient; ``coefficient`` (..., channels, num_bins) lies in [-1, 1]."""

    centers: jax.Array
    coefficient: jax.Array
    num_modes: jax.Array


def wavenumbers(shape: tuple[int, int], pixel_arcmin: float | None = None) -> np.ndarray:
    """Wavenumber |k| of every mode of an (H, W) map, in units of the fundamental of its longer side, or as ell.

    Args:
        shape: height and width in pixels.
        pixel_arcmin: pixel size [arcmin]; if given the result is the multipole ell = 2 pi |frequency|.

    Returns:
        (H, W) float64 array in the layout of ``fft2``.
    """
    height, width = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    if pixel_arcmin is None:
        return frequency * max(shape)
    return frequency * 2 * np.pi / np.deg2rad(pixel_arcmin / 60)


class Bins(NamedTuple):
    """Which bin each mode of the half-plane of ``rfft2`` belongs to, and with which share of the bin's mean."""

    index: np.ndarray
    weight: np.ndarray
    centers: np.ndarray
    num_modes: np.ndarray


def radial_bins(
    shape: tuple[int, int],
    num_bins: int | None = None,
    pixel_arcmin: float | None = None,
    edges: Sequence[float] | np.ndarray | None = None,
) -> Bins:
    """Bins of |k| over the modes of an (H, W) map; arguments as in `power_spectrum`.

    Raises:
        ValueError: if the edges do not increase, or a bin holds no mode.
    """
    height, width = shape
    k = wavenumbers(shape, pixel_arcmin)[:, : width // 2 + 1]
    fundamental = wavenumbers(shape, pixel_arcmin).ravel()[1:].min()
    if edges is None:
        nyquist = fundamental * max(shape) / 2
        if num_bins is None:
            edges = np.arange(0.5, max(shape) // 2 + 1) * fundamental
        else:
            edges = np.linspace(0.5 * fundamental, nyquist + 0.5 * fundamental, num_bins + 1)
    elif num_bins is not None:
        raise ValueError("give num_bins or edges, not both")
    edges = np.asarray(edges, dtype=float)
    if edges.ndim != 1 or edges.size < 2 or not np.all(np.diff(edges) > 0):
        raise ValueError(f"edges must be two or more increasing wavenumbers, got {edges}")
    total = edges.size - 1
    # A bin holds its lower edge. The tolerance keeps modes that lie on an edge in one bin, whatever the units.
    index = np.searchsorted(edges * (1 - 1e-9), k, side="right") - 1
    index = np.where((index >= 0) & (index < total) & (k > 0), index, total)
    # The interior columns of the half-plane stand for k and -k.
    multiplicity = np.full(k.shape, 2.0)
    multiplicity[:, 0] = 1.0
    if width % 2 == 0:
        multiplicity[:, -1] = 1.0
    num_modes = np.bincount(index.ravel(), weights=multiplicity.ravel(), minlength=total + 1)[:total]
    if np.any(num_modes == 0):
        empty = int(np.argmin(num_modes))
        raise ValueError(
            f"bin {empty}, from {edges[empty]:.4g} to {edges[empty + 1]:.4g}, holds no mode of a {height} x {width} "
            f"map (fundamental mode {fundamental:.4g}, largest {k.max():.4g}); use wider or fewer bins"
        )
    centers = np.bincount(index.ravel(), weights=(multiplicity * k).ravel(), minlength=total + 1)[:total] / num_modes
    weight = multiplicity / np.append(num_modes, 1.0)[index]
    return Bins(index, weight, centers, num_modes)


def _bin_mean(values: jax.Array, bins: Bins) -> jax.Array:
    total = bins.centers.size
    weighted = values * jnp.asarray(bins.weight, values.dtype)
    batch = values.shape[:-2]
    sums = jnp.zeros((*batch, total + 1), values.dtype).at[..., bins.index.ravel()].add(weighted.reshape(*batch, -1))
    return sums[..., :total]


def _fourier(field: ArrayLike) -> jax.Array:
    return jnp.fft.rfft2(jnp.asarray(field), norm="ortho")


def power_spectrum(
    field: ArrayLike,
    num_bins: int | None = None,
    pixel_arcmin: float | None = None,
    edges: Sequence[float] | np.ndarray | None = None,
) -> Spectrum:
    """Power spectrum of a periodic field, averaged in bins of |k|.

    Args:
        field: (..., channels, height, width).
        num_bins: number of linear bins from half the fundamental to half a fundamental above the Nyquist mode. Default:
            bins one fundamental wide, centred on 1, 2, ... The corners of the Fourier plane beyond are left out.
        pixel_arcmin: pixel size [arcmin]; the centres and edges are then multipoles ell.
        edges: increasing bin edges instead of ``num_bins``, in the units of the centres; a bin holds its lower edge.

    Returns:
        The bin centres, the power (..., channels, num_bins), and the number of modes of each bin.

    Raises:
        ValueError: if the edges do not increase, or a bin holds no mode.
    """
    return cross_spectrum(field, field, num_bins, pixel_arcmin, edges)


def cross_spectrum(
    a: ArrayLike,
    b: ArrayLike,
    num_bins: int | None = None,
    pixel_arcmin: float | None = None,
    edges: Sequence[float] | np.ndarray | None = None,
) -> Spectrum:
    """Cross spectrum Re E[conj(a_k) b_k] of two periodic fields, averaged in bins of |k|.

    Args:
        a: (..., channels, height, width).
        b: the same height and width; other axes broadcast against those of ``a``.
        num_bins: as in `power_spectrum`.
        pixel_arcmin: as in `power_spectrum`.
        edges: as in `power_spectrum`.

    Returns:
        The bin centres, the cross power (..., channels, num_bins), and the number of modes of each bin.

    Raises:
        ValueError: if the maps differ in size, the edges do not increase, or a bin holds no mode.
    """
    bins = _common_bins(a, b, num_bins, pixel_arcmin, edges)
    fourier_a = _fourier(a)
    fourier_b = fourier_a if b is a else _fourier(b)
    power = _bin_mean(_real_product(fourier_a, fourier_b), bins)
    return Spectrum(jnp.asarray(bins.centers, power.dtype), power, jnp.asarray(bins.num_modes, power.dtype))


def cross_correlation(
    a: ArrayLike,
    b: ArrayLike,
    num_bins: int | None = None,
    pixel_arcmin: float | None = None,
    edges: Sequence[float] | np.ndarray | None = None,
) -> Correlation:
    """Correlation coefficient R(k) = P_ab / sqrt(P_aa P_bb) of two periodic fields in bins of |k|.

    Arguments and errors are those of `cross_spectrum`. The coefficient is 0 in a bin where a field has no power.
    """
    bins = _common_bins(a, b, num_bins, pixel_arcmin, edges)
    fourier_a, fourier_b = _fourier(a), _fourier(b)
    power_aa = _bin_mean(_real_product(fourier_a, fourier_a), bins)
    power_bb = _bin_mean(_real_product(fourier_b, fourier_b), bins)
    power_ab = _bin_mean(_real_product(fourier_a, fourier_b), bins)
    # Two square roots, since the product of two small float32 powers could underflow.
    present = (power_aa > 0) & (power_bb > 0)
    norm = jnp.sqrt(jnp.where(present, power_aa, 1.0)) * jnp.sqrt(jnp.where(present, power_bb, 1.0))
    coefficient = jnp.where(present, power_ab / norm, 0.0)
    dtype = coefficient.dtype
    return Correlation(jnp.asarray(bins.centers, dtype), coefficient, jnp.asarray(bins.num_modes, dtype))


def _real_product(a: jax.Array, b: jax.Array) -> jax.Array:
    return a.real * b.real + a.imag * b.imag


def _common_bins(
    a: ArrayLike,
    b: ArrayLike,
    num_bins: int | None,
    pixel_arcmin: float | None,
    edges: Sequence[float] | np.ndarray | None,
) -> Bins:
    shape_a, shape_b = jnp.shape(a), jnp.shape(b)
    if len(shape_a) < 2 or shape_a[-2:] != shape_b[-2:]:
        raise ValueError(f"fields (..., channels, height, width) of one size expected, got {shape_a} and {shape_b}")
    height, width = shape_a[-2:]
    return radial_bins((height, width), num_bins, pixel_arcmin, edges)
