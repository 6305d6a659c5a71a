"""Noise of a diffusion: the covariance Sigma in z_t = alpha_t x + sigma_t Sigma^(1/2) n.

White, or stationary and so diagonal in Fourier space, with a power that may depend on parameters (the context). The
noise of a mixture is often itself a sum, such as CMB and instrument noise; :class:`StationaryNoise` keeps the names and
powers of such components so that the sum can be taken apart again (a Wiener draw).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from bayesdiff.diffusion.fourier import filter_field
from bayesdiff.diffusion.sums import accurate_sum

Power = Any  # an array (H, W) or (C, H, W), or a function of the context that returns one


class Noise(Protocol):
    """A Gaussian covariance, diagonal in Fourier space."""

    isotropic: bool

    def power(self, context: jax.Array, event_shape: tuple[int, ...]) -> jax.Array:
        """Orthonormal power per mode, broadcastable to ``event_shape`` = (C, H, W)."""
        ...


@jax.tree_util.register_pytree_node_class
class WhiteNoise:
    """Unit white noise, Sigma the identity."""

    isotropic = True
    components: Mapping[str, Power] = {}

    def power(self, context: jax.Array, event_shape: tuple[int, ...]) -> jax.Array:
        """Ones, shape (H, W)."""
        return jnp.ones(event_shape[-2:])

    def tree_flatten(self):
        """No arrays."""
        return (), ()

    @classmethod
    def tree_unflatten(cls, aux, children):
        """Rebuild."""
        return cls()

    def __repr__(self) -> str:
        return "WhiteNoise()"


@jax.tree_util.register_pytree_node_class
class StationaryNoise:
    """Stationary Gaussian noise of a given power.

    Args:
        power: orthonormal power per mode, an array (H, W) or (C, H, W), or a JAX function that takes the context as an
            array (num_context,) and returns such an array. A mapping from names to powers is their sum, kept apart by
            name.
        isotropic: whether the power depends on |k| alone, which lets a likelihood be summed over modes of equal |k|.
            Taken from the attribute of that name where every power has one, else false.

    Raises:
        ValueError: for an array power that is negative, not finite or of fewer than two axes.
    """

    def __init__(self, power: Power | Mapping[str, Power], isotropic: bool | None = None):
        self.components: dict[str, Power] = dict(power) if isinstance(power, Mapping) else {"noise": power}
        for name, component in self.components.items():
            if not callable(component):
                self.components[name] = _checked_power(name, component)
        if isotropic is None:
            isotropic = all(getattr(component, "isotropic", False) for component in self.components.values())
        self.isotropic = isotropic

    def power(self, context: jax.Array, event_shape: tuple[int, ...]) -> jax.Array:
        """Total power at a context (num_context,), shape (H, W) or (C, H, W)."""
        total = reduce(jnp.add, self.component_powers(context).values())
        if total.shape[-2:] != tuple(event_shape[-2:]):
            raise ValueError(f"the noise power has shape {total.shape}, but the field is {event_shape}")
        return total

    def component_powers(self, context: jax.Array) -> dict[str, jax.Array]:
        """Power of each component at a context."""
        return {name: jnp.asarray(p(context) if callable(p) else p) for name, p in self.components.items()}

    def tree_flatten(self):
        """Array powers are children; functions are static."""
        names = tuple(self.components)
        functions = tuple(p if callable(p) else None for p in self.components.values())
        arrays = tuple(None if callable(p) else p for p in self.components.values())
        return arrays, (names, functions, self.isotropic)

    @classmethod
    def tree_unflatten(cls, aux, children):
        """Rebuild without checks, which transformations need."""
        names, functions, isotropic = aux
        noise = object.__new__(cls)
        noise.components = {n: a if f is None else f for n, f, a in zip(names, functions, children, strict=True)}
        noise.isotropic = isotropic
        return noise

    def __repr__(self) -> str:
        return f"StationaryNoise({', '.join(self.components)})"


def _checked_power(name: str, power) -> jax.Array:
    if isinstance(power, Tracer):
        return power
    array = np.asarray(power)
    if array.ndim < 2 or not np.isfinite(array).all() or (array < 0).any():
        raise ValueError(
            f"the power of {name!r} must be a finite, non-negative array (H, W) or (C, H, W), got shape {array.shape} "
            f"with minimum {array.min() if array.size else float('nan'):g}"
        )
    return jnp.asarray(power)


def colour(white: jax.Array, power: jax.Array) -> jax.Array:
    """Sigma^(1/2) n: white noise (..., C, H, W) given the power of Sigma."""
    return filter_field(white, jnp.sqrt(power))


def gaussian_log_density(field: jax.Array, power: jax.Array, mean: jax.Array | float | None = None) -> jax.Array:
    """Density log N(field; mean, Sigma) for Sigma of the given power, summed over the last three axes.

    A mean that is one number only moves the mode k = 0: the transform of the field does not depend on it, and a loop
    over means has it once.
    """
    height, width = field.shape[-2:]
    half = width // 2 + 1
    power = jnp.broadcast_to(power, field.shape[-3:])[..., :half]
    if mean is None:
        modes = jnp.fft.rfft2(field, norm="ortho")
    elif jnp.ndim(mean) == 0:
        field = field.astype(jnp.result_type(field, mean))
        average = jnp.mean(field, axis=(-2, -1), keepdims=True)
        modes = jnp.fft.rfft2(field - average, norm="ortho")
        modes = modes.at[..., 0, 0].set((average[..., 0, 0] - mean) * math.sqrt(height * width))
    else:
        modes = jnp.fft.rfft2(field - mean, norm="ortho")
    # The modes k and -k of a real field are equal, so half of the plane is enough; its edges stand for themselves.
    weight = np.full(half, 2.0)
    weight[0] = 1.0
    if width % 2 == 0:
        weight[-1] = 1.0
    per_mode = (modes.real**2 + modes.imag**2) / power + jnp.log(2.0 * jnp.pi * power)
    return -0.5 * accurate_sum(jnp.asarray(weight, dtype=field.dtype) * per_mode)
