"""The Gaussian field of x given maps c that are correlated with it: the twin of a prior that is conditional on maps.

Where x and c are jointly Gaussian and stationary, x given c is a Gaussian field about its linear reconstruction,

    F x | c ~ N( mu + sum_i t_i(k) F (c_i - m_i),  V(k) ),    t = P_xc P_cc^-1,    V = P_xx - P_xc P_cc^-1 P_cx,

the Wiener filter of x from c. Transfer and power are kept in bands of log |k| in cycles per pixel, so they hold for
periodic fields of any size on the same pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff.diffusion.denoiser import GaussianDenoiser, generator, scaled_score
from bayesdiff.diffusion.fourier import RadialModes, filter_field

SMALLEST_SHARE = 1e-6
"""Of a mode's power that is taken to be left, at least."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class LinearReconstruction:
    """The exact denoiser of a Gaussian field of one channel, given maps as its context.

    Attributes:
        log_power: of what the maps do not tell, in bands; the first is the mode k = 0, shape (B,).
        transfer: of each map, in the same bands, (maps, B).
        mean: of the field.
        map_mean: of each map, (maps,).
        shape: (H, W) of the fields it was fitted to; the bands begin at their fundamental mode.
    """

    log_power: jax.Array
    transfer: jax.Array
    mean: jax.Array
    map_mean: jax.Array
    shape: tuple[int, int] = field(metadata={"static": True})

    @property
    def num_maps(self) -> int:
        """Number of maps that are given."""
        return self.transfer.shape[0]

    def at(self, context: jax.Array) -> GaussianDenoiser:
        """The Gaussian field given maps (maps, H, W), of any height and width.

        Raises:
            ValueError: the context is not as many maps.
        """
        if context.ndim != 3 or context.shape[0] != self.num_maps:
            raise ValueError(
                f"this model is conditional on maps ({self.num_maps}, height, width): give them with "
                f"model.given(maps); got a context of shape {context.shape}"
            )
        hats = _hats((context.shape[-2], context.shape[-1]), max(self.shape), self.log_power.shape[0])
        spread = jnp.asarray(hats, self.log_power.dtype)
        filtered = filter_field(context - self.map_mean[:, None, None], jnp.moveaxis(spread @ self.transfer.T, -1, 0))
        return GaussianDenoiser(jnp.exp(spread @ self.log_power), self.mean + jnp.sum(filtered, axis=0, keepdims=True))

    def __call__(self, y: jax.Array, s: jax.Array, noise_power: jax.Array, context: jax.Array) -> jax.Array:
        """The Wiener filter of y and the maps together."""
        return self.at(context)(y, s, noise_power, context)

    def scaled_score(self, y: jax.Array, s: jax.Array, noise_power: jax.Array, context: jax.Array) -> jax.Array:
        """As :func:`bayesdiff.diffusion.denoiser.scaled_score`."""
        return scaled_score(self.at(context), y, s, noise_power, context)

    def posterior_variance(self, y: jax.Array, s: jax.Array, noise_power: jax.Array, context: jax.Array) -> jax.Array:
        """E |F(x - D)|^2 per mode."""
        del y
        return s**2 * noise_power * self.at(context).levels(s, noise_power).signal


