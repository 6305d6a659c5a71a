"""Peaks of periodic fields, and the mean radial profile around those of a range of signal-to-noise.

A peak is a pixel higher than its eight neighbours. The stacked profile of a field b around the peaks of a field a is
the mean of b over all pixels whose distance to a peak lies in an annulus, each peak counting the same: the correlation
of the map of peaks with b, averaged over angle. One FFT gives it for all peaks at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from bayesdiff.diffusion.refusals import refuse_outside
from bayesdiff.fields.binning import Bins, bin_mean, bins_of
from bayesdiff.fields.inputs import field_array, refuse_unmatched


class PeakProfiles(NamedTuple):
    """Mean radial profiles around peaks.

    Attributes:
        radii: (num_radii,) mean distance of the pixels of each annulus to the peak, in pixels or [arcmin].
        profile: (..., channels, num_ranges, num_radii) mean field there, in field units; NaN for a range without peaks.
        count: (..., channels, num_ranges) number of peaks.
    """

    radii: jax.Array
    profile: jax.Array
    count: jax.Array


def find_peaks(field: ArrayLike) -> jax.Array:
    """Whether each pixel of a periodic field is higher than its eight neighbours; a plateau has no peak.

    Args:
        field: (..., channels, height, width).

    Returns:
        Booleans of the field's shape.

    Raises:
        ValueError: if the field has fewer than two axes or NaN pixels.
    """
    field = field_array(field)
    peaks = jnp.ones(field.shape, bool)
    for shift in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
        peaks &= field > jnp.roll(field, shift, axis=(-2, -1))
    return peaks


def peak_profiles(
    peak_field: ArrayLike,
    profile_field: ArrayLike | None = None,
    ranges: Sequence[tuple[float, float]] = ((3.0, 5.0), (5.0, np.inf)),
    noise: ArrayLike | None = None,
    radial_edges: Sequence[float] | np.ndarray | None = None,
    pixel_arcmin: float | None = None,
) -> PeakProfiles:
    """Radial profiles of one periodic field around the peaks of another, or of itself, by signal-to-noise of the peak.

    Every map is stacked on its own; `pool_peak_profiles` stacks the peaks of many.

    Args:
        peak_field: (..., channels, height, width), whose peaks are found.
        profile_field: the field averaged around them, default ``peak_field``: the same height and width; other axes
            broadcast. ``peak_profiles(maps[..., [0], :, :], maps)`` is every channel around the peaks of the first.
        ranges: (num_ranges, 2) lower end (included) and upper end (not) of the signal-to-noise of a peak, which is its
            value over the noise. No mean is subtracted from the value.
        noise: standard deviation of the noise in field units, a number or (..., channels). Default: that of the pixels
            of each map; to compare ensembles give one value for both.
        radial_edges: (num_radii + 1,) increasing edges of the annuli, in pixels, or [arcmin] if the pixel size is
            given; an annulus holds its inner edge. Default: the peak itself, then annuli one pixel wide centred on
            1, 2, ... to a quarter of the shorter side.
        pixel_arcmin: pixel size [arcmin].

    Returns:
        Radii, profiles (..., channels, num_ranges, num_radii) and counts (..., channels, num_ranges). A range without
        peaks has the count 0 and a profile of NaN. Differentiable in ``profile_field``.

    Raises:
        ValueError: if the maps differ in size or have NaN pixels, other axes do not broadcast, a range is empty, the
            noise is not positive, the edges do not increase, or an annulus holds no pixel.
    """
    heights = field_array(peak_field, "peak_field")
    averaged = heights if profile_field is None else field_array(profile_field, "profile_field")
    refuse_unmatched(heights, averaged)
    intervals = np.asarray(ranges, dtype=float)
    if intervals.ndim != 2 or intervals.shape[1] != 2 or not np.all(intervals[:, 0] < intervals[:, 1]):
        raise ValueError(f"ranges must be pairs (low, high) of signal-to-noise with low < high, got {ranges}")
    annuli = _annuli(heights.shape[-2:], radial_edges, pixel_arcmin)
    if noise is None:
        noise = jnp.std(heights, axis=(-2, -1))
    else:
        refuse_outside("noise", noise, np.finfo(float).tiny, np.inf, "standard deviation, positive")
    ratio = heights / jnp.asarray(noise, heights.dtype)[..., None, None]
    low, high = (jnp.asarray(ends, heights.dtype)[:, None, None] for ends in intervals.T)
    ratio = ratio[..., None, :, :]
    stacked = find_peaks(heights)[..., None, :, :] & (ratio >= low) & (ratio < high)
    count = jnp.sum(stacked, axis=(-2, -1))
    fourier = jnp.fft.rfft2(stacked.astype(heights.dtype)).conj() * jnp.fft.rfft2(averaged)[..., None, :, :]
    total = bin_mean(jnp.fft.irfft2(fourier, s=heights.shape[-2:]), annuli)
    count = jnp.broadcast_to(count, total.shape[:-1])
    return PeakProfiles(jnp.asarray(annuli.centers, total.dtype), _mean(total, count), count)


def pool_peak_profiles(profiles: PeakProfiles, axis: int = 0) -> PeakProfiles:
    """Profiles of many maps stacked into one, each peak counting the same.

    Args:
        profiles: from `peak_profiles`.
        axis: leading axis of ``profiles.count`` to pool over, counted from the front.

    Returns:
        Profiles without that axis; a range without peaks in any map has the count 0 and a profile of NaN.

    Raises:
        ValueError: if the axis is not a leading one.
    """
    if not 0 <= axis < profiles.count.ndim - 2:
        raise ValueError(
            f"axis must be one before those of the channels and ranges, got {axis} of {profiles.count.shape}"
        )
    present = profiles.count[..., None] > 0
    sums = jnp.where(present, profiles.profile, 0.0) * profiles.count[..., None]
    count = jnp.sum(profiles.count, axis=axis)
    return PeakProfiles(profiles.radii, _mean(jnp.sum(sums, axis=axis), count), count)


def _mean(total: jax.Array, count: jax.Array) -> jax.Array:
    return jnp.where(count[..., None] > 0, total / jnp.maximum(count, 1)[..., None], jnp.nan)


def _annuli(shape: tuple[int, ...], edges: Sequence[float] | np.ndarray | None, pixel_arcmin: float | None) -> Bins:
    """The annulus of each displacement (height, width) from a peak, by its shortest periodic distance."""
    height, width = shape
    along_y, along_x = (np.abs(np.fft.fftfreq(size, 1.0 / size)) for size in (height, width))
    scale = 1.0 if pixel_arcmin is None else pixel_arcmin
    distance = np.hypot(along_y[:, None], along_x[None, :]) * scale
    if edges is None:
        edges = np.append(0.0, np.arange(0.5, max(min(height, width) // 4, 1) + 1)) * scale
    return bins_of(distance, np.ones((height, width)), edges, f"pixel of a {height} x {width} map")
