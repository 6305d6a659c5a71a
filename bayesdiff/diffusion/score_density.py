"""A log density whose gradient is the model's score, with a value by line integral.

The score of the field at a small noise level s costs one evaluation of the denoiser and no differentiation of it,
Sigma score = (D - y) / s^2; the gradients of the flow and of the bound cost some hundred. What it lacks is a value.
From mu, the mean of the twin, along a straight line to the field,

    log p(y) - log p_twin(y) = C + integral over r in (0, 1) of (score - score_twin)(mu + r (y - mu)) . (y - mu),

with C unknown, the same for every y. A Metropolis test needs just that difference. Leapfrog and isokinetic steps
keep their volume, or know how it changes, whatever vector field drives them, so that chains sample the density of these
*values* exactly, and a gradient that is not quite theirs costs acceptance only.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff.diffusion.denoiser import scaled_score
from bayesdiff.diffusion.densities import Estimate
from bayesdiff.diffusion.flow import reference_of
from bayesdiff.diffusion.fourier import filter_field
from bayesdiff.diffusion.model import DiffusionModel
from bayesdiff.diffusion.refusals import is_concrete, refuse_outside


class ScoreGradient:
    """Log density of a field, up to a constant, whose gradient is the model's score at a small noise level.

    For :class:`bayesdiff.DiffusionPrior`: a gradient costs one evaluation of the denoiser, a value ``num_nodes`` more.
    Its limits:

    * The density is that of the field **in noise of level s**. A mode of power P has prior variance P + s^2 S: modes
      with P below s^2 S are wrong. A smaller s makes a stiffer density, whose trajectories need smaller steps.
    * Values pass through fields between the mean and y, unlike any that a network was trained on at that level. Chains
      target these values, so their quadrature error is an error of the posterior. It vanishes on the twin; elsewhere
      compare differences of values with :class:`bayesdiff.ProbabilityFlow` before you believe a run.
    * The constant is not known: no evidence, and no gradient with respect to context or noise level. A model whose
      prior depends on its context is refused, and so is a noise level that is not a known number.
    * Chains over the field itself mix slowly where its spectrum is steep; ``bayesdiff.noncentred`` does not.

    Gradient-only samplers (unadjusted Langevin, SGHMC) need no value: leave them ``num_nodes=1``.

    Args:
        noise_level: s, within the range of the model's schedule.
        num_nodes: Gauss-Legendre nodes of the line integral.

    Raises:
        ValueError: for a noise level or a number of nodes that is not positive.
    """

    def __init__(self, noise_level: float = 0.05, num_nodes: int = 8):
        if not noise_level > 0.0:
            raise ValueError(f"noise_level must be positive, got {noise_level}")
        if num_nodes < 1:
            raise ValueError(f"num_nodes must be at least 1, got {num_nodes}")
        self.noise_level, self.num_nodes = noise_level, num_nodes

    def __repr__(self) -> str:
        return f"ScoreGradient(noise_level={self.noise_level:g}, num_nodes={self.num_nodes})"

    def __call__(self, model: DiffusionModel, y: jax.Array, s: jax.Array, context: jax.Array) -> jax.Array:
        """Density log p(y | s) up to a constant, a scalar; its gradient with respect to y is the score.

        Raises:
            ValueError: for a model whose prior depends on its context, or a noise level that is traced or outside the
                schedule.
        """
        if model.prior_depends_on_context:
            raise ValueError(
                f"ScoreGradient has no value that could be compared between contexts, but this prior depends on "
                f"{model.context_names}: use ProbabilityFlow() or Elbo()"
            )
        if not is_concrete(s):
            raise ValueError(
                "ScoreGradient needs a noise level that is a known number: use ProbabilityFlow() or Elbo()"
            )
        refuse_outside("noise_level", s, *model.noise_levels(), f"the range of {model.schedule!r}")
        if model.context_bounds is not None and model.context_names:
            # The noise only smooths here, and a context that shapes it must not change the density of the field.
            context = jnp.asarray(np.mean(model.context_bounds, axis=1), dtype=y.dtype)
        s = jnp.asarray(s, dtype=y.dtype)
        point = jax.lax.stop_gradient(y)
        context = jax.lax.stop_gradient(context)
        noise_power = model.noise_power(context)
        reference = reference_of(model, None, context)
        away = point - reference.mean

        def score(y: jax.Array) -> jax.Array:
            scaled = scaled_score(model.denoiser, y, s, noise_power, context)
            return filter_field(scaled, 1.0 / (s * jnp.sqrt(noise_power)))

        def slope(r: jax.Array) -> jax.Array:
            y = reference.mean + r * away
            twin = scaled_score(reference, y, s, noise_power, context)
            return jnp.sum((score(y) - filter_field(twin, 1.0 / (s * jnp.sqrt(noise_power)))) * away)

        nodes, weights = np.polynomial.legendre.leggauss(self.num_nodes)
        slopes = jax.vmap(slope)(jnp.asarray(0.5 * (nodes + 1.0), dtype=y.dtype))
        value = reference.log_density(point, s, noise_power) + jnp.dot(jnp.asarray(0.5 * weights, y.dtype), slopes)
        # The score as gradient of a value that is not differentiated.
        return jax.lax.stop_gradient(value) + jnp.sum(jax.lax.stop_gradient(score(point)) * (y - point))

    def estimate(self, model: DiffusionModel, y: jax.Array, s: jax.Array, context: jax.Array) -> Estimate:
        """The value, which has no Monte Carlo part."""
        return Estimate(self(model, y, s, context), jnp.zeros(()))


jax.tree_util.register_pytree_node(
    ScoreGradient,
    lambda e: ((), (e.noise_level, e.num_nodes)),
    lambda aux, children: ScoreGradient(*aux),
)
