"""The Wiener-preconditioned denoiser: an exact Gaussian part and a network for what is beyond it.

With noise power S(k; phi), prior mean mu and the levels G, a, b, V of :mod:`bayesdiff.diffusion.denoiser`,

    D(y) = mu + F^-1[ a F(y - mu) ] + F^-1[ V^(1/2) F N ],        V = s^2 S a.

The first part is the Wiener filter of a Gaussian field; it carries all of the noise covariance in closed form. The
field's power is the prior's, or, with a :class:`bayesdiff.networks.spectral_mixture.SpectralMixture` or a
:class:`bayesdiff.networks.varying_spectrum.VaryingSpectrum`, that which y itself calls for. The network N sees y
whitened per mode, the same with the signal and with nothing but the signal kept, and its training target V^(-1/2) F(x -
D_W) has unit variance in every mode, at every noise level, every phi and, with them, in bright and faint fields alike:
a network with normalised activations could not scale its output. Where the context are maps
(:mod:`bayesdiff.diffusion.reconstruction`) it sees them and the twin's reconstruction as well.

N is the network's output times a gain, plus a share of the whitened y; both are measured after training, per noise
level and band (see :mod:`bayesdiff.recalibration`). Where every field of the prior has mean 0 and standard deviation 1,
the norm of E[x | y] is known, |D|^2 + tr Cov(x | y) = E |x|^2, and D is brought to it: no network learns a constraint
on all pixels together so well that a chain of many draws keeps it.

Densities go by this denoiser. Fields drawn, from the prior or from a posterior, go by its
:attr:`WienerDenoiser.generator`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from bayesdiff.diffusion.denoiser import GaussianDenoiser, GaussianReference, Levels
from bayesdiff.diffusion.fourier import filter_field
from bayesdiff.diffusion.reconstruction import LinearReconstruction
from bayesdiff.networks.band_table import BandTable, constant_table
from bayesdiff.networks.spectral_mixture import NUM_FEATURES, Window, single_spectrum
from bayesdiff.networks.tiles import LARGEST_WHOLE, apply_in_tiles
from bayesdiff.networks.unet import UNet, UNetConfig

CONTRAST_ONSET = (0.3, 1.0)
NORM_IS_KNOWN = (0.1, 0.3)
"""Mean posterior variance up to which the norm of E[x | y] is held, and from which it is left alone: what the variance
of one field is beside the mean over fields is the less known the more there is of it."""


class Spectra(Protocol):
    """The spectra of a prior's fields about that of its twin."""

    @property
    def varies(self) -> bool:
        """Whether fields have any spectrum but the twin's."""
        ...

    def __call__(self, reference: GaussianDenoiser, y: jax.Array, s: jax.Array, noise_power: jax.Array) -> Window:
        """The spectrum of the field behind y = x + s Sigma^(1/2) n, shape (C, H, W)."""
        ...


class Correction(NamedTuple):
    """What the network is asked for at one field, and its answer.

    Attributes:
        levels: of the Gaussian field about which it corrects, per mode.
        residual: N, its estimate of V^(-1/2) F(x - D_W) as a field (C, H, W).
    """

    levels: Levels
    residual: jax.Array


