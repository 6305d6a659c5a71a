"""Checks of whole fields: ranks of functionals, and TARP with every band of scales counting equally.

A functional reduces a field to one number, so the rank of the truth's among the draws' is an ordinary rank statistic.
Band powers see a posterior that is too smooth; Minkowski functionals and the maximum see one whose structures are wrong
even where every pixel and every power is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from bayesdiff.calibration.arrays import Key, generator
from bayesdiff.calibration.field_coverage import Fields, refuse_unmatched_fields, simulation_points
from bayesdiff.calibration.ranks import rank_statistics
from bayesdiff.calibration.tarp import Tarp, other_truths, tarp_of_ranks
from bayesdiff.fields.morphology import minkowski_functionals
from bayesdiff.fields.spectra import power_spectrum, radial_bins


class FunctionalRanks(NamedTuple):
    """Ranks of functionals of the truth, for `rank_tests`.

    Attributes:
        names: of the functionals, e.g. "channel 0, power in band 2".
        ranks: (simulation, functional) integers from 0 to num_draws.
        num_draws: number of draws that the truth was ranked among.
    """

    names: tuple[str, ...]
    ranks: np.ndarray
    num_draws: int


def functional_ranks(
    truth: Fields,
    draws: Fields,
    num_bins: int | None = None,
    edges: Sequence[float] | np.ndarray | None = None,
    thresholds: Sequence[float] = (1.0,),
    window: float = 0.5,
    key: Key = 0,
    channels: Sequence[str] | None = None,
) -> FunctionalRanks:
    """Ranks of band powers, Minkowski functionals and the maximum, of every channel.

    Args:
        truth: (simulation, channel, height, width), periodic.
        draws: (simulation, draw, channel, height, width), independent draws; any array-like indexed by simulation.
        num_bins: number of bands of |k|, as in `bayesdiff.fields.power_spectrum`.
        edges: band edges instead of ``num_bins``, in units of the fundamental mode.
        thresholds: of the excursion sets, in standard deviations of all truths and draws of the channel from their
            mean: of both, or the truth would not be one of the draws.
        window: width of the window that stands for the delta function in V1 and V2, in standard deviations.
        key: for ties.
        channels: their names; default "channel 0", "channel 1", ...

    Raises:
        ValueError: if the shapes or the names do not fit, a value is NaN, or a band holds no mode.
    """
    refuse_unmatched_fields(truth, draws)
    channels = channel_names(channels, truth.shape[1])
    rng = generator(key)
    mean, sd = _moments(truth, draws)

    @jax.jit
    def functionals(fields: jax.Array) -> jax.Array:
        power = power_spectrum(fields, num_bins, edges=edges).power
        shape = minkowski_functionals((fields - mean) / sd, np.asarray(thresholds), window)
        return jnp.concatenate([power, *shape, fields.max(axis=(-2, -1))[..., None]], axis=-1)

    height, width = truth.shape[-2:]
    names = [
        f"power in band {band}" for band in range(radial_bins((height, width), num_bins, None, edges).centers.size)
    ]
    names += [f"{which} at {t:g} sd" for which in ("V0", "V1", "V2") for t in thresholds] + ["maximum"]
    ranks = []
    for index in range(truth.shape[0]):
        points = np.asarray(functionals(simulation_points(truth, draws, index)))
        ranks.append(rank_statistics(points[None, 0], points[None, 1:], rng)[0])
    return FunctionalRanks(
        tuple(f"{channel}, {name}" for channel in channels for name in names),
        np.stack(ranks).reshape(truth.shape[0], -1),
        draws.shape[1],
    )


def channel_names(channels: Sequence[str] | None, number: int) -> tuple[str, ...]:
    """The names of channels, or "channel 0", "channel 1", ... where none are given.

    Raises:
        ValueError: there are more or fewer names than channels.
    """
    channels = tuple(f"channel {i}" for i in range(number)) if channels is None else tuple(channels)
    if len(channels) != number:
        raise ValueError(f"{number} channels have as many names, got {len(channels)}: {', '.join(channels)}")
    return channels


def _moments(truth: Fields, draws: Fields) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of all pixels of truths and draws, (channel, 1, 1); 1 for a constant channel."""
    every = (simulation_points(truth, draws, index) for index in range(truth.shape[0]))
    sums = [(x.mean(axis=(0, 2, 3), dtype=float), np.square(x, dtype=float).mean(axis=(0, 2, 3))) for x in every]
    mean, square = np.mean(sums, axis=0)
    variance = square - mean**2
    sd = np.sqrt(np.where(variance > 1e-12 * square, variance, 1.0))
    return mean[:, None, None], sd[:, None, None]


def field_tarp(
    truth: Fields,
    draws: Fields,
    references: ArrayLike | None = None,
    num_bins: int | None = None,
    edges: Sequence[float] | np.ndarray | None = None,
    key: Key = 0,
    num_bootstrap: int = 500,
    band: float = 0.95,
) -> Tarp:
    """TARP on the whole field.

    The squared distance is that of Fourier modes, divided for every channel and band by the power that the truths have
    there in all: large scales do not decide by their power, nor small ones by their number.

    Args:
        truth: (simulation, channel, height, width), periodic.
        draws: (simulation, draw, channel, height, width), independent draws; any array-like indexed by simulation.
        references: (simulation, channel, height, width), which may depend on the data. Default: the truth of another
            simulation.
        num_bins: number of bands of |k|, as in `bayesdiff.fields.power_spectrum`. Modes in no band are left out.
        edges: band edges instead of ``num_bins``, in units of the fundamental mode.
        key: for references, ties and the bootstrap.
        num_bootstrap: number of bootstrap samples.
        band: probability of the bootstrap band.

    Raises:
        ValueError: if the shapes do not fit, a value is NaN, a band holds no mode, or there is a single simulation,
            whose bands have no scale.
    """
    refuse_unmatched_fields(truth, draws)
    if truth.shape[0] < 2:
        raise ValueError("TARP of fields needs two simulations or more, got 1")
    rng = generator(key)
    every = np.stack([np.asarray(truth[i]) for i in range(truth.shape[0])])
    references = other_truths(every, rng) if references is None else np.asarray(references)
    if references.shape != every.shape:
        raise ValueError(f"references have the shape of the truth, {every.shape}, got {references.shape}")
    height, width = every.shape[-2:]
    bins = radial_bins((height, width), num_bins, None, edges)
    member = bins.weight[..., None] * (bins.index[..., None] == np.arange(bins.centers.size))
    spectrum = np.tensordot(_mode_power(every - every.mean(axis=0)).mean(axis=0), member, axes=2)
    share = np.divide(1.0, spectrum, out=np.zeros_like(spectrum), where=spectrum > 0)
    # (channel, row, column)
    weight = np.einsum("cb,yxb->cyx", share, member)
    ranks = []
    for index in range(len(every)):
        points = simulation_points(truth, draws, index)
        distance = np.tensordot(_mode_power(points - references[index]), weight, axes=3)
        ranks.append(rank_statistics(distance[None, 0], distance[None, 1:], rng)[0])
    return tarp_of_ranks(np.array(ranks), draws.shape[1], rng, num_bootstrap, band)


def _mode_power(fields: np.ndarray) -> np.ndarray:
    modes = np.fft.rfft2(fields, norm="ortho")
    return modes.real**2 + modes.imag**2
