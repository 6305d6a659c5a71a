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

from bayesdiff.fields.binning import Bins, bin_mean, bins_of
from bayesdiff.fields.inputs import field_array, refuse_unmatched


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
    if edges is not None:
        if num_bins is not None:
            raise ValueError("give num_bins or edges, not both")
        limits = np.asarray(edges, dtype=float)
    elif num_bins is None:
        limits = np.arange(0.5, max(shape) // 2 + 1) * fundamental
    else:
        nyquist = fundamental * max(shape) / 2
        limits = np.linspace(0.5 * fundamental, nyquist + 0.5 * fundamental, num_bins + 1)
    # The interior columns of the half-plane stand for k and -k.
    multiplicity = np.full(k.shape, 2.0)
    multiplicity[:, 0] = 1.0
    if width % 2 == 0:
        multiplicity[:, -1] = 1.0
    return bins_of(np.where(k > 0, k, -np.inf), multiplicity, limits, f"mode of a {height} x {width} map")


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
        ValueError: if the field has fewer than two axes or NaN pixels, the edges do not increase, or a bin holds no
            mode.
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
        ValueError: if the maps differ in size or have NaN pixels, other axes do not broadcast, the edges do not
            increase, or a bin holds no mode.
    """
    fourier_a, fourier_b, bins = _common_modes(a, b, num_bins, pixel_arcmin, edges)
    power = bin_mean(_real_product(fourier_a, fourier_b), bins)
    return Spectrum(jnp.asarray(bins.centers, power.dtype), power, jnp.asarray(bins.counts, power.dtype))


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
    fourier_a, fourier_b, bins = _common_modes(a, b, num_bins, pixel_arcmin, edges)
    power_aa = bin_mean(_real_product(fourier_a, fourier_a), bins)
    power_bb = bin_mean(_real_product(fourier_b, fourier_b), bins)
    power_ab = bin_mean(_real_product(fourier_a, fourier_b), bins)
    # Two square roots, since the product of two small float32 powers could underflow.
    present = (power_aa > 0) & (power_bb > 0)
    norm = jnp.sqrt(jnp.where(present, power_aa, 1.0)) * jnp.sqrt(jnp.where(present, power_bb, 1.0))
    coefficient = jnp.where(present, power_ab / norm, 0.0)
    dtype = coefficient.dtype
    return Correlation(jnp.asarray(bins.centers, dtype), coefficient, jnp.asarray(bins.counts, dtype))


def spectral_matrix(
    field: ArrayLike,
    num_bins: int | None = None,
    pixel_arcmin: float | None = None,
    edges: Sequence[float] | np.ndarray | None = None,
) -> Spectrum:
    """Auto- and cross-spectra of all pairs of channels of a periodic field, averaged in bins of |k|.

    Args:
        field: (..., channels, height, width).
        num_bins: as in `power_spectrum`.
        pixel_arcmin: as in `power_spectrum`.
        edges: as in `power_spectrum`.

    Returns:
        A spectrum whose ``power`` is (..., channels, channels, num_bins): in each bin a symmetric matrix, positive
        semi-definite to rounding, with the auto-spectra on its diagonal.

    Raises:
        ValueError: if the field has fewer than three axes or NaN pixels, the edges do not increase, or a bin holds no
            mode.
    """
    field = field_array(field, channels=True)
    return cross_spectrum(field[..., :, None, :, :], field[..., None, :, :, :], num_bins, pixel_arcmin, edges)


def _real_product(a: jax.Array, b: jax.Array) -> jax.Array:
    return a.real * b.real + a.imag * b.imag


def _common_modes(
    a: ArrayLike,
    b: ArrayLike,
    num_bins: int | None,
    pixel_arcmin: float | None,
    edges: Sequence[float] | np.ndarray | None,
) -> tuple[jax.Array, jax.Array, Bins]:
    field_a = field_array(a)
    field_b = field_a if b is a else field_array(b)
    refuse_unmatched(field_a, field_b)
    height, width = field_a.shape[-2:]
    bins = radial_bins((height, width), num_bins, pixel_arcmin, edges)
    fourier_a = jnp.fft.rfft2(field_a, norm="ortho")
    return fourier_a, fourier_a if b is a else jnp.fft.rfft2(field_b, norm="ortho"), bins
