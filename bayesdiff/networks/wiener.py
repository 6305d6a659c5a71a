"""The Wiener-preconditioned denoiser: an exact Gaussian part and a network for what is beyond it.

With prior power P, mean mu, noise power S(k; phi) and the levels G, a, b, V of :mod:`bayesdiff.diffusion.denoiser`,

    D(y) = mu + F^-1[ a F(y - mu) ] + F^-1[ V^(1/2) F N ],        V = s^2 S a.

The first part is the Wiener filter of the Gaussian field with the prior's mean and power; it carries all of the noise
covariance in closed form. The network N sees y whitened per mode, the same with the signal and with nothing but the
signal kept, and its training target V^(-1/2) F(x - D_W) has unit variance in every mode, at every noise level and every
phi.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bayesdiff.diffusion.denoiser import GaussianDenoiser
from bayesdiff.diffusion.fourier import filter_field
from bayesdiff.networks.unet import UNet, UNetConfig


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class ResidualVariance:
    """What is left of the twin's posterior variance after the network: E |F(x - D)|^2 = V r(s, |k|).

    Measured on the training maps after training; one where nothing is known. It makes few-step reverse sampling
    accurate (the optimal reverse variance of Bao et al. 2022, arXiv:2201.06503).

    Attributes:
        log_s: noise levels of the table, ascending, shape (T,).
        ratio: r per noise level and linear band of |k| from 0 to the corner of the grid, shape (T, K).
    """

    log_s: jax.Array
    ratio: jax.Array

    def __call__(self, s: jax.Array, shape: tuple[int, int]) -> jax.Array:
        """Ratio r at noise level s for every mode, shape (H, W)."""
        bands = jax.vmap(lambda column: jnp.interp(jnp.log(s), self.log_s, column), in_axes=1)(self.ratio)
        return bands[radial_band(shape, self.ratio.shape[1])]


def radial_band(shape: tuple[int, int], num_bands: int) -> np.ndarray:
    """Index of the linear band of |k|, from 0 to the corner of the grid, for every mode, shape (H, W)."""
    rows, columns = (np.fft.fftfreq(n) for n in shape)
    radius = np.hypot(rows[:, None], columns[None, :]) / np.hypot(0.5, 0.5)
    return np.minimum((radius * num_bands).astype(int), num_bands - 1)


@dataclass(frozen=True, eq=False)
class WienerDenoiser:
    """A learned prior: the Gaussian field ``reference`` corrected by a network.

    Attributes:
        reference: the Gaussian field with the prior's mean and power, its twin.
        params: parameters of the network (an NNX state).
        context_low: lower ends of the context's range, shape (num_context,).
        context_high: upper ends.
        residual_variance: see :class:`ResidualVariance`.
        config: architecture of the network.
    """

    reference: GaussianDenoiser
    params: Any
    context_low: jax.Array
    context_high: jax.Array
    residual_variance: ResidualVariance
    config: UNetConfig

    def __call__(self, y: jax.Array, s: jax.Array, noise_power: jax.Array, context: jax.Array) -> jax.Array:
        """E[x | y] of one field (C, H, W)."""
        levels = self.reference.levels(s, noise_power)
        filtered = self.reference(y, s, noise_power, context)
        spread = jnp.sqrt(s**2 * noise_power * levels.signal)
        return filtered + filter_field(self.whitened_residual(y, s, noise_power, context), spread)

    def scaled_score(self, y: jax.Array, s: jax.Array, noise_power: jax.Array, context: jax.Array) -> jax.Array:
        """Sigma^(-1/2) (D - y) / s = -b^(1/2) u + a^(1/2) N, without a division by Sigma^(1/2)."""
        levels = self.reference.levels(s, noise_power)
        gaussian = -filter_field(y - self.reference.mean, jnp.sqrt(levels.noise / levels.total))
        return gaussian + filter_field(self.whitened_residual(y, s, noise_power, context), jnp.sqrt(levels.signal))

    def whitened_residual(self, y: jax.Array, s: jax.Array, noise_power: jax.Array, context: jax.Array) -> jax.Array:
        """N, the network's estimate of V^(-1/2) F(x - D_W) as a field (C, H, W)."""
        levels = self.reference.levels(s, noise_power)
        centred = y - self.reference.mean
        whitened = filter_field(centred, 1.0 / jnp.sqrt(levels.total))
        signal_part = filter_field(centred, jnp.sqrt(levels.signal / levels.total))
        inputs = jnp.concatenate([whitened, signal_part, filter_field(centred, levels.signal)], axis=0)
        scaled = (2.0 * context - self.context_low - self.context_high) / (self.context_high - self.context_low)
        network = nnx.merge(self._graph(), self.params)
        outputs = network(
            jnp.moveaxis(inputs, 0, -1)[None].astype(jnp.float32),
            -2.0 * jnp.log(s)[None].astype(jnp.float32),
            scaled[None].astype(jnp.float32),
        )
        return jnp.moveaxis(outputs[0], -1, 0).astype(y.dtype)

    def posterior_variance(self, s: jax.Array, noise_power: jax.Array) -> jax.Array:
        """E |F(x - D)|^2 per mode."""
        levels = self.reference.levels(s, noise_power)
        height, width = self.reference.power.shape[-2:]
        return s**2 * noise_power * levels.signal * self.residual_variance(s, (height, width))

    def with_params(self, params: Any) -> WienerDenoiser:
        """The same denoiser with other network parameters."""
        return replace(self, params=params)

    def _graph(self) -> nnx.GraphDef:
        return _graph_of(self.config)


jax.tree_util.register_dataclass(
    WienerDenoiser,
    data_fields=["reference", "params", "context_low", "context_high", "residual_variance"],
    meta_fields=["config"],
)

_graphs: dict[UNetConfig, nnx.GraphDef] = {}


def _graph_of(config: UNetConfig) -> nnx.GraphDef:
    if config not in _graphs:
        abstract = nnx.eval_shape(lambda: UNet(config, nnx.Rngs(0)))
        _graphs[config] = nnx.split(abstract)[0]
    return _graphs[config]


def initialise(
    seed: int, reference: GaussianDenoiser, config: UNetConfig, context_low=(), context_high=(), num_bands: int = 16
) -> WienerDenoiser:
    """An untrained :class:`WienerDenoiser`; its network gives zero, so it is the Wiener filter."""
    _, params = nnx.split(UNet(config, nnx.Rngs(seed)))
    params = nnx.to_pure_dict(params)
    log_s = jnp.log(jnp.geomspace(0.01, 100.0, 24))
    return WienerDenoiser(
        reference=reference,
        params=params,
        context_low=jnp.asarray(context_low, dtype=jnp.float32),
        context_high=jnp.asarray(context_high, dtype=jnp.float32),
        residual_variance=ResidualVariance(log_s, jnp.ones((24, num_bands))),
        config=config,
    )
