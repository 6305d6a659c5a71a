"""A diffusion model as a NumPyro distribution of its field."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution, Normal, TransformedDistribution, constraints
from numpyro.util import is_prng_key

from bayesdiff.diffusion.densities import Exact, LogDensity, best_log_density
from bayesdiff.diffusion.model import DiffusionModel
from bayesdiff.diffusion.refusals import refuse_shape
from bayesdiff.diffusion.samplers import draw_prior
from bayesdiff.diffusion.score_density import ScoreGradient
from bayesdiff.distributions.batching import inside_or_centre, key_argument, over_batch
from bayesdiff.distributions.flow import FlowTransform

SMALLEST_NOISE_LEVEL = 1e-3


class DiffusionPrior(Distribution):
    """The distribution of the field x that a diffusion model has learned.

    Args:
        model: the diffusion.
        context: conditioning scalars, a tuple in the order of ``model.context_names``, a dict, or an array (...,
            num_context).
        log_density: estimator of the log density; by default the best that the model offers (the closed form where its
            denoiser has one, else the variational bound with the twin as reference). Learned densities are those of the
            field at the lowest noise level of the schedule, which is the field for every practical purpose.

    The event shape is (channels, height, width), the batch shape that of the context.

    A field that is a latent site can be sampled in two ways. :func:`bayesdiff.noncentred` (or :meth:`as_transformed`
    with NumPyro's ``TransformReparam``) samples unit normal values and needs no density: the choice for a learned prior
    and for every steep spectrum. As it is, the site is sampled by its density and the gradient of that:

    * the closed form of a Gaussian prior, which costs nothing;
    * :class:`bayesdiff.ProbabilityFlow`: the density that :meth:`sample` draws from, with the error of its probes,
      which are fixed and so make a slightly different density, but one and the same;
    * :class:`bayesdiff.Elbo`: a lower bound with fixed noise; where the denoiser is not exact its gap varies with x;
    * :class:`bayesdiff.ScoreGradient`: one evaluation of the denoiser for a gradient and a few for a value, of the
      field in a little noise, with the limits that it lists.

    Raises:
        ValueError: for a context of the wrong names or number, or outside the trained range.
    """

    arg_constraints = {"context": constraints.real_vector}
    support = constraints.independent(constraints.real, 3)  # pyright: ignore[reportAssignmentType]
    pytree_data_fields = ("model", "context", "log_density")

    def __init__(
        self,
        model: DiffusionModel,
        context=None,
        log_density: LogDensity | None = None,
        *,
        validate_args: bool | None = None,
    ):
        self.model = model
        self.context = model.context_array(context)
        self.log_density = best_log_density(model) if log_density is None else log_density
        super().__init__(self.context.shape[:-1], model.event_shape, validate_args=validate_args)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draw fields, sample_shape + batch_shape + (C, H, W), by the probability flow; NaN outside the range."""
        assert is_prng_key(key)
        shape = tuple(sample_shape) + self.batch_shape
        draw = lambda key, context: draw_prior(key, self.model, context)  # noqa: E731
        x = over_batch(draw, shape, [key_argument(key, shape), (self.context, 1)])
        return jnp.where(self.model.context_inside(self.context)[..., None, None, None], x, jnp.nan)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log density of fields (..., C, H, W); minus infinity outside the trained range of the context.

        Raises:
            ValueError: for a wrong shape.
        """
        refuse_shape("a value", value, self.event_shape)
        value = jnp.asarray(value, jnp.result_type(value, float))
        s: Any = self._noise_level()
        inside = self.model.context_inside(self.context)
        context = inside_or_centre(self.model, self.context, inside)
        batch = jnp.broadcast_shapes(value.shape[:-3], self.batch_shape)
        evaluate = lambda x, context: self.log_density(self.model, x, s, context)  # noqa: E731
        density = over_batch(evaluate, batch, [(value, 3), (context, 1)])
        return jnp.where(inside, density, -jnp.inf)

    def score(self, x: jax.Array, t) -> jax.Array:
        """grad_z log p_t(z) at z = x, fields (..., C, H, W), for one time t and an unbatched context."""
        return self.model.score(x, t, self.context)

    def as_transformed(self, num_steps: int = 12, *, basis: str = "modes", **settings: Any) -> TransformedDistribution:
        """The prior as unit normal values under a :class:`bayesdiff.FlowTransform`, for NumPyro's ``TransformReparam``.

        Args:
            num_steps: steps of the flow, which fix its cost and accuracy.
            basis: of the unit normal values, those of modes being what samplers want.
            **settings: of the :class:`bayesdiff.FlowTransform`.
        """
        base: Any = Normal(0.0, 1.0).expand(list(self.event_shape)).to_event(3)
        return TransformedDistribution(
            base, FlowTransform(self.model, self.context, num_steps, basis=basis, **settings)
        )

    def _noise_level(self) -> np.ndarray:
        """Noise level at which the density of the field is taken, a known number also under ``jit``."""
        if isinstance(self.log_density, Exact):
            return np.asarray(0.0)
        if isinstance(self.log_density, ScoreGradient):
            return np.asarray(self.log_density.noise_level)
        return np.asarray(max(self.model.noise_levels()[0], SMALLEST_NOISE_LEVEL))
