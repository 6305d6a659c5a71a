"""How well a prior of this recipe denoises: posterior means beside the Wiener filter's."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bayesdiff as bd

NOISE_LEVELS = (0.1, 0.2, 0.5, 1.0, 2.0)


def denoising_errors(model: bd.DiffusionModel, fields: np.ndarray, seed: int = 3) -> dict[str, Any]:
    """Mean square error of the denoiser, the posterior mean, and of its twin, the Wiener filter, by noise level.

    Args:
        model: the prior.
        fields: without noise, (num, 1, H, W), in its unit.
        seed: of the noise.

    Raises:
        ValueError: the model has no twin.
    """
    context = model.context_array(None)
    twin, power = model.twin_at(context), model.noise_power(context)
    if twin is None:
        raise ValueError("the denoiser is compared with the Wiener filter, and this model has no Gaussian twin")
    keys = jax.random.split(jax.random.key(seed), len(fields))

    @jax.jit
    def errors(s: jax.Array) -> jax.Array:
        def one(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
            x, key = pair
            y = x + s * jax.random.normal(key, x.shape)
            return jnp.stack([jnp.mean((d(y, s, power, context) - x) ** 2) for d in (model.denoiser, twin)])

        return jnp.mean(jax.lax.map(one, (jnp.asarray(fields), keys), batch_size=16), axis=0)

    measured = np.array([errors(jnp.asarray(s, jnp.float32)) for s in NOISE_LEVELS])
    return {
        "noise_levels": list(NOISE_LEVELS),
        "network": measured[:, 0].tolist(),
        "wiener": measured[:, 1].tolist(),
        "error_over_wiener": (measured[:, 0] / measured[:, 1]).tolist(),
    }
