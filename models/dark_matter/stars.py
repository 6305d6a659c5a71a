"""Stars in a simulated density: galaxies drawn by three recipes, which stand for three models of galaxy formation.

Cells of 25/64 Mpc/h hold Poisson numbers of galaxies, with an intensity that is a function of the density rho (of mean
one), and each galaxy has a stellar mass from the exponential end of Schechter's function, so that the mass of n of them
is Gamma(n, m). Two nuisance parameters, drawn for every simulation, do what feedback does: winds lower the number of
galaxies, and a central engine stops star formation where it is densest,

    intensity ~ b(rho) / (1 + A_engine rho / 60),        mean number 2 / A_wind^(1/2) per (Mpc/h)^3.

The biases b are

* ``power``: rho^1.5 exp(-1 / (2 rho)), a power law that dies out in voids (the form of Neyrinck et al. 2014,
  arXiv:1309.6641);
* ``threshold``: (rho - 1)^1.2 above the mean, nothing below it;
* ``environment``: rho rho_R^0.7, with the density rho_R smoothed over 1 Mpc/h as well: assembly bias.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from models.density_fields.simulator import (
    NUM_SLABS,
    Settings,
    corners,
    deposit,
    evolve,
    initial_field,
    particle_positions,
)

FEEDBACK_BOUNDS = {"A_wind": (0.5, 2.0), "A_engine": (0.5, 2.0)}
NUMBER_DENSITY = 2.0
"""Mean number of galaxies per (Mpc/h)^3 at A_wind = 1."""
QUENCHING_DENSITY = 60.0
SMOOTHING = 1.0
"""Standard deviation [Mpc/h] of the Gaussian window of the environment."""
STELLAR_SEED = 77


class Painted(NamedTuple):
    """Stars of one simulation.

    Attributes:
        maps: stellar mass per pixel in units of the mean mass of a galaxy, for each recipe, (recipes, 15, size, size).
        feedback: A_wind and A_engine.
    """

    maps: np.ndarray
    feedback: np.ndarray


def _power(rho: Array, environment: Array) -> Array:
    del environment
    return rho**1.5 * jnp.exp(-0.5 / jnp.maximum(rho, 1e-3))


def _threshold(rho: Array, environment: Array) -> Array:
    del environment
    return jnp.maximum(rho - 1.0, 0.0) ** 1.2


def _environment(rho: Array, environment: Array) -> Array:
    return rho * environment**0.7


RECIPES: dict[str, Callable[[Array, Array], Array]] = {
    "power": _power,
    "threshold": _threshold,
    "environment": _environment,
}


def density_mesh(displacement: Array, sheet: int = 2) -> Array:
    """Density of mean one on cells of the particle grid, (size, size, size), by the Lagrangian sheet.

    Args:
        displacement: of the particles, in cells, (size, size, size, 3).
        sheet: points of the sheet per particle and dimension.
    """
    size = displacement.shape[0]
    base = particle_positions(jnp.zeros_like(displacement))

    def add(mesh: Array, offset: Array) -> tuple[Array, None]:
        moved = displacement
        for axis in range(3):
            moved = moved + offset[axis] * (jnp.roll(moved, -1, axis) - moved)
        return mesh + deposit(*corners((base + offset + moved).reshape(-1, 3), size), size**3), None

    offsets = jnp.array(list(product(range(sheet), repeat=3)), displacement.dtype) / sheet
    mesh = jax.lax.scan(add, jnp.zeros(size**3, displacement.dtype), offsets)[0]
    return mesh.reshape((size,) * 3) / sheet**3


def intensity(recipe: str, rho: Array, feedback: Any, settings: Settings) -> Array:
    """Mean number of galaxies in each cell, (size, size, size).

    Args:
        recipe: one of `RECIPES`.
        rho: density of mean one.
        feedback: A_wind and A_engine, (2,).
        settings: of the simulation.

    Raises:
        KeyError: no such recipe.
    """
    waves = [2.0 * np.pi * np.fft.fftfreq(n, settings.box / n) for n in rho.shape]
    square = waves[0][:, None, None] ** 2 + waves[1][:, None] ** 2 + waves[2] ** 2
    window = np.exp(-0.5 * square * SMOOTHING**2).astype(np.float32)
    environment = jnp.maximum(jnp.fft.ifftn(jnp.fft.fftn(rho) * window).real, 1e-3)
    wind, engine = feedback
    bias = RECIPES[recipe](rho, environment) / (1.0 + engine * rho / QUENCHING_DENSITY)
    mean = NUMBER_DENSITY / jnp.sqrt(wind) * (settings.box / settings.size) ** 3
    return mean * bias / jnp.mean(bias)


def draw_stars(rng: np.random.Generator, numbers: np.ndarray) -> np.ndarray:
    """Stellar mass in each cell, in units of the mean of a galaxy, from the mean numbers of galaxies; float32."""
    count = rng.poisson(numbers)
    mass = np.zeros(numbers.shape, np.float32)
    mass[count > 0] = rng.gamma(count[count > 0])
    return mass


def project_cells(mesh: np.ndarray) -> np.ndarray:
    """Sum cells over five slabs along each of three axes, (15, size, size), in the order of the simulator's maps."""
    size = mesh.shape[0]
    first = -(-np.arange(NUM_SLABS) * size // NUM_SLABS)
    return np.concatenate([np.add.reduceat(np.moveaxis(mesh, axis, 0), first) for axis in range(3)])


def feedback_of(seed: int) -> np.ndarray:
    """A_wind and A_engine of a simulation, log-uniform, (2,)."""
    low, high = np.log(list(FEEDBACK_BOUNDS.values())).T
    return np.exp(np.random.default_rng((STELLAR_SEED, seed)).uniform(low, high))


def paint(seed: int, omega_m: float, sigma_8: float, settings: Settings | None = None) -> Painted:
    """Stars of the simulation that :func:`models.density_fields.simulator.simulate` makes of these arguments.

    Args:
        seed: of the initial field, of feedback and galaxies.
        omega_m: matter density parameter.
        sigma_8: rms of the linear overdensity in spheres of 8 Mpc/h at a = 1.
        settings: box, particles and steps.
    """
    settings, feedback = settings or Settings(), feedback_of(seed)
    numbers = np.asarray(_intensities(seed, omega_m, sigma_8, feedback, settings))
    rng = np.random.default_rng((STELLAR_SEED, seed, 1))
    return Painted(np.stack([project_cells(draw_stars(rng, mean)) for mean in numbers]), feedback)


@partial(jax.jit, static_argnames="settings")
def _intensities(seed: Any, omega_m: Any, sigma_8: Any, feedback: Any, settings: Settings) -> Array:
    rho = density_mesh(evolve(initial_field(seed, omega_m, sigma_8, settings), omega_m, sigma_8, settings))
    return jnp.stack([intensity(recipe, rho, feedback, settings) for recipe in RECIPES])
