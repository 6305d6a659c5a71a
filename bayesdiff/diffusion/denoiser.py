"""Denoisers: D(y, s) ~ E[x | x + s Sigma^(1/2) n = y], and the Gaussian field whose denoiser is exact.

With y = z_t / alpha_t and s = sigma_t / alpha_t the denoiser of a diffusion depends on the schedule only through s, so
it is written without one: a denoiser is a function of (y, s, S, context), S the power of the noise at that context. The
score follows without inverting Sigma, s^2 Sigma score = D - y.

Three quantities of a Gaussian reference field with power P and mean mu recur (per Fourier mode):

    G = P + s^2 S        power of y
    a = P / G            signal fraction, the Wiener filter
    b = s^2 S / G        noise fraction, a + b = 1

and its posterior variance is V = s^2 S a. In the whitened field u = G^(-1/2) (y - mu) its probability flow is at rest,
its score is -b^(1/2) u / s in units of Sigma^(-1/2), and its denoiser is mu + a G^(1/2) u.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff.diffusion.fourier import filter_field
from bayesdiff.diffusion.noise import gaussian_log_density
from bayesdiff.diffusion.refusals import is_concrete


@runtime_checkable
class Denoiser(Protocol):
    """The contract every denoiser meets, for one field (C, H, W); batches go through ``jax.vmap``."""

    def __call__(self, y: jax.Array, s: jax.Array, noise_power: jax.Array, context: jax.Array) -> jax.Array:
        """E[x | y], shape (C, H, W)."""
        ...


class Levels(NamedTuple):
    """Powers of a Gaussian field observed in noise, per mode (see the module docstring)."""

    total: jax.Array
    signal: jax.Array
    noise: jax.Array


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class GaussianDenoiser:
    """The exact denoiser of a stationary Gaussian field: the Wiener filter. Also the twin of any learned prior.

    Attributes:
        power: orthonormal power per mode, (H, W) or (C, H, W), positive.
        mean: mean of the field, a scalar or (C, H, W).

    Raises:
        ValueError: for a concrete power that is not positive, not finite or of fewer than two axes.
    """

    power: jax.Array
    mean: jax.Array | float = 0.0

    def __post_init__(self):
        if is_concrete(self.power):
            power = np.asarray(self.power)
            if power.ndim < 2 or not np.isfinite(power).all() or (power <= 0).any():
                raise ValueError(
                    f"the power of a Gaussian field must be a finite, positive array (H, W) or (C, H, W), got shape "
                    f"{power.shape} with minimum {power.min() if power.size else float('nan'):g}"
                )
            object.__setattr__(self, "power", jnp.asarray(self.power))
        if is_concrete(self.mean):
            object.__setattr__(self, "mean", jnp.asarray(self.mean, dtype=float))

    def at(self, context: jax.Array) -> GaussianDenoiser:
        """Itself: this field is the same at every context (see ``GaussianFamily`` for fields that are not)."""
        del context
        return self

    def levels(self, s: jax.Array, noise_power: jax.Array) -> Levels:
        """Total power and signal and noise fractions at noise level s."""
        noise = s**2 * noise_power
        total = self.power + noise
        return Levels(total, self.power / total, noise / total)

    def whiten(self, y: jax.Array, s: jax.Array, noise_power: jax.Array) -> jax.Array:
        """Whiten: u = G^(-1/2) (y - mu)."""
        return filter_field(y - self.mean, 1.0 / jnp.sqrt(self.levels(s, noise_power).total))

    def unwhiten(self, u: jax.Array, s: jax.Array, noise_power: jax.Array) -> jax.Array:
        """Undo :meth:`whiten`: y = mu + G^(1/2) u."""
        return self.mean + filter_field(u, jnp.sqrt(self.levels(s, noise_power).total))

    def __call__(self, y: jax.Array, s: jax.Array, noise_power: jax.Array, context: jax.Array) -> jax.Array:
        """The Wiener filter, mu + a (y - mu)."""
        return self.mean + filter_field(y - self.mean, self.levels(s, noise_power).signal)

    def log_density(self, y: jax.Array, s: jax.Array, noise_power: jax.Array) -> jax.Array:
        """Density log N(y; mu, P + s^2 S), the closed-form marginal likelihood of the twin."""
        return gaussian_log_density(y, self.levels(s, noise_power).total, self.mean)

    def tree_flatten(self):
        """Both fields are arrays."""
        return (self.power, self.mean), ()

    @classmethod
    def tree_unflatten(cls, aux, children):
        """Rebuild without checks, which transformations need."""
        denoiser = object.__new__(cls)
        object.__setattr__(denoiser, "power", children[0])
        object.__setattr__(denoiser, "mean", children[1])
        return denoiser


@runtime_checkable
class GaussianReference(Protocol):
    """A Gaussian field at every context."""

    def at(self, context: jax.Array) -> GaussianDenoiser:
        """The Gaussian field at one context (num_context,)."""
        ...


def twin(denoiser: Denoiser) -> GaussianReference | None:
    """The Gaussian field with the prior's mean and power spectrum, where the denoiser knows it."""
    return denoiser if isinstance(denoiser, GaussianReference) else getattr(denoiser, "reference", None)


