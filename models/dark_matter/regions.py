"""The mass in chosen regions of a map, whose posterior is that of its reconstruction."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.density_fields.data import PIXEL


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float, pixel: float = PIXEL) -> np.ndarray:
    """Pixels of a periodic map within a distance of a point, (H, W) of bool.

    Args:
        shape: (H, W) of the map.
        centre: row and column, in pixels.
        radius: [Mpc/h].
        pixel: side of a pixel [Mpc/h].

    Raises:
        ValueError: the disc holds no pixel, or is wider than the map.
    """
    if not 0.0 < radius <= 0.5 * min(shape) * pixel:
        raise ValueError(f"radius must be above 0 and at most half of the map, {0.5 * min(shape) * pixel:g} Mpc/h, got "
                         f"{radius:g}")  # fmt: skip
    offsets = [
        (np.arange(n) - c + 0.5 * n) % n - 0.5 * n  # to the nearest image of the centre
        for n, c in zip(shape, centre, strict=True)
    ]
    inside = np.hypot(offsets[0][:, None], offsets[1]) * pixel <= radius
    if not inside.any():
        raise ValueError(f"a disc of {radius:g} Mpc/h about {centre} holds no pixel of {pixel:g} Mpc/h")
    return inside


def mass_in(surface_density: Any, region: np.ndarray, pixel: float = PIXEL) -> Any:
    """Mass [Msun/h] of surface densities (..., H, W) [(Msun/h) / (Mpc/h)^2] in a region (H, W) of bool.

    Raises:
        ValueError: region and map have different pixels.
    """
    if np.shape(surface_density)[-2:] != region.shape:
        raise ValueError(
            f"a region must have the pixels of its map, {np.shape(surface_density)[-2:]}, got {region.shape}"
        )
    return (surface_density * region).sum(axis=(-2, -1)) * pixel**2
