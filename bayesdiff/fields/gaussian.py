"""Gaussian fields with the auto- and cross-spectra of given ones: what a statistic would be if spectra were all.

All channels are drawn together. With S(k) = L(k) L(k)^T the matrix of spectra of the channels in the bin of k, and w
white noise, the modes x_k = L(k) w_k have this matrix, and nothing else: no phase correlations, and no preferred
direction or handedness, since the spectra are averaged over angle.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from bayesdiff.fields.inputs import field_array
from bayesdiff.fields.spectra import radial_bins, spectral_matrix, wavenumbers


def matched_gaussian(
    key: jax.Array, field: ArrayLike, num_draws: int = 1, edges: Sequence[float] | np.ndarray | None = None
) -> jax.Array:
    """Draw periodic Gaussian fields with the binned auto- and cross-spectra of the given fields.

    The expected spectra of a draw, in the bins used here, are those of the given fields averaged over all leading axes.
    The mean of each map is drawn with the average of the given maps' means and their covariance among channels.

    Args:
        key: random key.
        field: (..., channels, height, width); all leading axes are samples of one ensemble.
        num_draws: number of draws.
        edges: increasing edges of the bins of |k| over which the spectra are constant, in units of the fundamental
            mode; a bin holds its lower edge, and modes outside all bins are zero in the draws. Default: bins one
            fundamental wide, to the corners of the Fourier plane.

    Returns:
        (num_draws, channels, height, width) in field units.

    Raises:
        ValueError: if the field has fewer than three axes or NaN pixels, the edges do not increase, a bin holds no
            mode, or no draw is asked for.
    """
    field = field_array(field, channels=True)
    if num_draws < 1:
        raise ValueError(f"num_draws must be 1 or more, got {num_draws}")
    channels, height, width = field.shape[-3:]
    if edges is None:
        edges = np.arange(0.5, wavenumbers((height, width)).max() + 1)
    bins = radial_bins((height, width), edges=edges)
    spectra = spectral_matrix(field, edges=edges).power
    matrices = jnp.moveaxis(jnp.mean(spectra, axis=tuple(range(spectra.ndim - 3))), -1, 0)
    # (row, column, channel, channel); the last entry is for the modes in no bin.
    roots = jnp.concatenate([_root(matrices), jnp.zeros((1, channels, channels), matrices.dtype)])[bins.index]
    noise_key, mean_key = jax.random.split(key)
    white = jnp.fft.rfft2(jax.random.normal(noise_key, (num_draws, channels, height, width), field.dtype))
    draws = jnp.fft.irfft2(jnp.einsum("yxij,njyx->niyx", roots, white), s=(height, width))
    means = jnp.mean(field, axis=(-2, -1)).reshape(-1, channels)
    center = jnp.mean(means, axis=0)
    spread = (means - center).T @ (means - center) / len(means)
    drawn = center + jax.random.normal(mean_key, (num_draws, channels), field.dtype) @ _root(spread).T
    return draws + drawn[..., None, None]


def _root(matrix: jax.Array) -> jax.Array:
    """A factor L of matrices S = L L^T (..., channels, channels).

    Cholesky's would do where S is positive definite; this one also exists where channels are copies of one another, or
    have more channels than modes. The channels are brought to one scale first, for those of small units.
    """
    scale = jnp.sqrt(jnp.maximum(jnp.diagonal(matrix, axis1=-2, axis2=-1), 0.0))
    safe = jnp.where(scale > 0, scale, 1.0)
    values, vectors = jnp.linalg.eigh(matrix / safe[..., :, None] / safe[..., None, :])
    return scale[..., :, None] * vectors * jnp.sqrt(jnp.maximum(values, 0.0))[..., None, :]
