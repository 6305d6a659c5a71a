"""Whether a denoiser knows its own error: what its slope claims beside what it makes, on fields of known truth.

For y = x + s Sigma^(1/2) n the exact denoiser D = E[x | y] of the law that x comes from has, mode by mode,

    E |F(x - D)|^2 = s^2 Sigma dD/dy,    and    s Sigma^(1/2) dD/dy = E Re[ conj(F n) F D ]

(the posterior covariance is the slope, Efron 2011; the slope is seen in the noise, Stein 1981). The left side is the
error that is made, the right side the one that is claimed, and no Jacobian is needed for either. Likelihoods of a noise
level go by what is claimed: where the error is larger, the difference is taken for noise, and the level comes out too
high; where it is smaller, too low. Fields on which both agree are those that the prior describes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from bayesdiff.diffusion.fourier import filter_field
from bayesdiff.diffusion.model import DiffusionModel
from bayesdiff.fields import cross_spectrum, power_spectrum


class DenoiserErrors(NamedTuple):
    """Squared errors of a denoiser, in units of the noise's power.

    Attributes:
        centers: (band,) mean wavenumber of each band.
        made: (channel, band) mean squared error of a mode.
        claimed: (channel, band) what the denoiser's slope says it is.
        standard_error: (channel, band) of their difference, from field to field.
        excess: made less claimed, mean over all modes.
        excess_error: its standard error.
    """

    centers: np.ndarray
    made: np.ndarray
    claimed: np.ndarray
    standard_error: np.ndarray
    excess: float
    excess_error: float


def check_denoiser(
    key: jax.Array,
    model: DiffusionModel,
    fields: ArrayLike,
    noise_level: float,
    context: Sequence[float] | Mapping[str, float] | None = None,
    edges: Sequence[float] | np.ndarray | None = None,
    batch_size: int = 16,
) -> DenoiserErrors:
    """Compare the errors that a denoiser makes on fields with those that it claims.

    Args:
        key: of the noise.
        model: the prior.
        fields: without noise, (num, C, H, W), in the prior's unit.
        noise_level: s, within the schedule's range.
        context: of all fields, scalars in the order of the model's names or by name.
        edges: of the bands of |k|, as in `bayesdiff.fields.power_spectrum`.
        batch_size: fields at a time.

    Raises:
        ValueError: there are fewer than two fields, they are not of the model's shape, are not finite, or the noise
            level is not within the schedule's range.
    """
    x = jnp.asarray(fields)
    if x.ndim != 4 or x.shape[1:] != model.event_shape or len(x) < 2:
        raise ValueError(f"fields must be (num, {', '.join(map(str, model.event_shape))}), num > 1, got {x.shape}")
    if not bool(jnp.isfinite(x).all()):
        raise ValueError("fields must be finite, got NaN or infinite pixels")
    low, high = (float(end) for end in (model.noise_levels()[0], model.noise_levels()[-1]))
    if not low <= noise_level <= high:
        raise ValueError(f"noise_level must be between {low:.3g} and {high:.3g}, got {noise_level}")
    scalars = model.context_array(context)
    noise_power, s = model.noise_power(scalars), jnp.asarray(noise_level, x.dtype)
    colour = s * jnp.sqrt(noise_power)

    @jax.jit
    def measure(x: jax.Array, keys: jax.Array) -> tuple[jax.Array, ...]:
        def one(pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            x, key = pair
            noise = jax.random.normal(key, x.shape, x.dtype)
            error = x - model.denoiser(x + filter_field(noise, colour), s, noise_power, scalars)
            return noise, filter_field(error, 1.0 / colour)

        noise, error = jax.lax.map(one, (x, keys), batch_size=batch_size)
        made, slope = power_spectrum(error, edges=edges), cross_spectrum(noise, -error, edges=edges)
        return made.power, slope.power, jnp.mean(error**2 + noise * error, axis=(1, 2, 3))

    made, claimed, excess = (np.asarray(part, dtype=np.float64) for part in measure(x, jax.random.split(key, len(x))))
    centers = np.asarray(power_spectrum(x[:1], edges=edges).centers)
    deviation = lambda values: values.std(axis=0, ddof=1) / np.sqrt(len(x))  # noqa: E731
    return DenoiserErrors(
        centers,
        made.mean(axis=0),
        claimed.mean(axis=0),
        deviation(made - claimed),
        float(excess.mean()),
        float(deviation(excess)),
    )
