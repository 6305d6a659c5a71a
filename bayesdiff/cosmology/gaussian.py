r"""Stationary Gaussian fields on a periodic patch: simulation, and exact separation of a sum into its components.

For independent components :math:`x_i` of Fourier powers :math:`P_i` and their sum :math:`y`, the posterior of the
components is Gaussian and diagonal in Fourier space,

.. math:: E[x_i | y] = \frac{P_i}{\sum_j P_j} y, \qquad
          \mathrm{Cov}(x_i, x_j | y) = P_i \delta_{ij} - \frac{P_i P_j}{\sum_l P_l}.

A draw needs no factor of that matrix (Hoffman and Ribak 1991, ApJ 380, L5): with u a draw of the prior,
:math:`x_i = u_i + P_i / (\sum_l P_l) \, (y - \sum_j u_j)` has exactly this law.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def _filter(field: jax.Array, transfer: jax.Array) -> jax.Array:
    """Multiply the Fourier modes of a real field (..., H, W) by a real, even transfer function."""
    shape = jnp.broadcast_shapes(field.shape, transfer.shape)
    modes = jnp.fft.fft2(jnp.broadcast_to(field, shape), norm="ortho")
    return jnp.fft.ifft2(modes * jnp.broadcast_to(transfer, shape), norm="ortho").real


def simulate_gaussian(key: jax.Array, power: ArrayLike, shape: Sequence[int] | None = None) -> jax.Array:
    """Draw a real, periodic, stationary Gaussian field of zero mean.

    Args:
        key: random key.
        power: orthonormal Fourier power E |fft2(x, norm="ortho")|^2 in squared units of the field, shape (..., H, W),
            even under k -> -k as the power of a real field is.
        shape: of the draw, (..., H, W), to which the power broadcasts; by default that of the power.

    Returns:
        The field, in the units of sqrt(power).
    """
    power = jnp.asarray(power, jnp.result_type(power, float))
    white = jax.random.normal(key, power.shape if shape is None else tuple(shape), power.dtype)
    return _filter(white, jnp.sqrt(power))


def wiener_separation(key: jax.Array | None, field: ArrayLike, powers: Mapping[str, ArrayLike]) -> dict[str, jax.Array]:
    """Split a field into independent Gaussian components: one exact posterior draw of them, or their means.

    The last component is what the others leave, so the components sum to the field to rounding, whatever the field
    holds (also in modes where every power is zero, which such a field cannot have).

    Args:
        key: random key; None gives the posterior means.
        field: sum of the components, shape (..., H, W).
        powers: orthonormal Fourier power of each component, shapes that broadcast to the field.

    Returns:
        The components by name, each of the field's shape.

    Raises:
        ValueError: no component is given, or a power does not broadcast to the field.
    """
    if not powers:
        raise ValueError("wiener_separation needs at least one component.")
    field = jnp.asarray(field, jnp.result_type(field, float))
    arrays = {name: jnp.asarray(power, field.dtype) for name, power in powers.items()}
    for name, power in arrays.items():
        if power.shape[-2:] != field.shape[-2:] or jnp.broadcast_shapes(power.shape, field.shape) != field.shape:
            raise ValueError(f"The power of {name!r}, {power.shape}, does not fit a field of shape {field.shape}.")
    arrays = {name: jnp.broadcast_to(power, field.shape) for name, power in arrays.items()}
    total = sum(arrays.values())
    share = jnp.where(total > 0.0, 1.0 / jnp.where(total > 0.0, total, 1.0), 0.0)
    if key is None:
        draws = {name: jnp.zeros_like(field) for name in arrays}
    else:
        keys = jax.random.split(key, len(arrays))
        draws = {
            name: simulate_gaussian(subkey, power, field.shape)
            for subkey, (name, power) in zip(keys, arrays.items(), strict=True)
        }
    remainder = field - sum(draws.values())
    *first, last = arrays
    components = {name: draws[name] + _filter(remainder, arrays[name] * share) for name in first}
    components[last] = field - sum(components.values(), jnp.zeros_like(field))
    return components
