r"""Collapsed equilateral bispectrum and trispectrum: cumulants of band-filtered maps, within and between channels.

Fields :math:`a, b, \ldots` are filtered to one narrow band of |k|; the pixel mean of a product of n of them sums all
closed n-gons whose sides lie in the band,

.. math:: \langle a b c \rangle = N^{-3/2} \sum_{k_1 + k_2 + k_3 = 0} a_{k_1} b_{k_2} c_{k_3}, \qquad
          \langle a b c d \rangle = N^{-2} \sum_{k_1 + \ldots + k_4 = 0} a_{k_1} b_{k_2} c_{k_3} d_{k_4},

with N the number of pixels. Divided by the standard deviations these are skewness and kurtosis. A Gaussian field of any
power has no third moment; its fourth comes from the tuples that close in pairs, such as :math:`k_1 = -k_2, k_3 = -k_4`,
and from no others. The connected trispectrum is the sum without these tuples. So its expectation on jointly Gaussian,
stationary fields is zero for each single map and exactly, where :math:`\langle a^4 \rangle - 3 \langle a^2 \rangle^2`
has a bias of the order of one over the number of modes in the band, because the variance is itself estimated.
The price is that a variation of the power of whole maps from one to the next, which lies in these tuples, is not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from bayesdiff.fields.inputs import field_array, refuse_unmatched
from bayesdiff.fields.spectra import radial_bins, wavenumbers


class BandedCumulant(NamedTuple):
    """A moment of n band-filtered fields, in every band.

    Attributes:
        centers: (num_bands,) mean wavenumber of the modes of each band: in units of the fundamental mode, or the
            multipole ell if the pixel size was given.
        moment: (..., channels, num_bands) pixel mean of the product, in field units to the n.
        cumulant: its connected part, in field units to the n; for n = 3 the moment itself.
        coefficient: the cumulant divided by the standard deviations of the n filtered maps: skewness or excess
            kurtosis. 0 where one of them has no power.
        num_modes: (num_bands,) number of modes of each band, k and -k both counted.
    """

    centers: jax.Array
    moment: jax.Array
    cumulant: jax.Array
    coefficient: jax.Array
    num_modes: jax.Array


def collapsed_bispectrum(
    a: ArrayLike,
    b: ArrayLike | None = None,
    c: ArrayLike | None = None,
    edges: Sequence[float] | np.ndarray | None = None,
    pixel_arcmin: float | None = None,
) -> BandedCumulant:
    """Third moment <a b c> of periodic fields filtered to bands of |k|; fields not given are ``a``.

    So ``collapsed_bispectrum(x)`` is <x x x>, and <x x y> of two channels is
    ``collapsed_bispectrum(maps[..., [0], :, :], c=maps[..., [1], :, :])``. For its mean and error over maps see
    `summarise_ensemble`.

    Args:
        a: (..., channels, height, width).
        b: the same height and width; other axes broadcast against those of ``a``.
        c: as ``b``.
        edges: (num_bands + 1,) increasing band edges, in units of the fundamental mode of the map, or as ell if the
            pixel size is given; a band holds its lower edge. The mean of the map is in no band. Default: octaves from
            the fundamental to the Nyquist mode.
        pixel_arcmin: pixel size [arcmin].

    Returns:
        Moment, cumulant and skewness, each (..., channels, num_bands).

    Raises:
        ValueError: if the maps differ in size or have NaN pixels, other axes do not broadcast, the edges do not
            increase, or a band holds no mode.
    """
    return _banded_cumulant((a, b, c), edges, pixel_arcmin)


def collapsed_trispectrum(
    a: ArrayLike,
    b: ArrayLike | None = None,
    c: ArrayLike | None = None,
    d: ArrayLike | None = None,
    edges: Sequence[float] | np.ndarray | None = None,
    pixel_arcmin: float | None = None,
) -> BandedCumulant:
    """Fourth moment <a b c d> and its connected part, of periodic fields filtered to bands of |k|.

    Fields not given are ``a``: ``collapsed_trispectrum(x)`` is <x x x x>, and ``collapsed_trispectrum(x, x, y, y)`` is
    <x x y y>. Arguments and errors are those of `collapsed_bispectrum`.

    Returns:
        Moment, cumulant and excess kurtosis, each (..., channels, num_bands).
    """
    return _banded_cumulant((a, b, c, d), edges, pixel_arcmin)


def _banded_cumulant(
    fields: Sequence[ArrayLike | None], edges: Sequence[float] | np.ndarray | None, pixel_arcmin: float | None
) -> BandedCumulant:
    given = [fields[0] if field is None else field for field in fields]
    distinct = {id(field): field for field in given}
    which = tuple(list(distinct).index(id(field)) for field in given)
    arrays = [field_array(field) for field in distinct.values() if field is not None]
    refuse_unmatched(*arrays)
    height, width = arrays[0].shape[-2:]
    if edges is None:
        fundamental = wavenumbers((height, width), pixel_arcmin).ravel()[1:].min()
        edges = fundamental * 2.0 ** np.arange(np.ceil(np.log2(max(height, width) / 2)) + 1)
    bins = radial_bins((height, width), None, pixel_arcmin, edges)
    multiplicity = bins.weight * np.append(bins.counts, 0.0)[bins.index]
    weights = np.stack([np.where(bins.index == band, multiplicity, 0.0) for band in range(bins.centers.size)])
    dtype = jnp.result_type(*arrays)
    fourier = tuple(jnp.fft.rfft2(array, norm="ortho") for array in arrays)
    moment, cumulant, coefficient = _all_bands(fourier, jnp.asarray(weights, dtype), which, (height, width))
    centers, num_modes = jnp.asarray(bins.centers, dtype), jnp.asarray(bins.counts, dtype)
    return BandedCumulant(centers, moment, cumulant, coefficient, num_modes)


@partial(jax.jit, static_argnames=("which", "shape"))
def _all_bands(
    fourier: tuple[jax.Array, ...], weights: jax.Array, which: tuple[int, ...], shape: tuple[int, int]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Moment, cumulant and coefficient (..., num_bands) of the fields ``which`` of ``fourier``.

    ``weights`` (num_bands, rows, columns) is how often each mode of the half-plane counts in each band.
    """
    size = shape[0] * shape[1]
    self_conjugate = jnp.asarray(_self_conjugate(*shape), weights.dtype)

    def one_band(weight: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        def total(modes: jax.Array) -> jax.Array:
            return jnp.sum(weight * modes.real, axis=(-2, -1))

        # Standardised maps, since fourth powers of small units underflow in float32.
        modes, maps, deviations = [], [], []
        for values in fourier:
            variance = total(values * values.conj()) / size
            deviation = jnp.sqrt(jnp.where(variance > 0, variance, 1.0))
            modes.append(jnp.where(weight > 0, values, 0.0) / deviation[..., None, None])
            maps.append(jnp.fft.irfft2(modes[-1], s=shape, norm="ortho"))
            deviations.append(jnp.where(variance > 0, deviation, 0.0))
        scale = _product([deviations[i] for i in which])
        coefficient = moment = jnp.mean(_product([maps[i] for i in which]), axis=(-2, -1))
        if len(which) == 4:
            a, b, c, d = (modes[i] / np.sqrt(size) for i in which)
            pairings = (a, b, c, d), (a, c, b, d), (a, d, b, c)
            disconnected = sum(total(p * q.conj()) * total(r * s.conj()) for p, q, r, s in pairings)
            # Tuples such as (k, -k, -k, k) close in two of the pairings, and those of a mode k = -k in all three.
            twice = a * (b.conj() * c.conj() * d + b.conj() * c * d.conj() + b * c.conj() * d.conj())
            coefficient = moment - disconnected + total(twice - self_conjugate * a * b * c * d)
        return moment * scale, coefficient * scale, coefficient

    moment, cumulant, coefficient = (jnp.moveaxis(values, 0, -1) for values in jax.lax.map(one_band, weights))
    return moment, cumulant, coefficient


def _product(factors: Sequence[jax.Array]) -> jax.Array:
    result = factors[0]
    for factor in factors[1:]:
        result = result * factor
    return result


def _self_conjugate(height: int, width: int) -> np.ndarray:
    """Whether k and -k are the same mode, over the half-plane of ``rfft2``."""
    rows, columns = np.arange(height), np.arange(width // 2 + 1)
    return (2 * rows % height == 0)[:, None] & (2 * columns % width == 0)[None, :]