def fit_linear_reconstruction(fields: np.ndarray, maps: np.ndarray, num_bands: int = 14) -> LinearReconstruction:
    """Fit transfer and power to pairs of fields and maps.

    Args:
        fields: (N, 1, H, W), periodic.
        maps: (N, maps, H, W).
        num_bands: in log |k|, beyond the mode k = 0.

    Raises:
        ValueError: fields and maps do not fit one another.
    """
    if fields.ndim != 4 or fields.shape[1] != 1 or maps.ndim != 4:
        raise ValueError(f"fields must be (N, 1, H, W) and maps (N, maps, H, W), got {fields.shape} and {maps.shape}")
    if len(fields) != len(maps) or fields.shape[-2:] != maps.shape[-2:]:
        raise ValueError(f"every field must have its maps, got fields {fields.shape} and maps {maps.shape}")
    shape = (fields.shape[-2], fields.shape[-1])
    mean = fields.mean(dtype=np.float64)
    map_mean = maps.mean(axis=(0, 2, 3), dtype=np.float64)
    modes = RadialModes(shape)
    spectra = _cross_powers(fields - mean, maps - map_mean[:, None, None])
    spectra = np.moveaxis(np.asarray(modes.total(jnp.asarray(spectra)) / modes.counts, np.float64), -1, 0)
    within, across = spectra[:, 1:, 1:], spectra[:, 1:, 0]
    transfer = np.linalg.solve(within, across[..., None])[..., 0]
    power = np.maximum(spectra[:, 0, 0] - np.sum(transfer * across, axis=1), SMALLEST_SHARE * spectra[:, 0, 0])
    # Of the transfer and of the logarithm of the power, in which a steep spectrum is nearly straight.
    hats = _hats(shape, max(shape), num_bands + 1).reshape(-1, num_bands + 1)[modes.first]
    weights = np.sqrt(modes.counts)[:, None]
    values = np.column_stack([np.log(power), transfer])
    banded = np.linalg.lstsq(weights * hats, weights * values, rcond=None)[0]
    log_power, transfer, mean, map_mean = (
        jnp.asarray(values, dtype=float) for values in (banded[:, 0], banded[:, 1:].T, mean, map_mean)
    )
    return LinearReconstruction(log_power, transfer, mean, map_mean, shape)


def _cross_powers(fields: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Mean auto- and cross-power of field and maps per mode, (maps + 1, maps + 1, H, W)."""

    @jax.jit
    def total(part: jax.Array) -> jax.Array:
        modes = jnp.fft.fft2(part, norm="ortho")
        return jnp.einsum("nihw,njhw->ijhw", modes, jnp.conj(modes)).real

    num = len(fields)
    parts = np.array_split(np.arange(num), -(-num // 256))
    sums = [np.asarray(total(np.concatenate([fields[i], maps[i]], axis=1)), np.float64) for i in parts]
    return np.sum(sums, axis=0) / num


def _hats(shape: tuple[int, int], size: int, num: int) -> np.ndarray:
    """Weights of the bands at every mode, (H, W, num): hats in log |k| from 1 / ``size`` cycles per pixel on.

    They end at the corner of the grid. Lower modes, which only larger fields have, go by the first of them.
    """
    rows, columns = (np.fft.fftfreq(n) for n in shape)
    radius = np.hypot(rows[:, None], columns[None, :])
    position = np.log(np.maximum(radius * size, 1.0)) / np.log(np.hypot(0.5, 0.5) * size) * (num - 2)
    hats = np.maximum(1.0 - np.abs(position[..., None] - np.arange(num - 1)), 0.0)
    zero = radius == 0.0
    return np.concatenate([zero[..., None], np.where(zero[..., None], 0.0, hats)], axis=-1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class GivenMaps:
    """A denoiser that is conditional on maps, with the maps given: an unconditional denoiser of x given c.

    Attributes:
        denoiser: whose context are maps, with a :class:`LinearReconstruction` as its ``reference``.
        maps: (maps, H, W).
    """

    denoiser: Any
    maps: jax.Array

    @property
    def reference(self) -> GaussianDenoiser:
        """The twin of x given the maps."""
        return self.denoiser.reference.at(self.maps)

    @property
    def generator(self) -> GivenMaps:
        """The denoiser by which fields are drawn."""
        return GivenMaps(generator(self.denoiser), self.maps)

    def __call__(self, y: jax.Array, s: jax.Array, noise_power: jax.Array, context: jax.Array) -> jax.Array:
        """E[x | y, maps]."""
        del context
        return self.denoiser(y, s, noise_power, self.maps)

    def scaled_score(self, y: jax.Array, s: jax.Array, noise_power: jax.Array, context: jax.Array) -> jax.Array:
        """As :func:`bayesdiff.diffusion.denoiser.scaled_score`."""
        del context
        return self.denoiser.scaled_score(y, s, noise_power, self.maps)

    def posterior_variance(self, y: jax.Array, s: jax.Array, noise_power: jax.Array, context: jax.Array) -> jax.Array:
        """E |F(x - D)|^2 per mode."""
        del context
        return self.denoiser.posterior_variance(y, s, noise_power, self.maps)