def is_gaussian(denoiser: Denoiser) -> bool:
    """Whether the denoiser is that of a Gaussian field: exact, and its own twin."""
    return isinstance(denoiser, GaussianReference)


def generator(denoiser: Denoiser) -> Denoiser:
    """The denoiser by which fields are drawn: itself, unless it names another as its ``generator``."""
    return getattr(denoiser, "generator", denoiser)


def scaled_score(
    denoiser: Denoiser, y: jax.Array, s: jax.Array, noise_power: jax.Array, context: jax.Array
) -> jax.Array:
    """Score as s Sigma^(1/2) score = Sigma^(-1/2) (D - y) / s, of order one at every scale and noise level.

    A denoiser that can give it without the division by Sigma^(1/2) does so in its own method ``scaled_score``.
    """
    if isinstance(denoiser, GaussianDenoiser):
        noise = denoiser.levels(s, noise_power)
        return -filter_field(y - denoiser.mean, jnp.sqrt(noise.noise / noise.total))
    if hasattr(denoiser, "scaled_score"):
        return denoiser.scaled_score(y, s, noise_power, context)  # pyright: ignore[reportAttributeAccessIssue]
    return filter_field(denoiser(y, s, noise_power, context) - y, 1.0 / (s * jnp.sqrt(noise_power)))


def denoised_from_epsilon(epsilon: jax.Array, z: jax.Array, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
    """D from a prediction of the (coloured) noise: D = (z - sigma epsilon) / alpha."""
    return (z - sigma * epsilon) / alpha


def denoised_from_v(v: jax.Array, z: jax.Array, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
    """D = alpha z - sigma v from v = alpha epsilon - sigma x (Salimans & Ho 2022, arXiv:2202.00512)."""
    return alpha * z - sigma * v


def denoised_from_m(m: jax.Array, z: jax.Array, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
    """D from m = sigma Sigma score: D = (z + sigma m) / alpha."""
    return (z + sigma * m) / alpha


@dataclass(frozen=True, eq=False)
class ParametrisedDenoiser:
    """A denoiser around a function that predicts epsilon, v or m from the variance-preserving z.

    Attributes:
        network: ``network(z, log_snr, context)`` for one field (C, H, W), z = alpha y with alpha^2 = 1 / (1 + s^2).
        to_denoised: one of :func:`denoised_from_epsilon`, :func:`denoised_from_v`, :func:`denoised_from_m`.
        reference: the twin, where known.
    """

    network: object
    to_denoised: object = denoised_from_epsilon
    reference: GaussianDenoiser | None = None

    def __call__(self, y: jax.Array, s: jax.Array, noise_power: jax.Array, context: jax.Array) -> jax.Array:
        """D by the conversion of the parametrisation."""
        alpha = 1.0 / jnp.sqrt(1.0 + s**2)
        z = alpha * y
        prediction = self.network(z, -2.0 * jnp.log(s), context)  # type: ignore[operator]
        return self.to_denoised(prediction, z, alpha, s * alpha)  # type: ignore[operator]


jax.tree_util.register_dataclass(
    ParametrisedDenoiser, data_fields=["reference"], meta_fields=["network", "to_denoised"]
)
