"""Patches of maps: how close a field is to known ones, and a map on a coarser pixel grid."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def nearest_patch_distance(field: ArrayLike, references: ArrayLike, max_bytes: int = 2**28) -> np.ndarray:
    """Root-mean-square distance from each field to the nearest reference patch under all periodic shifts.

    The measure of memorisation: draws of a model that copies are nearer to the training patches than held-out maps are.
    With the cross-correlation c(s) = sum_p a(p) b(p + s) from one FFT for each pair, the squared distance at shift s is
    (|a|^2 + |b|^2 - 2 c(s)) / size. Flips and rotations are not searched: put them among the references.

    Args:
        field: (..., channels, height, width).
        references: (num_references, channels, height, width).
        max_bytes: memory that the correlations computed at once may take.

    Returns:
        (...,) distances in field units. Distances below about 1e-3 of the field's rms are rounding in float32.

    Raises:
        ValueError: if the patches differ in shape or there is no reference.
    """
    field, references = jnp.asarray(field), jnp.asarray(references)
    if references.ndim != 4 or references.shape[0] == 0 or field.shape[-3:] != references.shape[1:]:
        raise ValueError(
            "field (..., channels, height, width) and references (num_references, channels, height, width) of one size "
            f"expected, got {field.shape} and {references.shape}"
        )
    batch, patch = field.shape[:-3], field.shape[-3:]
    # A common constant cancels in every distance, but not in its rounding error.
    center = jnp.mean(references)
    fields, references = field.reshape(-1, *patch) - center, references - center
    map_bytes = patch[-1] * patch[-2] * references.dtype.itemsize * 2
    chunk = max(1, min(references.shape[0], max_bytes // map_bytes))
    fields_at_once = max(1, max_bytes // (map_bytes * chunk))
    nearest = np.full(fields.shape[0], np.inf)
    for start in range(0, references.shape[0], chunk):
        squared = _nearest_squared(fields, references[start : start + chunk], min(fields_at_once, fields.shape[0]))
        nearest = np.minimum(nearest, np.asarray(squared, dtype=float))
    return np.sqrt(np.maximum(nearest, 0.0) / np.prod(patch)).reshape(batch)


@partial(jax.jit, static_argnames="fields_at_once")
def _nearest_squared(fields: jax.Array, references: jax.Array, fields_at_once: int) -> jax.Array:
    shape = references.shape[-2:]
    reference_fourier = jnp.fft.rfft2(references)
    reference_norm = jnp.sum(references**2, axis=(-3, -2, -1))

    def one_field(field: jax.Array) -> jax.Array:
        product = jnp.sum(jnp.conj(jnp.fft.rfft2(field)) * reference_fourier, axis=-3)
        closest = jnp.max(jnp.fft.irfft2(product, s=shape), axis=(-2, -1))
        return jnp.min(jnp.sum(field**2) + reference_norm - 2 * closest)

    return jax.lax.map(one_field, fields, batch_size=fields_at_once)


def regrid(
    field: np.ndarray, factor: float | tuple[float, float] | None = None, shape: tuple[int, int] | None = None
) -> np.ndarray:
    """Average a map over coarser pixels, with exact area weights where pixels overlap in part.

    Args:
        field: (..., height, width) NumPy map; every pixel must be finite.
        factor: side of a new pixel in old pixels, at least 1 (8 / 2.37 for a map of 2.37 arcmin on a grid of 8 arcmin),
            for both axes or (height, width). The new grid is the largest that fits, centred: what is left over is
            cut evenly from both ends.
        shape: height and width of the new map instead, which then covers the whole old one.

    Returns:
        (..., new height, new width) map, in the floating type of the old one.

    Raises:
        ValueError: if neither or both of ``factor`` and ``shape`` are given, the new grid is finer than the old one, or
            pixels are NaN or infinite.
    """
    field = np.asarray(field)
    if field.ndim < 2:
        raise ValueError(f"a map has shape (..., height, width), got {field.shape}")
    finite = np.isfinite(field)
    if not finite.all():
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ValueError(
            f"cannot average a map with {np.count_nonzero(~finite)} NaN or infinite pixels, the first at {first}"
        )
    height, width = field.shape[-2:]
    if shape is not None and factor is None:
        factors = (height / shape[0], width / shape[1])
    elif factor is not None and shape is None:
        factors = (factor, factor) if isinstance(factor, int | float) else factor
    else:
        raise ValueError("give the factor or the shape of the new grid, and not both")
    if min(factors) < 1 or factors[0] > height or factors[1] > width:
        raise ValueError(
            f"a new pixel must have between 1 old pixel and the whole map ({height} x {width}) on a side, got "
            f"{factors[0]:.4g} x {factors[1]:.4g}"
        )
    rows, columns = _averaging_weights(height, factors[0]), _averaging_weights(width, factors[1])
    dtype = field.dtype if np.issubdtype(field.dtype, np.floating) else np.dtype(float)
    return (rows @ field.astype(float) @ columns.T).astype(dtype)


def _averaging_weights(size: int, factor: float) -> np.ndarray:
    """(new size, size) share of each old pixel in each new one; rows sum to one."""
    new_size = int(np.floor(size / factor + 1e-9))
    start = (size - new_size * factor) / 2 + factor * np.arange(new_size)[:, None]
    old = np.arange(size)[None, :]
    overlap = np.minimum(start + factor, old + 1) - np.maximum(start, old)
    return np.clip(overlap, 0.0, None) / factor
