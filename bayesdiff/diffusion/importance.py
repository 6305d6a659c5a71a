"""Where the variational bound varies: by which noise levels the difference between two parameters is made.

A posterior is made of differences of a log density between parameters near to one another. At each noise level the
bound's integrand for one field differs between two contexts by a number that scatters with the noise draw; strata that
are dense where this scatter is large, in proportion to it, give the difference its smallest variance for a given number
of evaluations of the network (the optimal allocation of stratified sampling).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from bayesdiff.diffusion.elbo import bound_integrand
from bayesdiff.diffusion.model import DiffusionModel

SMALLEST_SHARE = 0.1


def noise_level_importance(
    model: DiffusionModel,
    fields: jax.Array,
    contexts: jax.Array,
    others: jax.Array,
    num_parts: int = 36,
    num_noise: int = 4,
    seed: int = 0,
) -> tuple[float, ...]:
    """Weights of equal parts of the model's range of log s, for ``Elbo(importance=...)``.

    Args:
        model: a diffusion with a twin.
        fields: of these contexts, (N, C, H, W).
        contexts: (N, num_context).
        others: about a posterior width away from ``contexts``, (N, num_context).
        num_parts: parts of the range.
        num_noise: noise draws per part and field, at least 2.
        seed: of the noise.

    Returns:
        ``num_parts`` weights of mean one, none below a tenth.
    """
    low, high = (np.log(max(level, 1e-6)) for level in model.noise_levels())
    centres = low + (np.arange(num_parts) + 0.5) * (high - low) / num_parts
    s = jnp.exp(jnp.asarray(low, fields.dtype))

    @jax.jit
    def scatter(log_level: jax.Array, key: jax.Array) -> jax.Array:
        def one(inputs) -> jax.Array:
            x, context, other, keys = inputs
            white = jax.vmap(lambda k: jax.random.normal(k, x.shape, x.dtype))(keys)

            def difference(white: jax.Array) -> jax.Array:
                a, b = (bound_integrand(model, x, s, log_level - jnp.log(s), white, c) for c in (context, other))
                return a - b

            return jnp.var(jax.lax.map(difference, white), ddof=1)

        keys = jax.random.split(key, (len(fields), num_noise))
        return jnp.sqrt(jnp.mean(jax.lax.map(one, (fields, contexts, others, keys))))

    keys = jax.random.split(jax.random.key(seed), num_parts)
    measured = np.array([float(scatter(jnp.asarray(c, fields.dtype), k)) for c, k in zip(centres, keys, strict=True)])
    # A model that is its own twin varies nowhere.
    weights = np.maximum(measured / max(measured.mean(), np.finfo(float).tiny), SMALLEST_SHARE)
    return tuple((weights / weights.mean()).tolist())
