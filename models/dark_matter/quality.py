"""How well a reconstruction denoises held-out fields whose stars are given, beside the linear reconstruction."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bayesdiff as bd
from bayesdiff.diffusion.denoiser import twin

NOISE_LEVELS = (0.1, 0.3, 1.0, 3.0, 30.0)


def reconstruction_errors(
    model: bd.DiffusionModel, fields: jax.Array, maps: jax.Array, seed: int = 3
) -> dict[str, Any]:
    """Mean square error of E[x | y, stars] and of its twin's, by noise level; at the largest y says nothing more.

    Args:
        model: the reconstruction.
        fields: held out, (num, 1, H, W), standardised.
        maps: of their stars, (num, 2, H, W).
        seed: of the noise.
    """
    keys = jax.random.split(jax.random.key(seed), len(fields))
    nothing = model.context_array(None)

    @jax.jit
    def errors(s: jax.Array) -> jax.Array:
        def one(pair: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            x, given, key = pair
            prior = model.given(given)
            power, reference = prior.noise_power(nothing), twin(prior.denoiser)
            assert reference is not None
            y = x + s * jax.random.normal(key, x.shape)
            denoisers = (prior.denoiser, reference.at(nothing))
            return jnp.stack([jnp.mean((d(y, s, power, nothing) - x) ** 2) for d in denoisers])

        return jnp.mean(jax.lax.map(one, (fields, maps, keys), batch_size=16), axis=0)

    measured = np.array([errors(jnp.asarray(s, jnp.float32)) for s in NOISE_LEVELS])
    return {
        "noise_levels": list(NOISE_LEVELS),
        "network": measured[:, 0].tolist(),
        "linear": measured[:, 1].tolist(),
        "error_over_linear": (measured[:, 0] / measured[:, 1]).tolist(),
    }
