"""A field of a diffusion model seen through its noise, with the field integrated out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from numpyro.distributions import Distribution, constraints
from numpyro.util import is_prng_key

from bayesdiff.diffusion.densities import LogDensity, best_log_density
from bayesdiff.diffusion.model import DiffusionModel
from bayesdiff.diffusion.noise import colour
from bayesdiff.diffusion.refusals import inside, refuse_non_finite, refuse_outside, refuse_shape
from bayesdiff.diffusion.samplers import draw_prior, reverse_sde
from bayesdiff.distributions.batching import key_argument, over_batch
from bayesdiff.distributions.prior import inside_or_centre


class NoisyDiffusion(Distribution):
    """The distribution of y = x + s Sigma^(1/2) n, x from a diffusion model, n unit white noise.

    Its log density is that of the diffusion at the time t* of noise level s, log p_{t*}(a y) + d log a with a =
    alpha_{t*}, so the field is integrated out exactly; :meth:`sample_latent` gives it back.

    Args:
        model: the diffusion; its noise is the noise of the observation.
        noise_level: s, within the range of the model's schedule.
        context: conditioning scalars, as for :class:`bayesdiff.DiffusionPrior`; parameters of Sigma among them.
        log_density: estimator of the log density; by default the best that the model offers.

    The event shape is (channels, height, width); noise level and context broadcast to the batch shape.

    Raises:
        ValueError: for a noise level outside the schedule or a context outside the trained range.
    """

    arg_constraints = {"noise_level": constraints.positive, "context": constraints.real_vector}
    support = constraints.independent(constraints.real, 3)  # pyright: ignore[reportAssignmentType]
    pytree_data_fields = ("model", "noise_level", "context", "log_density")

    def __init__(
        self,
        model: DiffusionModel,
        noise_level,
        context=None,
        log_density: LogDensity | None = None,
        *,
        validate_args: bool | None = None,
    ):
        self.model = model
        refuse_outside("noise_level", noise_level, *model.noise_levels(), f"the range of {model.schedule!r}")
        self.noise_level = jnp.asarray(noise_level, dtype=float)
        self.context = model.context_array(context)
        self.log_density = best_log_density(model) if log_density is None else log_density
        batch_shape = jnp.broadcast_shapes(self.noise_level.shape, self.context.shape[:-1])
        super().__init__(batch_shape, model.event_shape, validate_args=validate_args)

    @property
    def diffusion_time(self) -> jax.Array:
        """t*, the time at which the schedule's sigma / alpha is the noise level."""
        return self.model.schedule.time_of_noise_level(self.noise_level)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draw observations, sample_shape + batch_shape + (C, H, W); NaN for parameters outside the range."""
        assert is_prng_key(key)
        latent_key, noise_key = jax.random.split(key)
        shape = tuple(sample_shape) + self.batch_shape
        draw = lambda key, context: draw_prior(key, self.model, context)  # noqa: E731
        x = over_batch(draw, shape, [key_argument(latent_key, shape), (self.context, 1)])
        add = lambda x, white, s, context: x + s * colour(white, self.model.noise_power(context))  # noqa: E731
        white = jax.random.normal(noise_key, x.shape, x.dtype)
        y = over_batch(add, shape, [(x, 3), (white, 3), (self.noise_level, 0), (self.context, 1)])
        return jnp.where(self.inside[..., None, None, None], y, jnp.nan)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log density of observations (..., C, H, W); minus infinity for parameters outside the model's range.

        Raises:
            ValueError: for a wrong shape.
        """
        refuse_shape("a value", value, self.event_shape)
        value = jnp.asarray(value, jnp.result_type(value, float))
        low, high = self.model.noise_levels()
        context = inside_or_centre(self.model, self.context, self.model.context_inside(self.context))
        s = jnp.where(inside(self.noise_level, low, high), self.noise_level, jnp.sqrt(max(low, 1e-3) * high))
        batch = jnp.broadcast_shapes(value.shape[:-3], self.batch_shape)
        evaluate = lambda y, s, context: self.log_density(self.model, y, s, context)  # noqa: E731
        density = over_batch(evaluate, batch, [(value, 3), (s, 0), (context, 1)])
        return jnp.where(self.inside, density, -jnp.inf)

    def sample_latent(self, key: jax.Array, y: jax.Array, num_steps: int = 24) -> jax.Array:
        """Draw x given y by the reverse SDE from t*.

        Args:
            key: random key.
            y: observations (..., C, H, W) whose batch axes broadcast with the batch shape.
            num_steps: denoiser evaluations per draw; exact up to the accuracy of denoiser and solver.

        Returns:
            One draw per observation and parameter, (..., C, H, W); NaN where traced parameters are outside the model's
            range.

        Raises:
            ValueError: for a wrong shape, NaN or infinity in y.
        """
        refuse_shape("y", y, self.event_shape)
        refuse_non_finite("y", y)
        y = jnp.asarray(y, jnp.result_type(y, float))
        shape = jnp.broadcast_shapes(y.shape[:-3], self.batch_shape)
        draw = lambda key, y, s, context: reverse_sde(key, self.model, y, s, context, num_steps)  # noqa: E731
        x = over_batch(draw, shape, [key_argument(key, shape), (y, 3), (self.noise_level, 0), (self.context, 1)])
        return jnp.where(self.inside[..., None, None, None], x, jnp.nan)

    @property
    def inside(self) -> jax.Array:
        """Whether noise level and context are in the model's range, of the batch shape."""
        return inside(self.noise_level, *self.model.noise_levels()) & self.model.context_inside(self.context)
