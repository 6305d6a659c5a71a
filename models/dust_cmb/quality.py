"""How good the dust prior is: its draws beside the training maps, and its denoiser on maps held out.

The command ``python -m validation prior`` prints what is measured here, and the model's card keeps it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bayesdiff as bd
from bayesdiff.diffusion.fourier import mode_power
from bayesdiff.diffusion.noise import colour
from bayesdiff.networks.band_table import radial_band
from bayesdiff.networks.wiener import WienerDenoiser
from bayesdiff.windows import MapWindows
from models.dust_cmb.data import PATCH_SIZE, load_dust_maps

NOISE_LEVELS = (0.05, 0.1, 0.3, 0.6, 1.2, 3.0, 10.0)
BAND_EDGES = np.array([0.5, 1.5, 2.5, 4.0, 6.0, 8.5, 12.0, 16.0, 20.5, 25.6])
NUM_RADIAL_BANDS = 6


def draw_fields(model: bd.DiffusionModel, num: int = 256, seed: int = 0, chunk: int = 16) -> np.ndarray:
    """``num`` draws of the prior at the centre of the cosmology box, (num, 1, 64, 64)."""
    assert model.context_bounds is not None
    prior = bd.DiffusionPrior(model, tuple(0.5 * (low + high) for low, high in model.context_bounds))
    draw = jax.jit(lambda key: prior.sample(key, (chunk,)))
    keys = jax.random.split(jax.random.key(seed), -(-num // chunk))
    return np.concatenate([np.asarray(draw(key)) for key in keys])[:num]


def compare_draws(draws: np.ndarray) -> dict[str, Any]:
    """Spectrum, one-point and Minkowski statistics of draws against training windows, and memorisation.

    Args:
        draws: from :func:`draw_fields`.

    Returns:
        Ratios draws / training (``power_ratio`` per band of ``BAND_EDGES``), their standard errors, the 95th over the
        5th percentile of the training windows' variance, and the median distance to the nearest training patch, over
        periodic shifts and the symmetries of the square, of draws and of held-out patches, each in units of the patch's
        own standard deviation.
    """
    maps = load_dust_maps()
    windows = MapWindows(jnp.asarray(maps.training), PATCH_SIZE, periodic=(False, True))
    training = np.asarray(jax.vmap(windows.draw)(jax.random.split(jax.random.key(7), 4096)))
    faint, bright = np.quantile(training.var(axis=(1, 2, 3)), [0.05, 0.95])
    statistics: dict[str, Any] = {"variance_spread_training": float(bright / faint)}
    ours, theirs = (np.asarray(bd.fields.power_spectrum(x, edges=BAND_EDGES).power)[:, 0] for x in (draws, training))
    statistics["power_ratio"] = (ours.mean(axis=0) / theirs.mean(axis=0)).tolist()
    statistics["power_ratio_error"] = (theirs.std(axis=0) / theirs.mean(axis=0) / np.sqrt(len(draws))).tolist()
    statistics["sd_ratio"] = float(draws.std() / training.std())
    statistics["skewness_ratio"] = float(_skewness(draws) / _skewness(training))
    statistics["skewness_training"] = float(_skewness(training))
    thresholds = np.linspace(-1.5, 3.0, 10)
    areas = [
        np.asarray(bd.fields.minkowski_functionals(x, thresholds))[:, :, 0].mean(axis=1)
        for x in (draws, training[:1024])
    ]
    scale = np.abs(areas[1]).max(axis=1, keepdims=True)
    statistics["minkowski_largest_difference"] = (np.abs(areas[0] - areas[1]) / scale).max(axis=1).tolist()
    references = _symmetries(_disjoint(maps.training))
    for name, fields in (("draws", draws), ("held_out", _disjoint(maps.held_out))):
        distance = np.asarray(bd.fields.nearest_patch_distance(fields, references)) / fields.std(axis=(1, 2, 3))
        statistics[f"nearest_patch_{name}"] = float(np.median(distance))
        statistics[f"nearest_patch_{name}_10th"] = float(np.quantile(distance, 0.1))
    return statistics


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


def _skewness(fields: np.ndarray) -> float:
    centred = fields.astype(np.float64) - fields.mean()
    return float(np.mean(centred**3) / np.mean(centred**2) ** 1.5)


def _disjoint(maps: np.ndarray) -> np.ndarray:
    """All disjoint patches of maps (M, 1, rows, columns)."""
    num, _, rows, columns = maps.shape
    size = PATCH_SIZE
    grid = maps[:, 0, : rows // size * size, : columns // size * size]
    grid = grid.reshape(num, rows // size, size, columns // size, size)
    return grid.transpose(0, 1, 3, 2, 4).reshape(-1, 1, size, size)


def _symmetries(patches: np.ndarray) -> np.ndarray:
    """The patches under the eight symmetries of the square."""
    turned = [np.rot90(patches, k, axes=(-2, -1)) for k in range(4)]
    return np.concatenate(turned + [x[..., ::-1] for x in turned])
