r"""What the spectra alone say of the amplitudes: their posterior if both foregrounds were Gaussian, in closed form.

With S(k) the matrix of auto- and cross-spectra of CIB and tSZ of amplitude one, A the diagonal matrix of amplitudes and
R that of responses, the two modes of each k are Gaussian with the covariance

.. math:: R A S(k) A R^T + P_{\rm cmb}(k) \, 1 1^T + N ,

fields, CMB and noise all integrated out. For a prior that is itself Gaussian and linear this is the exact posterior,
the check of sampled chains; for the sky it is what a power spectrum can tell.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import bayesdiff as bd
from models.cib_tsz.model import AMPLITUDES, noise_covariance
from models.cib_tsz.observation import RESPONSE
from models.cib_tsz.scale import at_modes


class AmplitudePosterior(NamedTuple):
    """A posterior of (A_cib, A_tsz) on a grid.

    Attributes:
        axis: amplitudes of the grid, of A_cib and of A_tsz, (2, n).
        density: probability of each cell, A_cib along rows, (n, n).
        mean: of both, (2,).
        sd: of both, (2,).
    """

    axis: np.ndarray
    density: np.ndarray
    mean: np.ndarray
    sd: np.ndarray


def log_likelihood(
    maps: np.ndarray, spectra: np.ndarray, cmb: np.ndarray, noise: tuple[float, float], amplitudes: np.ndarray
) -> np.ndarray:
    """Log density of maps (2, H, W) at amplitudes (..., 2), (...), the mean of the maps left out.

    Args:
        maps: at 95 and 150 GHz [micro-K].
        spectra: of CIB and tSZ, orthonormal per mode, (2, 2, H, W) [micro-K^2].
        cmb: power of the CMB, (H, W) [micro-K^2].
        noise: depths [micro-K arcmin].
        amplitudes: of CIB and tSZ.
    """
    modes = np.fft.fft2(np.asarray(maps, dtype=np.float64), norm="ortho")
    a, b = (m.ravel()[1:] for m in modes)
    noisy = noise_covariance(cmb, noise).reshape(2, 2, -1)[..., 1:]
    matrix = np.asarray(spectra, dtype=np.float64).reshape(2, 2, -1)[..., 1:]
    scales = np.asarray(amplitudes, dtype=np.float64)
    result = np.empty(scales.shape[:-1])
    for index in np.ndindex(result.shape):
        mixing = RESPONSE * scales[index]
        total = np.einsum("ic,cdk,jd->ijk", mixing, matrix, mixing) + noisy
        determinant = total[0, 0] * total[1, 1] - total[0, 1] ** 2
        square = total[1, 1] * np.abs(a) ** 2 + total[0, 0] * np.abs(b) ** 2 - 2.0 * total[0, 1] * (a.conj() * b).real
        result[index] = -0.5 * np.sum(square / determinant + np.log(determinant) + 2.0 * np.log(2.0 * np.pi))
    return result


def amplitude_posterior(
    maps: np.ndarray, spectra: np.ndarray, cmb: np.ndarray, noise: tuple[float, float], num: int = 64, rounds: int = 3
) -> AmplitudePosterior:
    """Posterior under priors uniform in the logarithm of both amplitudes, on a grid that closes in on it.

    Arguments as in :func:`log_likelihood`.

    Args:
        maps: at 95 and 150 GHz [micro-K].
        spectra: of CIB and tSZ.
        cmb: power of the CMB.
        noise: depths.
        num: cells of each axis.
        rounds: grids, each about six standard deviations of the one before.
    """
    limits = [np.log(AMPLITUDES)] * 2
    for _ in range(rounds):
        axes = [np.linspace(low, high, num + 1) for low, high in limits]
        middles = [0.5 * (axis[1:] + axis[:-1]) for axis in axes]
        grid = np.exp(np.stack(np.meshgrid(*middles, indexing="ij"), axis=-1))
        density = log_likelihood(maps, spectra, cmb, noise, grid)
        density = np.exp(density - density.max())
        density /= density.sum()
        limits = [_around(middle, density.sum(axis=1 - i), limits[i]) for i, middle in enumerate(middles)]
    mean = np.einsum("ij,ijc->c", density, grid)
    sd = np.sqrt(np.einsum("ij,ijc->c", density, (grid - mean) ** 2))
    return AmplitudePosterior(np.exp(np.stack(middles)), density, mean, sd)


def _around(axis: np.ndarray, density: np.ndarray, limits: np.ndarray) -> np.ndarray:
    centre = np.sum(density * axis)
    spread = max(np.sqrt(np.sum(density * (axis - centre) ** 2)), axis[1] - axis[0])
    return np.clip([centre - 6.0 * spread, centre + 6.0 * spread], *limits)


def spectra_of(prior: bd.DiffusionModel) -> np.ndarray:
    """Spectra of the maps that a prior was trained on, from its card, (2, 2, H, W) [micro-K^2].

    Raises:
        ValueError: the card has none.
    """
    if "spectra" not in prior.card.entries:
        raise ValueError(f"the card must hold spectra, got {', '.join(prior.card.entries) or 'nothing'}")
    return at_modes(np.asarray(prior.card.entries["spectra"], dtype=np.float64), prior.event_shape)
