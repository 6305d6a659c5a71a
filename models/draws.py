"""How draws of an unconditional prior are judged: their statistics beside those of maps; whether they are copies."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

import bayesdiff as bd
from bayesdiff.diffusion.samplers import draw_prior

BAND_EDGES = np.array([0.5, 1.5, 2.5, 4.0, 6.0, 8.5, 12.0, 16.0, 20.5, 25.6])
THRESHOLDS = np.linspace(-1.5, 3.0, 10)
NUM_EVALUATIONS = 30


def draw_fields(
    model: bd.DiffusionModel, num: int = 256, seed: int = 0, chunk: int = 16, num_evaluations: int = NUM_EVALUATIONS
) -> np.ndarray:
    """Draws of a prior at the centre of its context's range, (num, C, H, W).

    Args:
        model: the prior.
        num: of draws.
        seed: of their noise; the same seed gives the same noise at any number of evaluations.
        chunk: draws of one call.
        num_evaluations: of the denoiser, for each of them.
    """
    centre = tuple(0.5 * (low + high) for low, high in model.context_bounds or ())
    context = model.context_array(centre or None)
    draw = jax.jit(jax.vmap(lambda key: draw_prior(key, model, context, num_evaluations)))
    keys = jax.random.split(jax.random.key(seed), (-(-num // chunk), chunk))
    return np.concatenate([np.asarray(draw(some)) for some in keys])[:num]


def compare_draws(
    draws: np.ndarray,
    training: np.ndarray,
    references: np.ndarray,
    held_out: np.ndarray,
    edges: np.ndarray = BAND_EDGES,
) -> dict[str, Any]:
    """Spectrum, one-point and Minkowski statistics of draws against training windows, and memorisation.

    Args:
        draws: of the prior, (num, C, H, W).
        training: windows of the training maps.
        references: patches that cover the training maps.
        held_out: patches of other maps.
        edges: of the bands of the spectrum.

    Returns:
        Ratios draws / training (``power_ratio`` per band), their standard errors, skewness, the largest difference of
        each Minkowski functional over its maximum, and the median and 10th percentile of the distance to the nearest
        training patch, over periodic shifts and the symmetries of the square, of draws and of held-out patches, each in
        units of the patch's own standard deviation. Draws that are nearer than held-out patches are copies.
    """
    ours, theirs = (np.asarray(bd.fields.power_spectrum(x, edges=edges).power)[:, 0] for x in (draws, training))
    statistics: dict[str, Any] = {
        "power_ratio": (ours.mean(axis=0) / theirs.mean(axis=0)).tolist(),
        "power_ratio_error": (theirs.std(axis=0) / theirs.mean(axis=0) / np.sqrt(len(draws))).tolist(),
        "sd_ratio": float(draws.std() / training.std()),
        "skewness": skewness(draws),
        "skewness_training": skewness(training),
    }
    areas = [
        np.asarray(bd.fields.minkowski_functionals(x, THRESHOLDS))[:, :, 0].mean(axis=1)
        for x in (draws, training[:1024])
    ]
    scale = np.abs(areas[1]).max(axis=1, keepdims=True)
    statistics["minkowski_largest_difference"] = (np.abs(areas[0] - areas[1]) / scale).max(axis=1).tolist()
    return statistics | nearest_patches(draws, references, held_out)


def nearest_patches(draws: np.ndarray, references: np.ndarray, held_out: np.ndarray) -> dict[str, float]:
    """Distances of draws and of held-out patches to the nearest reference, see :func:`compare_draws`."""
    turned = symmetries(references)
    statistics = {}
    for name, fields in (("draws", draws), ("held_out", held_out)):
        distance = np.asarray(bd.fields.nearest_patch_distance(fields, turned)) / fields.std(axis=(1, 2, 3))
        statistics[f"nearest_patch_{name}"] = float(np.median(distance))
        statistics[f"nearest_patch_{name}_10th"] = float(np.quantile(distance, 0.1))
    return statistics


def skewness(fields: np.ndarray) -> float:
    """Of all pixels together."""
    centred = fields.astype(np.float64) - fields.mean()
    return float(np.mean(centred**3) / np.mean(centred**2) ** 1.5)


def disjoint(maps: np.ndarray, size: int) -> np.ndarray:
    """All disjoint patches (num, 1, size, size) of maps (M, 1, rows, columns)."""
    num, _, rows, columns = maps.shape
    grid = maps[:, 0, : rows // size * size, : columns // size * size]
    grid = grid.reshape(num, rows // size, size, columns // size, size)
    return grid.transpose(0, 1, 3, 2, 4).reshape(-1, 1, size, size)


def symmetries(patches: np.ndarray) -> np.ndarray:
    """The patches under the eight symmetries of the square."""
    turned = [np.rot90(patches, k, axes=(-2, -1)) for k in range(4)]
    return np.concatenate(turned + [x[..., ::-1] for x in turned])