@dataclass(frozen=True, eq=False)
class WienerDenoiser:
    """A learned prior: a Gaussian field corrected by a network.

    Attributes:
        reference: the Gaussian field with the prior's mean and power at every context, its twin.
        spectra: the spectra of the prior's fields about that of the twin.
        params: parameters of the network (an NNX state).
        context_low: lower ends of the context's range, shape (num_context,).
        context_high: upper ends.
        gain: factor of the network's output.
        feedback: share of the whitened field that is added to it.
        residual_variance: what is left of the Gaussian field's posterior variance, E |F(x - D)|^2 / V. It makes
            few-step reverse sampling accurate (the optimal reverse variance of Bao et al. 2022, arXiv:2201.06503).
        contrast: further factor of the output where fields are drawn, at the noise levels of ``gain``.
        config: architecture of the network.
        standardised: whether all fields of the prior have mean 0 and standard deviation 1.
    """

    reference: GaussianReference
    spectra: Spectra
    params: Any
    context_low: jax.Array
    context_high: jax.Array
    gain: BandTable
    feedback: BandTable
    residual_variance: BandTable
    contrast: jax.Array
    config: UNetConfig
    standardised: bool = False

    @property
    def symmetric(self) -> bool:
        """Whether the prior's fields have no preferred direction: training examples come in a random one.

        Maps that are given have theirs.
        """
        return not isinstance(self.reference, LinearReconstruction)

    @property
    def generator(self) -> WienerDenoiser:
        """The denoiser that draws go by: its gain times ``contrast``."""
        raised = BandTable(self.gain.log_s, self.gain.values * self.contrast[:, None])
        return replace(self, gain=raised, contrast=jnp.ones_like(self.contrast))

    def __call__(self, y: jax.Array, s: jax.Array, noise_power: jax.Array, context: jax.Array) -> jax.Array:
        """E[x | y] of one field (C, H, W)."""
        mean = self.reference.at(context).mean
        levels, residual = self.correct(y, s, noise_power, context)
        filtered = mean + filter_field(y - mean, levels.signal)
        return (filtered + filter_field(residual, jnp.sqrt(s**2 * noise_power * levels.signal))).astype(y.dtype)

    def scaled_score(self, y: jax.Array, s: jax.Array, noise_power: jax.Array, context: jax.Array) -> jax.Array:
        """Sigma^(-1/2) (D - y) / s = -b^(1/2) u + a^(1/2) N, without a division by Sigma^(1/2)."""
        levels, residual = self.correct(y, s, noise_power, context)
        gaussian = -filter_field(y - self.reference.at(context).mean, jnp.sqrt(levels.noise / levels.total))
        return gaussian + filter_field(residual, jnp.sqrt(levels.signal))

    def correct(self, y: jax.Array, s: jax.Array, noise_power: jax.Array, context: jax.Array) -> Correction:
        """The correction of the Wiener filter at one field (C, H, W)."""
        levels, whitened, output = self.raw(y, s, noise_power, context)
        shape = y.shape[-2], y.shape[-1]
        residual = filter_field(output, self.gain(s, shape)) + filter_field(whitened, self.feedback(s, shape))
        if self.standardised:
            residual = self._of_known_norm(y, s, noise_power, context, levels, residual)
        return Correction(levels, residual.astype(y.dtype))

    def _of_known_norm(
        self,
        y: jax.Array,
        s: jax.Array,
        noise_power: jax.Array,
        context: jax.Array,
        levels: Levels,
        residual: jax.Array,
    ) -> jax.Array:
        """The residual N of D times the factor kappa that gives D its norm, as far as the noise lets that be known."""
        centred = y - self.reference.at(context).mean
        variance = s**2 * noise_power * levels.signal
        denoised = filter_field(centred, levels.signal) + filter_field(residual, jnp.sqrt(variance))
        left = jnp.mean(variance * self.residual_variance(s, (y.shape[-2], y.shape[-1])))
        start, end = NORM_IS_KNOWN
        known = jnp.clip((end - left) / (end - start), 0.0, 1.0)
        # Where the variance is that of the field there is no norm to bring D to; nor is any of it known there.
        kappa = (jnp.maximum(1.0 - left, 1.0 - end) / jnp.mean(denoised**2)) ** (0.5 * known)
        # V^(-1/2) of the filtered field, without a division by V.
        share = filter_field(centred, jnp.sqrt(levels.signal / noise_power) / s)
        return kappa * residual + (kappa - 1.0) * share

    def raw(
        self, y: jax.Array, s: jax.Array, noise_power: jax.Array, context: jax.Array
    ) -> tuple[Levels, jax.Array, jax.Array]:
        """Levels, the whitened field and the network's own output, (C, H, W) each."""
        reference = self.reference.at(context)
        levels, features = self.spectra(reference, y, s, noise_power)
        centred = y - reference.mean
        whitened = filter_field(centred, 1.0 / jnp.sqrt(levels.total))
        signal_part = filter_field(centred, jnp.sqrt(levels.signal / levels.total))
        kept = filter_field(centred, jnp.sqrt(levels.signal * reference.power / levels.total))
        inputs = jnp.concatenate([whitened, signal_part, kept], axis=0)
        whole = max(y.shape[-2:])
        if isinstance(self.reference, LinearReconstruction):
            inputs = jnp.concatenate([inputs, context, reference.mean], axis=0)
            scaled, whole = jnp.zeros(0), max(LARGEST_WHOLE, *self.reference.shape)
        else:
            scaled = (2.0 * context - self.context_low - self.context_high) / (self.context_high - self.context_low)
        log_snr = (jnp.mean(features) - 2.0 * jnp.log(s))[None].astype(jnp.float32)
        scalars = jnp.concatenate([scaled, 0.5 * features])[None].astype(jnp.float32)
        network = nnx.merge(self._graph(), self.params)
        h = jnp.moveaxis(inputs, 0, -1)[None].astype(jnp.float32)
        outputs = apply_in_tiles(lambda h: network(h, log_snr, scalars), h, whole)
        return levels, whitened, jnp.moveaxis(outputs[0], -1, 0).astype(y.dtype)

    def posterior_variance(self, y: jax.Array, s: jax.Array, noise_power: jax.Array, context: jax.Array) -> jax.Array:
        """E |F(x - D)|^2 per mode."""
        levels = self.spectra(self.reference.at(context), y, s, noise_power).levels
        height, width = y.shape[-2:]
        return s**2 * noise_power * levels.signal * self.residual_variance(s, (height, width))

    def corrects(self, log_s: jax.Array) -> jax.Array:
        """Whether anything is added to the filter of the reference at noise levels exp(log_s), booleans of its shape.

        With spectra that vary always: the filter itself is another one.
        """
        if self.spectra.varies:
            return jnp.ones(jnp.shape(log_s), bool)
        used = jnp.max(jnp.abs(self.gain.values) + jnp.abs(self.feedback.values), axis=1)
        return jnp.interp(log_s, self.gain.log_s, used) > 0.0

    def with_params(self, params: Any) -> WienerDenoiser:
        """The same denoiser with other network parameters."""
        return replace(self, params=params)

    def _graph(self) -> nnx.GraphDef:
        return _graph_of(self.config)


