"""Diffusions whose densities and posteriors are known in closed form, for the tests of the core."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff.diffusion.denoiser import GaussianDenoiser
from bayesdiff.diffusion.model import DiffusionModel
from bayesdiff.diffusion.noise import StationaryNoise, WhiteNoise
from bayesdiff.diffusion.schedules import VPLinear

CONTEXT_NAMES = ("amplitude", "tilt")
CONTEXT_BOUNDS = ((0.5, 2.0), (-2.0, 1.0))
NO_CONTEXT = np.zeros(0)


def wavenumber(size: int) -> np.ndarray:
    """|k| in units of the fundamental mode, shape (size, size)."""
    k = np.fft.fftfreq(size, 1.0 / size)
    return np.hypot(k[:, None], k[None, :])


def red_power(size: int, slope: float = -3.0) -> np.ndarray:
    """A power law with a core, of unit variance per pixel, shape (size, size)."""
    power = (1.0 + wavenumber(size) ** 2) ** (slope / 2.0)
    return power / power.mean()


def even_power(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """A random power of a real field, without any other symmetry, shape (..., H, W)."""
    power = np.random.default_rng(seed).uniform(0.2, 3.0, shape)
    return 0.5 * (power + np.roll(power[..., ::-1, ::-1], 1, axis=(-2, -1)))


def dense_covariance(power: np.ndarray) -> np.ndarray:
    """Covariance matrix of the pixels of a field of power (H, W), by the definition of the Fourier transform."""
    height, width = power.shape
    rows = np.exp(-2j * np.pi * np.outer(np.arange(height), np.arange(height)) / height) / np.sqrt(height)
    columns = np.exp(-2j * np.pi * np.outer(np.arange(width), np.arange(width)) / width) / np.sqrt(width)
    fourier = np.kron(rows, columns)
    covariance = fourier.conj().T @ np.diag(power.ravel()) @ fourier
    assert np.abs(covariance.imag).max() < 1e-12
    return covariance.real


def filtered(field, transfer: np.ndarray) -> np.ndarray:
    """Multiply the modes of a real field (..., H, W), by NumPy in float64."""
    return np.fft.ifft2(np.fft.fft2(np.asarray(field, dtype=np.float64)) * transfer).real


@dataclass(frozen=True)
class TiltedPower:
    """Noise power amplitude^2 (1 + |k|^2)^(tilt / 2) at a context (amplitude, tilt)."""

    size: int
    isotropic: bool = True

    def __call__(self, context: jax.Array) -> jax.Array:
        amplitude, tilt = context[0], context[1]
        return amplitude**2 * jnp.exp(0.5 * tilt * jnp.log1p(jnp.asarray(wavenumber(self.size)) ** 2))


def coloured_noise(size: int) -> StationaryNoise:
    """Noise whose power depends on the context."""
    return StationaryNoise(TiltedPower(size))


def twin_model(size: int, schedule=VPLinear(), mean: float = 0.3) -> DiffusionModel:  # noqa: B008 (frozen)
    """A Gaussian field in coloured noise of a context."""
    return coloured(GaussianDenoiser(jnp.asarray(red_power(size)), mean), size, schedule)


def coloured(denoiser, size: int, schedule=VPLinear()) -> DiffusionModel:  # noqa: B008 (frozen)
    """Any denoiser of one-channel fields in coloured noise of a context."""
    return DiffusionModel(denoiser, schedule, coloured_noise(size), (1, size, size), CONTEXT_NAMES, CONTEXT_BOUNDS)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Opaque:
    """A Gaussian denoiser of which nothing is known but its values."""

    hidden: GaussianDenoiser

    def __call__(self, y, s, noise_power, context):
        return self.hidden(y, s, noise_power, context)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class PixelMixture:
    """Independent pixels, each from a mixture of Gaussians, in white noise.

    Attributes:
        weights, means, variances: of the components, shapes (J,).
        reference: the twin that the model is told of, or None.
    """

    weights: jax.Array
    means: jax.Array
    variances: jax.Array
    reference: GaussianDenoiser | None = None

    def _responsibilities(self, y, s):
        total = self.variances + s**2
        logits = (
            jnp.log(self.weights) - 0.5 * jnp.log(2.0 * jnp.pi * total) - 0.5 * (y[..., None] - self.means) ** 2 / total
        )
        return logits, total

    def __call__(self, y, s, noise_power, context):
        logits, total = self._responsibilities(y, s)
        component = self.means + self.variances / total * (y[..., None] - self.means)
        return jnp.sum(jax.nn.softmax(logits, axis=-1) * component, axis=-1)

    def log_density(self, y, s):
        """Exact log p(y | s)."""
        return jnp.sum(jax.scipy.special.logsumexp(self._responsibilities(y, s)[0], axis=-1))


def pixel_mixture(with_twin: bool = False) -> DiffusionModel:
    """Two well separated, unequal components per pixel, fields of 2 x 2 pixels."""
    weights, means, variances = jnp.array([0.35, 0.65]), jnp.array([-1.3, 0.9]), jnp.array([0.09, 0.25])
    mean = jnp.sum(weights * means)
    variance = jnp.sum(weights * (variances + means**2)) - mean**2
    reference = GaussianDenoiser(jnp.full((2, 2), variance), mean) if with_twin else None
    return DiffusionModel(PixelMixture(weights, means, variances, reference), VPLinear(), WhiteNoise(), (1, 2, 2))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class FieldMixture:
    """A field that is smooth with probability ``weight``, else rough; a mixture of two Gaussian fields."""

    smooth: GaussianDenoiser
    rough: GaussianDenoiser
    weight: jax.Array
    reference: GaussianDenoiser | None = None

    def _joint(self, y, s, noise_power):
        logits = [part.log_density(y, s, noise_power) for part in (self.smooth, self.rough)]
        return jnp.stack(logits) + jnp.log(jnp.stack([self.weight, 1.0 - self.weight]))

    def __call__(self, y, s, noise_power, context):
        share = jax.nn.softmax(self._joint(y, s, noise_power))
        means = [part(y, s, noise_power, context) for part in (self.smooth, self.rough)]
        return share[0] * means[0] + share[1] * means[1]

    def log_density(self, y, s, noise_power):
        """Exact log p(y | s)."""
        return jax.scipy.special.logsumexp(self._joint(y, s, noise_power))


def field_mixture(size: int) -> DiffusionModel:
    """A mixture of two power spectra in coloured noise, with the twin of its mean power."""
    smooth, rough, weight = red_power(size, -4.0), 0.5 * red_power(size, -1.0), 0.6
    reference = GaussianDenoiser(jnp.asarray(weight * smooth + (1.0 - weight) * rough))
    parts = GaussianDenoiser(jnp.asarray(smooth)), GaussianDenoiser(jnp.asarray(rough))
    return coloured(FieldMixture(*parts, jnp.asarray(weight), reference), size)
