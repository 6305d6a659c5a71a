"""How good the convergence prior is: draws beside the training map, the denoiser on a held-out map, memorisation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bayesdiff as bd
from bayesdiff.windows import MapWindows
from models.draws import nearest_patches, skewness
from models.mass_mapping.data import PATCH_SIZE, Convergence

NOISE_LEVELS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
BAND_EDGES = np.array([0.5, 1.5, 2.5, 4.0, 6.0, 9.0, 13.0, 18.0, 25.6])
_STRIDE = 4


def compare_draws(draws: np.ndarray, maps: Convergence) -> dict[str, Any]:
    """Spectrum and one-point statistics of draws against training windows, and memorisation.

    Args:
        draws: from :func:`models.draws.draw_fields`, fields x.
        maps: training and held-out map.

    Returns:
        Of the convergence: ratios draws / training (``power_ratio`` per band of ``BAND_EDGES``) and the skewness of
        both. Of the field x: the median distance to the nearest training window, over shifts and the symmetries of the
        square, of draws and of held-out windows, each in units of the field's own standard deviation. Draws that are
        nearer than held-out windows are copies.
    """
    windows = MapWindows(jnp.asarray(maps.training), PATCH_SIZE, periodic=(False, False))
    training = np.asarray(jax.vmap(windows.draw)(jax.random.split(jax.random.key(7), 1024)))
    kappa, of_map = (np.asarray(maps.scale.convergence(x)) for x in (draws, training))
    ours, theirs = (np.asarray(bd.fields.power_spectrum(x, edges=BAND_EDGES).power)[:, 0] for x in (kappa, of_map))
    statistics: dict[str, Any] = {
        "power_ratio": (ours.mean(axis=0) / theirs.mean(axis=0)).tolist(),
        "power_ratio_error": (theirs.std(axis=0) / theirs.mean(axis=0) / np.sqrt(len(draws))).tolist(),
        "sd_ratio": float(kappa.std() / of_map.std()),
        "skewness": skewness(kappa),
        "skewness_training": skewness(of_map),
    }
    # Shifts between the positions of the references are searched by the distance itself; half a coarse pixel is not.
    references = np.concatenate([_windows(maps.training[k], _STRIDE) for k in (0, 21)])
    held_out = _windows(maps.held_out[0], maps.held_out.shape[-1] - PATCH_SIZE)
    return statistics | nearest_patches(draws, references, held_out)


def denoising_table(model: bd.DiffusionModel, maps: Convergence, num: int = 64, seed: int = 3) -> dict[str, Any]:
    """Mean square error of the denoiser over that of its twin, the Wiener filter, on the training and a held-out map.

    A ratio that is much smaller on the training map than on the held-out one is memorisation.

    Raises:
        ValueError: the model has no twin.
    """
    twin = model.twin_at(model.context_array(None))
    if twin is None:
        raise ValueError("the denoiser is compared with the Wiener filter, and this model has no Gaussian twin")
    context = model.context_array(None)
    power = model.noise_power(context)

    @jax.jit
    def ratio(s: jax.Array, key: jax.Array, windows: jax.Array) -> jax.Array:
        def one(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
            x, key = pair
            y = x + s * jax.random.normal(key, x.shape)
            return jnp.stack([jnp.mean((denoise(y, s, power, context) - x) ** 2) for denoise in (model.denoiser, twin)])

        network, wiener = jnp.mean(jax.lax.map(one, (windows, jax.random.split(key, num)), batch_size=16), axis=0)
        return network / wiener

    table: dict[str, Any] = {"noise_levels": list(NOISE_LEVELS)}
    for name, fields in (("training", maps.training), ("held_out", maps.held_out)):
        cut = MapWindows(jnp.asarray(fields), PATCH_SIZE, periodic=(False, False))
        windows = jax.vmap(cut.draw)(jax.random.split(jax.random.key(seed), num))
        table[name] = [float(ratio(jnp.asarray(s), jax.random.key(seed), windows)) for s in NOISE_LEVELS]
    return table


def _windows(field: np.ndarray, stride: int) -> np.ndarray:
    """Windows of a map (1, rows, columns) every ``stride`` pixels."""
    view = np.lib.stride_tricks.sliding_window_view(field, (PATCH_SIZE, PATCH_SIZE), axis=(1, 2))
    return np.ascontiguousarray(np.moveaxis(view[:, ::stride, ::stride], 0, 2).reshape(-1, 1, PATCH_SIZE, PATCH_SIZE))