jax.tree_util.register_dataclass(
    WienerDenoiser,
    data_fields=[
        "reference",
        "spectra",
        "params",
        "context_low",
        "context_high",
        "gain",
        "feedback",
        "residual_variance",
        "contrast",
    ],
    meta_fields=["config", "standardised"],
)

_graphs: dict[UNetConfig, nnx.GraphDef] = {}


def _graph_of(config: UNetConfig) -> nnx.GraphDef:
    if config not in _graphs:
        abstract = nnx.eval_shape(lambda: UNet(config, nnx.Rngs(0)))
        _graphs[config] = nnx.split(abstract)[0]
    return _graphs[config]


def initialise(
    seed: int,
    reference: GaussianReference,
    config: UNetConfig,
    context_low=(),
    context_high=(),
    spectra: Spectra | None = None,
    num_bands: int = 16,
) -> WienerDenoiser:
    """An untrained :class:`WienerDenoiser`; its network gives zero, so it is the Wiener filter.

    ``config.num_context`` is set to what the network is told: the context and the features of the field's spectrum.
    """
    config = replace(config, num_context=len(context_low) + NUM_FEATURES)
    _, params = nnx.split(UNet(config, nnx.Rngs(seed)))
    params, gain = nnx.to_pure_dict(params), constant_table(1.0, num_bands)
    return WienerDenoiser(
        reference=reference,
        spectra=single_spectrum() if spectra is None else spectra,
        params=params,
        context_low=jnp.asarray(context_low, dtype=jnp.float32),
        context_high=jnp.asarray(context_high, dtype=jnp.float32),
        gain=gain,
        feedback=constant_table(0.0, num_bands),
        residual_variance=constant_table(1.0, num_bands),
        contrast=jnp.ones(len(gain.log_s)),
        config=config,
    )


def contrast_table(
    contrast: float | jax.Array, log_s: jax.Array, onset: tuple[float, float] | None = CONTRAST_ONSET
) -> jax.Array:
    """The factor at noise levels exp(log_s), linear in log s over the onset; of their shape."""
    ramp = jnp.ones_like(log_s) if onset is None else jnp.interp(log_s, jnp.log(jnp.array(onset)), jnp.arange(2.0))
    return (1.0 + (contrast - 1.0) * ramp).astype(jnp.float32)
