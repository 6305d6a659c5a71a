"""Coverage of fields: per pixel, and per band of Fourier modes.

Pixels of one field depend on each other, so the fraction of them that is covered scatters far more from one simulation
to the next than a binomial law says. Its scatter is taken from the draws instead: any draw could have been the truth,
and the fraction of *its* pixels that are covered by the others is computed in the same way
(`bayesdiff.calibration.exchange`). Nothing is assumed about the field.

The real and imaginary parts of Fourier modes are treated like pixels and averaged in bands of |k|, so that a posterior
which is right at large scales and over-confident at small ones is seen to be just that.

Draws may be any array-like that is indexed by simulation, such as a memory-mapped or a Zarr array: one simulation is
read at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from bayesdiff.calibration.arrays import Key, checked_levels, generator, refuse_nan, refuse_unmatched
from bayesdiff.calibration.coverage import SIGMAS, central_share
from bayesdiff.calibration.exchange import ExchangeTest, exchange_test
from bayesdiff.calibration.ranks import rank_statistics, ranks_of_all
from bayesdiff.fields.spectra import radial_bins


class Fields(Protocol):
    """Draws (simulation, draw, channel, height, width), or truths (simulation, channel, height, width)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        ...

    def __getitem__(self, index: int, /) -> ArrayLike:
        """One simulation."""
        ...


class PixelCoverage(NamedTuple):
    """Coverage of central intervals, averaged over the pixels of each channel.

    Attributes:
        levels: (level,) nominal coverage.
        coverage: (channel, level) fraction of covered pixels.
        spread: (channel,) mean of |2u - 1| over pixels, u being the truth's rank as a fraction: 1/2 when calibrated,
            larger when over-confident. All levels in one number.
        location: (channel,) mean of u: 1/2 when calibrated, larger when the draws lie too low.
        maps: (level, channel, height, width) fraction of simulations that cover each pixel.
    """

    levels: np.ndarray
    coverage: ExchangeTest
    spread: ExchangeTest
    location: ExchangeTest
    maps: np.ndarray


class BandCoverage(NamedTuple):
    """Coverage of central intervals of Fourier coefficients, averaged in bands of |k|.

    Attributes:
        levels: (level,) nominal coverage.
        centers: (band,) mean wavenumber of each band.
        num_modes: (band,) number of modes, k and -k both counted.
        coverage: (channel, band, level) fraction of covered coefficients.
        spread: (channel, band) as for pixels.
        residual_ranks: (simulation, channel, band) rank of the truth's power in its difference from the mean of all
            points, among the draws'. High where the band is over-confident; for `rank_tests`.
        num_draws: number of draws that the truth was ranked among.
    """

    levels: np.ndarray
    centers: np.ndarray
    num_modes: np.ndarray
    coverage: ExchangeTest
    spread: ExchangeTest
    residual_ranks: np.ndarray
    num_draws: int


def pixel_coverage(truth: Fields, draws: Fields, levels: ArrayLike = SIGMAS, key: Key = 0) -> PixelCoverage:
    """Coverage of the truth, pixel by pixel.

    Args:
        truth: (simulation, channel, height, width).
        draws: (simulation, draw, channel, height, width), independent draws.
        levels: (level,) nominal levels.
        key: for ties, which masked pixels are.

    Raises:
        ValueError: if the shapes do not fit, a value is NaN, or the levels do not increase between 0 and 1.
    """
    refuse_unmatched_fields(truth, draws)
    levels, rng = checked_levels(levels), generator(key)
    num_draws = draws.shape[1]
    share, folded, fraction = _tables(num_draws, levels)
    maps = np.zeros((levels.size, *truth.shape[1:]))
    covered, spread, location = [], [], []
    for index in range(truth.shape[0]):
        ranks = ranks_of_all(simulation_points(truth, draws, index), rng)
        maps += share[:, ranks[0]]
        # Averages over pixels of a function of the rank are averages over the histogram of ranks.
        histogram = _histogram(ranks.reshape(*ranks.shape[:2], -1), num_draws + 1)
        covered.append(histogram @ share.T)
        spread.append(histogram @ folded)
        location.append(histogram @ fraction)
    return PixelCoverage(
        levels,
        exchange_test(np.stack(covered)),
        exchange_test(np.stack(spread)),
        exchange_test(np.stack(location)),
        maps / truth.shape[0],
    )


