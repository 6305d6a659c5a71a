"""The analytic twin of the dust study: Gaussian "dust" with a power-law spectrum, everything in closed form.

The same mixture and the same NumPyro model as :mod:`models.dust_cmb`, but with a prior whose denoiser, marginal
likelihood and field posterior are exact. Every engine and estimator is checked on it.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

import bayesdiff as bd
from bayesdiff.cosmology import dust_cmb_noise_components

PIXEL_ARCMIN = 8.0
SPECTRAL_INDEX = -3.0


def power_law(size: int, index: float = SPECTRAL_INDEX) -> np.ndarray:
    """Orthonormal power |k|^index on a (size, size) grid, of unit variance; k = 0 is as at 2/3 of the fundamental."""
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(size, 1.0 / size), np.fft.fftfreq(size, 1.0 / size)))
    k[0, 0] = 2.0 / 3.0
    power = k**index
    return power / power.mean()


def make_twin(size: int = 32, log_snr_max: float = 10.0) -> bd.DiffusionModel:
    """Gaussian dust of unit variance on ``size`` x ``size`` pixels of 8 arcmin, noised by CMB and instrument noise.

    The schedule runs between log-SNR ``log_snr_max`` and minus that.
    """
    return bd.DiffusionModel(
        denoiser=bd.GaussianDenoiser(jnp.asarray(power_law(size))),
        schedule=bd.schedules.Cosine(log_snr_max=log_snr_max),
        noise=bd.StationaryNoise(dust_cmb_noise_components((size, size), PIXEL_ARCMIN)),
        event_shape=(1, size, size),
        context_names=("H0", "omega_b"),
        name="dust",
    )
