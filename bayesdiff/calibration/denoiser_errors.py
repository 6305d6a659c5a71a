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
from functools import partial
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
    x = jnp.asarray(fields, dtype=float)
    if x.ndim != 4 or x.shape[1:] != model.event_shape or len(x) < 2:
        raise ValueError(f"fields must be (num, {', '.join(map(str, model.event_shape))}), num > 1, got {x.shape}")
    if not bool(jnp.isfinite(x).all()):
        raise ValueError("fields must be finite, got NaN or infinite pixels")
    low, high = model.noise_levels()
    if not low <= noise_level <= high:
        raise ValueError(f"noise_level must be between {low:.3g} and {high:.3g}, got {noise_level}")
    bins = None if edges is None else tuple(float(edge) for edge in edges)
    s, scalars = jnp.asarray(noise_level, x.dtype), model.context_array(context)
    measured = _measure(model, x, jax.random.split(key, len(x)), s, scalars, bins, batch_size)
    made, claimed, excess = (np.asarray(part, dtype=np.float64) for part in measured)
    return DenoiserErrors(
        np.asarray(power_spectrum(x[:1], edges=bins).centers),
        made.mean(axis=0),
        claimed.mean(axis=0),
        _standard_error(made - claimed),
        float(excess.mean()),
        float(_standard_error(excess)),
    )


@partial(jax.jit, static_argnames=("edges", "batch_size"))
def _measure(
    model: DiffusionModel,
    x: jax.Array,
    keys: jax.Array,
    s: jax.Array,
    context: jax.Array,
    edges: tuple[float, ...] | None,
    batch_size: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Errors made and claimed per field and band, (num, C, band), and their difference over all modes, (num,)."""
    noise_power = model.noise_power(context)
    colour = s * jnp.sqrt(noise_power)

    def one(pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, key = pair
        noise = jax.random.normal(key, x.shape, x.dtype)
        error = x - model.denoiser(x + filter_field(noise, colour), s, noise_power, context)
        return noise, filter_field(error, 1.0 / colour)

    noise, error = jax.lax.map(one, (x, keys), batch_size=batch_size)
    made, claimed = power_spectrum(error, edges=edges), cross_spectrum(noise, -error, edges=edges)
    return made.power, claimed.power, jnp.mean(error**2 + noise * error, axis=(1, 2, 3))


def _standard_error(values: np.ndarray) -> np.ndarray:
    return values.std(axis=0, ddof=1) / np.sqrt(len(values))