def band_coverage(
    truth: Fields,
    draws: Fields,
    num_bins: int | None = None,
    pixel_arcmin: float | None = None,
    edges: Sequence[float] | np.ndarray | None = None,
    levels: ArrayLike = SIGMAS,
    key: Key = 0,
) -> BandCoverage:
    """Coverage of the truth's Fourier coefficients, band by band.

    Args:
        truth: (simulation, channel, height, width), periodic.
        draws: (simulation, draw, channel, height, width), independent draws.
        num_bins: number of bands, as in `bayesdiff.fields.power_spectrum`.
        pixel_arcmin: pixel size [arcmin]; wavenumbers are then multipoles ell.
        edges: band edges instead of ``num_bins``.
        levels: (level,) nominal levels.
        key: for ties.

    Raises:
        ValueError: if the shapes do not fit, a value is NaN, the levels do not increase between 0 and 1, or a band
            holds no mode.
    """
    refuse_unmatched_fields(truth, draws)
    levels, rng = checked_levels(levels), generator(key)
    num_draws = draws.shape[1]
    share, folded, _ = _tables(num_draws, levels)
    height, width = truth.shape[-2:]
    bins = radial_bins((height, width), num_bins, pixel_arcmin, edges)
    member = bins.weight[..., None] * (bins.index[..., None] == np.arange(bins.centers.size))
    weights = _coefficient_weights(member, height, width)
    covered, spread, ranks = [], [], []
    for index in range(truth.shape[0]):
        modes = np.fft.rfft2(simulation_points(truth, draws, index), norm="ortho")
        parts = np.stack([modes.real, modes.imag], axis=2).reshape(*modes.shape[:2], -1)
        power = np.tensordot(np.abs(modes - modes.mean(axis=0)) ** 2, member, axes=2)
        ranks.append(rank_statistics(power[None, 0], power[None, 1:], rng)[0])
        rank = ranks_of_all(parts, rng)
        covered.append(np.stack([table[rank] @ weights for table in share], axis=-1))
        spread.append(folded[rank] @ weights)
    return BandCoverage(
        levels,
        bins.centers,
        bins.counts,
        exchange_test(np.stack(covered)),
        exchange_test(np.stack(spread)),
        np.stack(ranks),
        num_draws,
    )


def refuse_unmatched_fields(truth: Fields, draws: Fields) -> None:
    """Raise ValueError unless these are truths and draws of fields, two draws or more of each."""
    if len(truth.shape) != 4:
        raise ValueError(f"truth (simulation, channel, height, width) expected, got {tuple(truth.shape)}")
    refuse_unmatched(tuple(truth.shape), tuple(draws.shape), smallest=2)


def simulation_points(truth: Fields, draws: Fields, index: int) -> np.ndarray:
    """Truth and draws of one simulation, (1 + draw, channel, height, width).

    Raises:
        ValueError: if a value is NaN.
    """
    points = np.concatenate([np.asarray(truth[index])[None], np.asarray(draws[index])])
    refuse_nan(f"truth and draws of simulation {index}", points[None])
    return points


def _tables(num_draws: int, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every rank: the share covered at each level, |2u - 1|, and u."""
    fraction = (np.arange(num_draws + 1) + 0.5) / (num_draws + 1)
    return central_share(num_draws, levels), np.abs(2 * fraction - 1), fraction


def _histogram(ranks: np.ndarray, number: int) -> np.ndarray:
    """Fraction (..., rank) of the last axis of ranks (..., pixel) that has each rank."""
    flat = ranks.reshape(-1, ranks.shape[-1])
    offset = np.arange(len(flat))[:, None] * number
    counts = np.bincount((flat + offset).ravel(), minlength=len(flat) * number)
    return counts.reshape(*ranks.shape[:-1], number) / ranks.shape[-1]


def _coefficient_weights(member: np.ndarray, height: int, width: int) -> np.ndarray:
    """Weights (coefficient, band) of real and imaginary parts, from those of ``rfft2`` modes (row, column, band)."""
    rows, columns, _ = np.indices(member.shape)
    # The modes that are their own conjugate have no imaginary part, and count with their real part alone.
    real_alone = ((2 * rows) % height == 0) & ((2 * columns) % width == 0)
    parts = [np.where(real_alone, member, member / 2), np.where(real_alone, 0.0, member / 2)]
    return np.stack(parts).reshape(-1, member.shape[-1])
