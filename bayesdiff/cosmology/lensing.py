"""Weak lensing on a flat sky: convergence to shear and back (Kaiser & Squires 1993, ApJ 404, 441).

In Fourier space, with kx along columns and ky along rows, both growing with the index,

    gamma_1 = (kx^2 - ky^2) / k^2 kappa,    gamma_2 = 2 kx ky / k^2 kappa.

The two factors are real and even and the sum of their squares is 1, so that each is its own adjoint and the adjoint of
the whole is the inverse of Kaiser and Squires, which gives the E mode. k = 0 does not enter the shear: the mean of the
convergence cannot be measured from it (the mass-sheet degeneracy). At the Nyquist frequency of an even axis the sign of
k is not defined, and gamma_2 is set to zero there.

Fields are periodic: mass beyond the edge acts like the mass at the opposite one.
"""

from __future__ import annotations

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from bayesdiff.diffusion.fourier import filter_field


def convergence_to_shear(convergence: ArrayLike) -> jax.Array:
    """Shear (gamma_1, gamma_2), shape (..., 2, H, W), of a convergence (..., 1, H, W), both without unit.

    Raises:
        ValueError: for another number of channels.
    """
    field = _with_channels("convergence", convergence, 1)
    return filter_field(field, jnp.asarray(_spin_two(field.shape[-2:]), field.dtype))


def shear_to_convergence(shear: ArrayLike) -> jax.Array:
    """E and B mode, shape (..., 2, H, W), of a shear (..., 2, H, W); both of mean zero.

    Gravitational lensing makes the E mode alone, which is the convergence but for its mean; the B mode is a measure of
    noise and of errors. The E mode is also the adjoint of :func:`convergence_to_shear` applied to the shear.

    Raises:
        ValueError: for another number of channels.
    """
    field = _with_channels("shear", shear, 2)
    first, second = jnp.asarray(_spin_two(field.shape[-2:]), field.dtype)
    one, two = field[..., 0, :, :], field[..., 1, :, :]
    even = filter_field(one, first) + filter_field(two, second)
    odd = filter_field(two, first) - filter_field(one, second)
    return jnp.stack([even, odd], axis=-3)


def _with_channels(name: str, field: ArrayLike, channels: int) -> jax.Array:
    array = jnp.asarray(field, jnp.result_type(field, float))
    if array.ndim < 3 or array.shape[-3] != channels:
        raise ValueError(f"{name} must have shape (..., {channels}, height, width), got {array.shape}")
    return array


@lru_cache(maxsize=8)
def _spin_two(shape: tuple[int, int]) -> np.ndarray:
    """The factors of gamma_1 and gamma_2, (2, H, W)."""
    rows, columns = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")
    squared = rows**2 + columns**2
    squared[0, 0] = 1.0
    undefined = (np.abs(rows) == 0.5) | (np.abs(columns) == 0.5)
    return np.stack([(columns**2 - rows**2) / squared, np.where(undefined, 0.0, 2.0 * columns * rows / squared)])
