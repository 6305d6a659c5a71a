"""Numbers per noise level and band of |k|, read at any noise level for every mode."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class BandTable:
    """A number per noise level and band.

    Attributes:
        log_s: noise levels of the table, ascending, shape (T,).
        values: one per noise level and linear band of |k| from 0 to the corner of the grid, shape (T, K).
    """

    log_s: jax.Array
    values: jax.Array

    def __call__(self, s: jax.Array, shape: tuple[int, int]) -> jax.Array:
        """Interpolate in log s, for every mode, shape (H, W)."""
        bands = jax.vmap(lambda column: jnp.interp(jnp.log(s), self.log_s, column), in_axes=1)(self.values)
        return bands[radial_band(shape, self.values.shape[1])]


def constant_table(value: float, num_bands: int, num_levels: int = 24) -> BandTable:
    """The same number everywhere; noise levels from 0.01 to 100."""
    log_s = jnp.log(jnp.geomspace(0.01, 100.0, num_levels))
    return BandTable(log_s, jnp.full((num_levels, num_bands), value))


def radial_band(shape: tuple[int, int], num_bands: int) -> np.ndarray:
    """Index of the linear band of |k|, from 0 to the corner of the grid, for every mode, shape (H, W)."""
    rows, columns = (np.fft.fftfreq(n) for n in shape)
    radius = np.hypot(rows[:, None], columns[None, :]) / np.hypot(0.5, 0.5)
    return np.minimum((radius * num_bands).astype(int), num_bands - 1)


def band_sum(modes: jax.Array, num_bands: int) -> jax.Array:
    """Sum over the modes (..., H, W) of each band, and over all axes before them, shape (num_bands,)."""
    total = jnp.sum(modes.reshape(-1, *modes.shape[-2:]), axis=0)
    band = radial_band(total.shape, num_bands)  # type: ignore[arg-type]
    return jax.ops.segment_sum(total.ravel(), band.ravel(), num_segments=num_bands)
