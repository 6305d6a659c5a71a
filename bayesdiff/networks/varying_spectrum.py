"""Fields whose power varies about that of a Gaussian reference, band by band, and the Wiener filter it calls for.

The power of a simulated slab scatters about its mean at the same cosmology, in thousands of modes together, with the
mean density and the structures that happen to be in it. A denoiser that does not know it errs by no
more, but by the same in thousands of modes: fields that are drawn have all the same power, and likelihoods are too
sure. In bands b with hats h_b(log |k|) the power is

    P(k) = P_ref(k) exp(sum_b a_b h_b(k)),        a ~ N(m + v z, C),

where z is the field's mode k = 0 in standard deviations. All modes of y count: a few Fisher scoring steps from what z
alone lets expect find the most probable amplitudes and the Gaussian about them, over which the filter is averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, polygamma

from bayesdiff.diffusion.denoiser import GaussianDenoiser, GaussianReference, Levels
from bayesdiff.diffusion.fourier import mode_power
from bayesdiff.networks.spectral_mixture import NUM_BANDS, NUM_FEATURES, Window, band_position, nearest_band

NUM_STEPS = 4
LARGEST_STEP = 1.0
SMALLEST_VARIANCE = 1e-12


class Amplitudes(NamedTuple):
    """What is known of log amplitudes: a Gaussian about the most probable ones.

    Attributes:
        mean: (B,).
        covariance: (B, B).
    """

    mean: jax.Array
    covariance: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class VaryingSpectrum:
    """Log amplitudes of the power in bands, a Gaussian vector that follows the field's mean.

    Attributes:
        mean: of the log amplitudes where the field's mean is the reference's, (B,).
        slope: change of the log amplitudes per standard deviation of the field's mean, (B,).
        covariance: of what the mean does not tell, (B, B).
    """

    mean: jax.Array
    slope: jax.Array
    covariance: jax.Array

    @property
    def varies(self) -> bool:
        """It does."""
        return True

    def __call__(self, reference: GaussianDenoiser, y: jax.Array, s: jax.Array, noise_power: jax.Array) -> Window:
        """The spectrum of the field behind y = x + s Sigma^(1/2) n, shape (C, H, W)."""
        noise = s**2 * noise_power
        amplitudes = self.amplitudes(reference, y, noise)
        hats = jnp.asarray(band_hats(y.shape[-2:]), y.dtype)
        power = reference.power * jnp.exp(hats @ amplitudes.mean).reshape(y.shape[-2:])
        variance = jnp.sum((hats @ amplitudes.covariance) * hats, axis=1).reshape(y.shape[-2:])
        # What is expected of P / (P + N) and N / (P + N), to the second order about the mean of log P and exactly where
        # either is small.
        power = power * jnp.exp(0.5 * variance * (noise - power) / (noise + power))
        total = power + noise
        groups = jnp.stack([group.mean() for group in jnp.array_split(amplitudes.mean, NUM_FEATURES)])
        return Window(Levels(total, power / total, noise / total), groups)

    def amplitudes(self, reference: GaussianDenoiser, y: jax.Array, noise: jax.Array) -> Amplitudes:
        """What y says of the log amplitudes of the field behind it, in noise of power ``noise``."""
        hats = jnp.asarray(band_hats(y.shape[-2:]), y.dtype)
        centred = y - reference.mean
        observed, power, noise = (
            jnp.broadcast_to(x, y.shape).reshape(len(y), -1) for x in (mode_power(centred), reference.power, noise)
        )
        # The mean of the field, in standard deviations: what is known of it, and how much is not.
        known = power[:, 0] / (power[:, 0] + noise[:, 0])
        expected = self.mean + jnp.mean(known * _mean_mode(centred, power[:, 0])) * self.slope
        covariance = self.covariance + jnp.mean(1.0 - known) * jnp.outer(self.slope, self.slope)
        identity = jnp.eye(len(expected), dtype=y.dtype)
        mean, posterior = expected, covariance
        for _ in range(NUM_STEPS):
            signal = power * jnp.exp(hats @ mean)
            share = signal / (signal + noise)
            gradient = 0.5 * jnp.sum(share * (observed / (signal + noise) - 1.0), axis=0) @ hats
            information = (hats * (0.5 * jnp.sum(share**2, axis=0))[:, None]).T @ hats
            # Without the inverse of the covariance, which need not have one.
            posterior = jnp.linalg.solve(identity + covariance @ information, covariance)
            step = posterior @ gradient - (mean - expected) + posterior @ (information @ (mean - expected))
            mean = mean + jnp.clip(step, -LARGEST_STEP, LARGEST_STEP)
        return Amplitudes(mean, posterior)


def fit_varying_spectrum(
    fields: jax.Array, reference: GaussianReference, contexts: jax.Array | None = None
) -> VaryingSpectrum:
    """Fit the amplitudes of fields by the moments of the log of their power.

    The mean power R of n modes of a field, over the reference's, is exp(a) times a gamma variable of shape n / 2 and
    mean one, whose logarithm has mean psi(n / 2) - log(n / 2) and variance psi'(n / 2): what is beyond that is the
    amplitudes'. It is exact for any spread of them.

    Args:
        fields: shape (N, C, H, W), without noise.
        reference: the Gaussian field about which they vary.
        contexts: of the fields, (N, num_context), where the reference depends on it.

    Raises:
        ValueError: for fewer than two fields.
    """
    if len(fields) < 2:
        raise ValueError(f"how a spectrum varies cannot be told from {len(fields)} fields")
    shape = fields.shape[-2], fields.shape[-1]
    contexts = jnp.zeros((len(fields), 0)) if contexts is None else contexts
    members = np.eye(NUM_BANDS)[nearest_band(shape).ravel()]
    members[0] = 0.0
    counts = members.sum(axis=0) * fields.shape[1]
    filled = counts > 0

    def summary(pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        gaussian = reference.at(pair[1])
        centred, power = pair[0] - gaussian.mean, jnp.broadcast_to(gaussian.power, pair[0].shape)
        ratios = (mode_power(centred) / power).reshape(len(power), -1).sum(axis=0) @ members
        return ratios, jnp.mean(_mean_mode(centred, power[:, 0, 0]))

    totals, mode = (np.asarray(x, np.float64) for x in jax.lax.map(summary, (fields, contexts), batch_size=128))
    half = 0.5 * counts[filled]
    own = np.asarray(digamma(half) - np.log(half)), np.asarray(polygamma(1, half))
    logs = np.log(totals[:, filled] / counts[filled]) - own[0]
    centre, offset = logs.mean(axis=0), mode - mode.mean()
    variance = max(mode.var(), SMALLEST_VARIANCE)
    slope = offset @ (logs - centre) / (len(mode) * variance)
    covariance = _positive(np.cov(logs.T) - np.diag(own[1]) - variance * np.outer(slope, slope))
    # Bands without a mode are as their neighbours.
    spread = np.stack([np.interp(np.arange(NUM_BANDS), np.flatnonzero(filled), row) for row in np.eye(len(half))], 1)
    return VaryingSpectrum(
        jnp.asarray(spread @ (centre - slope * mode.mean()), jnp.float32),
        jnp.asarray(spread @ slope, jnp.float32),
        jnp.asarray(spread @ covariance @ spread.T, jnp.float32),
    )


def _mean_mode(centred: jax.Array, power: jax.Array) -> jax.Array:
    """The mode k = 0 of each channel (C, H, W) in standard deviations of its power (C,)."""
    return jnp.sum(centred, axis=(1, 2)) / jnp.sqrt(centred.shape[-2] * centred.shape[-1] * power)


def _positive(covariance: np.ndarray) -> np.ndarray:
    """A covariance without negative eigenvalues; bands that vary less than a Gaussian field's do not vary."""
    varies = np.diag(covariance) > 0.0
    values, vectors = np.linalg.eigh(covariance * np.outer(varies, varies))
    return (vectors * np.maximum(values, 0.0)) @ vectors.T


@lru_cache
def band_hats(shape: tuple[int, int]) -> np.ndarray:
    """The hats h_b of every mode, (H * W, B); the mean of the field is in no band."""
    hats = np.maximum(1.0 - np.abs(band_position(shape).reshape(-1, 1) - np.arange(NUM_BANDS)), 0.0)
    hats[0] = 0.0
    return hats
