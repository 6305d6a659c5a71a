"""How good the prior of dark-matter fields is: its denoiser beside the Wiener filter of its twin."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

import bayesdiff as bd
from bayesdiff.windows import LabelledFields

NOISE_LEVELS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def denoising_table(model: bd.DiffusionModel, labelled: LabelledFields, num: int = 64, seed: int = 3) -> dict[str, Any]:
    """Mean square error of the denoiser over that of its twin at the same parameters, by noise level.

    Args:
        model: the conditional prior.
        labelled: fields and their parameters.
        num: fields, spread over ``labelled``.
        seed: of the noise.
    """
    some = jnp.linspace(0, len(labelled.fields) - 1, num).astype(int)
    keys = jax.random.split(jax.random.key(seed), num)

    @jax.jit
    def ratio(s: jax.Array) -> jax.Array:
        def one(inputs) -> jax.Array:
            x, context, key = inputs
            power = model.noise_power(context)
            y = x + s * jax.random.normal(key, x.shape)
            twin = model.twin_at(context)
            assert twin is not None
            return jnp.stack([jnp.mean((d(y, s, power, context) - x) ** 2) for d in (model.denoiser, twin)])

        both = jax.lax.map(one, (labelled.fields[some], labelled.contexts[some], keys), batch_size=16)
        network, wiener = jnp.mean(both, axis=0)
        return network / wiener

    return {
        "noise_levels": list(NOISE_LEVELS),
        "error_over_wiener": [float(ratio(jnp.asarray(s, jnp.float32))) for s in NOISE_LEVELS],
    }
