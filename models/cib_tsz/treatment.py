"""What is done to a sky before a prior learns it: masks of sources and clusters, and a low-pass.

As in Prabhu et al. (2025, arXiv:2506.09036, section 2), pixels of sources above 2 mJy at 150 GHz and discs about
clusters of M_500c above 3e14 solar masses, of 3 to 5 theta_500c by mass and at least 10 arcmin, are filled with
Gaussian values of the map's mean and standard deviation. The low-pass is theirs in units of the Nyquist multipole: they
keep ell below 7,000 on pixels of 1.41 arcmin, here ell = 4,900 is kept on pixels of 2 arcmin, with a soft edge.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from models.cib_tsz.halos import ARCMIN

CIB_FREQUENCIES = (95, 150, 857)
CLUSTER_MASS, LARGEST_MASS = 3e14, 1e15
CLUSTER_RADII, SMALLEST_RADIUS = (3.0, 5.0), 10.0
LOW_PASS = 4900.0


class Clusters(NamedTuple):
    """Halos with gas of a mock.

    Attributes:
        position: in pixels of the fine grid, (N, 2).
        amplitude: of Compton y, sigma_T / (m_e c^2) P_500 R_500, (N,).
        theta: theta_500c [rad], (N,).
        m500: M_500c [solar masses], (N,).
    """

    position: np.ndarray
    amplitude: np.ndarray
    theta: np.ndarray
    m500: np.ndarray


class Sky(NamedTuple):
    """A painted sky before masks and filter.

    Attributes:
        maps: channels of :data:`models.cib_tsz.mock.CHANNELS`, (4, n, n) [micro-K].
        sources: galaxies above the flux cut, rows and columns, (N, 2).
        clusters: all of its clusters.
    """

    maps: np.ndarray
    sources: np.ndarray
    clusters: Clusters


def multipoles(size: int, pixel: float) -> np.ndarray:
    """Multipole of every mode of a square grid of ``pixel`` [rad], (size, size)."""
    frequency = 2.0 * np.pi * np.fft.fftfreq(size, pixel)
    return np.hypot(frequency[:, None], frequency[None, :])


def mask_of(sky: Sky, pixel: float) -> np.ndarray:
    """Pixels of ``pixel`` [rad] to be filled, (n, n): those of bright sources, and discs about massive clusters."""
    size = sky.maps.shape[-1]
    masked = np.zeros((size, size), dtype=bool)
    masked[sky.sources[:, 0], sky.sources[:, 1]] = True
    centres = np.arange(size) + 0.5
    clusters = sky.clusters
    for index in np.flatnonzero(clusters.m500 >= CLUSTER_MASS):
        apart = np.abs(centres[:, None] - clusters.position[index])
        rows, columns = (np.minimum(apart, size - apart) * pixel / ARCMIN).T
        radius = mask_radius(clusters.m500[index], clusters.theta[index] / ARCMIN)
        masked |= np.hypot(rows[:, None], columns[None, :]) < radius
    return masked


def mask_radius(m500: float, theta_arcmin: float) -> float:
    """Radius of the mask of a cluster [arcmin]: 3 theta_500c at 3e14 solar masses, 5 from 1e15 on, at least 10."""
    share = np.clip(np.log(m500 / CLUSTER_MASS) / np.log(LARGEST_MASS / CLUSTER_MASS), 0.0, 1.0)
    low, high = CLUSTER_RADII
    return float(max((low + share * (high - low)) * theta_arcmin, SMALLEST_RADIUS))


def fill_masks(rng: np.random.Generator, sky: Sky, pixel: float) -> np.ndarray:
    """Maps whose masked pixels have Gaussian values of the mean and standard deviation of the whole map, (4, n, n).

    The frequencies of the CIB share them, which would else lose their correlation there.
    """
    masked = mask_of(sky, pixel)
    cib, tsz = rng.normal(size=(2, *masked.shape))
    values = np.stack([cib] * len(CIB_FREQUENCIES) + [tsz])
    mean, sd = (f(sky.maps[:, ~masked], axis=1)[:, None, None] for f in (np.mean, np.std))
    return np.where(masked, mean + sd * values, sky.maps)


def low_pass(maps: np.ndarray, pixel: float) -> np.ndarray:
    """Maps (..., n, n) on pixels of ``pixel`` [rad], times exp(-(ell / 4900)^8) in Fourier space."""
    transfer = np.exp(-((multipoles(maps.shape[-1], pixel) / LOW_PASS) ** 8))
    return np.real(np.fft.ifft2(np.fft.fft2(maps) * transfer))


def degrade(maps: np.ndarray, factor: int) -> np.ndarray:
    """Maps (..., n, n) on pixels ``factor`` times as large: of their modes those below the new Nyquist multipole."""
    size = maps.shape[-1] // factor
    modes = np.fft.fftshift(np.fft.fft2(maps), axes=(-2, -1))
    low = (maps.shape[-1] - size) // 2
    kept = np.fft.ifftshift(modes[..., low : low + size, low : low + size], axes=(-2, -1))
    return np.real(np.fft.ifft2(kept)) / factor**2
