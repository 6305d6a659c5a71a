"""How good the dust prior is: its draws beside the training maps, and its denoiser on maps held out.

The command ``python -m validation prior`` prints what is measured here, and the model's card keeps it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bayesdiff as bd
import models.draws
from bayesdiff.diffusion.fourier import mode_power
from bayesdiff.diffusion.noise import colour
from bayesdiff.networks.band_table import radial_band
from bayesdiff.networks.wiener import WienerDenoiser
from bayesdiff.windows import MapWindows
from models.draws import disjoint
from models.dust_cmb.data import PATCH_SIZE, load_dust_maps

NOISE_LEVELS = (0.05, 0.1, 0.3, 0.6, 1.2, 3.0, 10.0)
NUM_RADIAL_BANDS = 6


def compare_draws(draws: np.ndarray) -> dict[str, Any]:
    """:func:`models.draws.compare_draws` with the training maps, and how much the variance of their windows varies.

    ``variance_spread_training`` is the 95th over the 5th percentile.
    """
    maps = load_dust_maps()
    windows = MapWindows(jnp.asarray(maps.training), PATCH_SIZE, periodic=(False, True))
    training = np.asarray(jax.vmap(windows.draw)(jax.random.split(jax.random.key(7), 4096)))
    faint, bright = np.quantile(training.var(axis=(1, 2, 3)), [0.05, 0.95])
    references, held_out = (disjoint(x, PATCH_SIZE) for x in maps)
    return {
        "variance_spread_training": float(bright / faint),
        **models.draws.compare_draws(draws, training, references, held_out),
    }


def denoising_table(model: bd.DiffusionModel, num: int = 64, seed: int = 3, training: bool = False) -> dict[str, Any]:
    """Mean square error of the denoiser and of the twin's Wiener filter, by noise level and band.

    Args:
        model: the prior.
        num: windows per noise level.
        seed: of the windows and their noise.
        training: whether the windows are those of the training maps; by default of held-out dust.
    """
    assert isinstance(model.denoiser, WienerDenoiser)
    denoiser = model.denoiser
    maps = load_dust_maps()
    windows = MapWindows(jnp.asarray(maps.training if training else maps.held_out), PATCH_SIZE, periodic=(False, True))
    bands = radial_band((PATCH_SIZE, PATCH_SIZE), NUM_RADIAL_BANDS)
    counts = np.bincount(bands.ravel())

    @jax.jit
    def row(s, key):
        def one(key):
            cut, parameters, normal = jax.random.split(key, 3)
            x = windows.draw(cut)
            context = jax.random.uniform(parameters, (2,), minval=denoiser.context_low, maxval=denoiser.context_high)
            noise_power = model.noise.power(context, x.shape)
            y = x + s * colour(jax.random.normal(normal, x.shape), noise_power)
            estimates = [d(y, s, noise_power, context) for d in (denoiser, denoiser.reference.at(context))]
            return jnp.stack([mode_power(estimate - x)[0] for estimate in estimates])

        power = jnp.mean(jax.lax.map(one, jax.random.split(key, num), batch_size=16), axis=0)
        return jax.vmap(lambda p: jax.ops.segment_sum(p.ravel(), bands.ravel(), num_segments=NUM_RADIAL_BANDS))(power)

    network, wiener = [], []
    for s in NOISE_LEVELS:
        sums = np.asarray(row(jnp.float32(s), jax.random.key(seed)))
        network.append((sums[0] / counts).tolist())
        wiener.append((sums[1] / counts).tolist())
    return {"noise_levels": list(NOISE_LEVELS), "network": network, "wiener": wiener}
