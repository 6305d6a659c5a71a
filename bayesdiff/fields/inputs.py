"""What every statistic accepts: floating-point fields (..., channels, height, width) without NaN or infinity."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from bayesdiff.diffusion.refusals import is_concrete, refuse_non_finite


def field_array(field: ArrayLike, name: str = "field", channels: bool = False) -> jax.Array:
    """The field as a floating-point JAX array.

    Args:
        field: (..., channels, height, width), of any height and width. Its values are looked at only where they are
            known, that is outside ``jit``, ``grad`` and ``vmap``.
        name: of the argument, for the message.
        channels: whether the channel axis must be there; statistics of each map on its own accept (height, width) too.

    Raises:
        ValueError: if there are too few axes or a map is empty, or with the number of NaN or infinite pixels and the
            first of them.
    """
    shape = jnp.shape(field)
    if len(shape) < (3 if channels else 2) or 0 in shape[-2:]:
        raise ValueError(f"{name} must have shape (..., channels, height, width), got {shape}")
    refuse_bad_values(name, field)
    return jnp.asarray(field, jnp.result_type(field, float))


def refuse_bad_values(name: str, values: ArrayLike) -> None:
    """Raise ValueError with the number of NaN or infinite values, where they are known."""
    # The full check makes a float64 copy, so it only runs to say what is wrong.
    if is_concrete(values) and not np.isfinite(np.asarray(values)).all():
        refuse_non_finite(name, values)


def refuse_unmatched(*fields: jax.Array) -> None:
    """Raise ValueError unless the maps are of one size and their other axes broadcast against each other."""
    shapes = [field.shape for field in fields]
    fits = all(shape[-2:] == shapes[0][-2:] for shape in shapes)
    if fits:
        try:
            np.broadcast_shapes(*shapes)
        except ValueError:
            fits = False
    if not fits:
        raise ValueError(
            "fields (..., channels, height, width) of one size expected, with leading axes and channels that are equal "
            f"or 1, got {' and '.join(map(str, shapes))}"
        )
