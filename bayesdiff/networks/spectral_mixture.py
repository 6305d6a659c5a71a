"""Fields whose contrast varies: a mixture of Gaussian fields of different spectra, and the Wiener filter it calls for.

The power of a window of dust, or of any map with a bright and a faint side, varies from window to window by a factor of
many, in all bands together. About the mean power a Gaussian filter is too timid where the window is bright and too bold
where it is faint, and a network that normalises its activations cannot know by how much. With components of power P_j
and weights p_j the field's own noisy modes say which spectrum it has,

    w_j ~ p_j N(y; mu, P_j + s^2 S),

and the filter is the mean of the components' filters, a = sum_j w_j P_j / (P_j + s^2 S). What follows from it are the
levels of one Gaussian field (:class:`bayesdiff.diffusion.denoiser.Levels`), whose power is that of this window.

A band of n modes counts in the weights as n n0 / (n + n0): a few numbers can tell one spectrum from another, and were
all modes counted, the weights would jump from one component to the next as the noise is lowered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff.diffusion.denoiser import GaussianDenoiser, GaussianReference, Levels
from bayesdiff.diffusion.fourier import mode_power

NUM_BANDS = 12
NUM_FEATURES = 3
MODES_PER_BAND = 30.0


class Window(NamedTuple):
    """What a window's modes say of its spectrum.

    Attributes:
        levels: of the Gaussian field with this window's spectrum, per mode.
        features: mean log ratio of its power to the reference's in the lower, middle and upper bands, (3,).
    """

    levels: Levels
    features: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class SpectralMixture:
    """Spectra about that of a Gaussian reference field.

    Attributes:
        log_ratio: log of the power of each component over the reference's at the centres of the bands, (K, B).
        log_weight: log of the share of each component, (K,).
    """

    log_ratio: jax.Array
    log_weight: jax.Array

    @property
    def varies(self) -> bool:
        """Whether there is more than one spectrum."""
        return len(self.log_weight) > 1

    def __call__(self, reference: GaussianDenoiser, y: jax.Array, s: jax.Array, noise_power: jax.Array) -> Window:
        """The spectrum of the field behind y = x + s Sigma^(1/2) n, shape (C, H, W)."""
        noise = s**2 * noise_power
        shape = y.shape[-2], y.shape[-1]
        ratio = jnp.exp(_per_mode(self.log_ratio, shape))[:, None]
        powers = ratio * reference.power
        totals = powers + noise
        evidence = mode_power(y - reference.mean) / totals + jnp.log(totals)
        counts = _counts(shape)
        weights = jax.nn.softmax(self.log_weight - 0.5 * jnp.sum(counts * evidence, axis=(1, 2, 3)))
        inverse = jnp.tensordot(weights, 1.0 / totals, axes=1)
        levels = Levels(1.0 / inverse, jnp.tensordot(weights, powers / totals, axes=1), noise * inverse)
        groups = jnp.stack([g.mean(axis=1) for g in jnp.array_split(self.log_ratio, NUM_FEATURES, axis=1)], axis=1)
        return Window(levels, weights @ groups)


def single_spectrum() -> SpectralMixture:
    """The mixture of one: the reference itself."""
    return SpectralMixture(jnp.zeros((1, NUM_BANDS)), jnp.zeros(1))


def fit_spectral_mixture(
    fields: jax.Array,
    reference: GaussianReference,
    num_components: int = 16,
    num_iterations: int = 60,
    contexts: jax.Array | None = None,
) -> SpectralMixture:
    """Fit the spectra of fields by expectation maximisation, from quantiles of their power.

    Args:
        fields: shape (N, C, H, W).
        reference: the Gaussian field about which they vary.
        num_components: spectra of the mixture.
        num_iterations: steps of expectation maximisation.
        contexts: of the fields, (N, num_context), where the reference depends on it.

    Raises:
        ValueError: for fewer fields than components.
    """
    if len(fields) < num_components:
        raise ValueError(f"{num_components} spectra cannot be fitted to {len(fields)} fields")
    shape = fields.shape[-2], fields.shape[-1]
    contexts = jnp.zeros((len(fields), 0)) if contexts is None else contexts

    def ratio_of(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        gaussian = reference.at(pair[1])
        return mode_power(pair[0] - gaussian.mean) / gaussian.power

    ratios = jax.lax.map(ratio_of, (fields, contexts), batch_size=128)
    band, counts = nearest_band(shape), _counts(shape)
    counted = np.bincount(band.ravel(), weights=counts.ravel(), minlength=NUM_BANDS) * fields.shape[1]
    weighted = counts * np.asarray(ratios.sum(axis=1))
    totals = [np.bincount(band.ravel(), weights=field.ravel(), minlength=NUM_BANDS) for field in weighted]
    observed = np.stack(totals) / np.maximum(counted, 1e-9)
    order = np.argsort(np.log(np.maximum(observed, 1e-12)) @ counted)
    ratio = np.stack([observed[part].mean(axis=0) for part in np.array_split(order, num_components)])
    weight = np.full(num_components, 1.0 / num_components)
    for _ in range(num_iterations):
        ratio = np.maximum(ratio, 1e-4)
        log_joint = np.log(weight) - 0.5 * (observed @ (counted / ratio).T + np.log(ratio) @ counted)
        joint = np.exp(log_joint - log_joint.max(axis=1, keepdims=True))
        share = joint / joint.sum(axis=1, keepdims=True)
        weight = (share.sum(axis=0) + 1.0) / (len(fields) + num_components)
        # One field of the mean spectrum is added to each component, which keeps a component of few fields sane.
        ratio = (share.T @ observed + observed.mean(axis=0)) / (share.sum(axis=0)[:, None] + 1.0)
    filled, bands = np.flatnonzero(counted), np.arange(NUM_BANDS)
    log_ratio = np.stack([np.interp(bands, filled, np.log(row[filled])) for row in ratio])
    return SpectralMixture(jnp.asarray(log_ratio, jnp.float32), jnp.log(jnp.asarray(weight, jnp.float32)))


def band_position(shape: tuple[int, int]) -> np.ndarray:
    """Position of every mode among the bands, equally spaced in log |k| from the fundamental mode to the corner."""
    rows, columns = (np.fft.fftfreq(n) for n in shape)
    radius = np.hypot(rows[:, None], columns[None, :])
    lowest, highest = 1.0 / max(shape), np.hypot(0.5, 0.5)
    position = np.log(np.maximum(radius, lowest) / lowest) / np.log(highest / lowest) * (NUM_BANDS - 1)
    return np.clip(position, 0.0, NUM_BANDS - 1.0)


def nearest_band(shape: tuple[int, int]) -> np.ndarray:
    """The band whose centre each mode is nearest to."""
    return np.rint(band_position(shape)).astype(int)


def _counts(shape: tuple[int, int]) -> np.ndarray:
    """How much each mode counts in the weights of the components, (H, W); the mean of the field says nothing."""
    band = nearest_band(shape)
    modes = np.bincount(band.ravel(), minlength=NUM_BANDS)
    counts = (MODES_PER_BAND / (modes + MODES_PER_BAND))[band]
    counts[0, 0] = 0.0
    return counts


def _per_mode(values: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Interpolate values (K, B) at the centres of the bands to every mode, (K, H, W)."""
    position = band_position(shape)
    lower = np.minimum(position.astype(int), NUM_BANDS - 2)
    fraction = position - lower
    return jnp.asarray(1.0 - fraction) * values[:, lower] + jnp.asarray(fraction) * values[:, lower + 1]
