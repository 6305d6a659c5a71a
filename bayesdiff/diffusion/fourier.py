"""Fourier filters of real fields on the periodic pixel grid, in the orthonormal convention.

A power is an array (H, W) or (C, H, W) over the modes of ``fft2``, even under k -> -k; a filter multiplies each mode by
a real, even transfer function.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def filter_field(field: jax.Array, transfer: jax.Array) -> jax.Array:
    """Multiply each Fourier mode of ``field`` (..., H, W) by ``transfer`` (H, W) or (C, H, W)."""
    height, width = field.shape[-2:]
    modes = jnp.fft.rfft2(field, norm="ortho") * transfer[..., : width // 2 + 1]
    return jnp.fft.irfft2(modes, s=(height, width), norm="ortho").astype(field.dtype)


def hartley(field: jax.Array) -> jax.Array:
    """Hartley transform Re F - Im F of ``field`` (..., H, W): real, orthonormal, and its own inverse.

    White noise remains white noise, while the values of a stationary field become independent of one another.
    """
    modes = jnp.fft.fft2(field, norm="ortho")
    return (modes.real - modes.imag).astype(field.dtype)


def mode_power(field: jax.Array) -> jax.Array:
    """|fft2(field)|^2 of every mode, shape (..., H, W)."""
    modes = jnp.fft.fft2(field, norm="ortho")
    return modes.real**2 + modes.imag**2


class RadialModes:
    """Modes of an (H, W) grid grouped by equal |k|: a radial power needs one value per group.

    Attributes:
        group: group of each mode, shape (H * W,), increasing with |k|.
        first: a representative mode of each group.
        counts: modes per group.
    """

    def __init__(self, shape: tuple[int, int]):
        height, width = shape
        rows, columns = np.fft.fftfreq(height, 1.0 / height), np.fft.fftfreq(width, 1.0 / width)
        squared = np.rint(rows[:, None] ** 2 * width**2 + columns[None, :] ** 2 * height**2).astype(np.int64)
        _, self.first, self.group, self.counts = np.unique(
            squared.ravel(), return_index=True, return_inverse=True, return_counts=True
        )

    def total(self, power: jax.Array) -> jax.Array:
        """Sum of ``power`` (..., H, W) over each group, shape (..., groups)."""
        flat = power.reshape(*power.shape[:-2], -1)
        sums = jax.ops.segment_sum(jnp.moveaxis(flat, -1, 0), self.group, num_segments=len(self.first))
        return jnp.moveaxis(sums, 0, -1)

    def representative(self, power: jax.Array) -> jax.Array:
        """A radial ``power`` (..., H, W) at one mode of each group, shape (..., groups)."""
        return power.reshape(*power.shape[:-2], -1)[..., self.first]
