"""Dark matter maps of one N-body simulation: a particle-mesh code in a box of 25 Mpc/h, with JaxPM.

64^3 particles on a mesh of as many cells start at a = 0.05 from second-order Lagrangian perturbation theory (JaxPM's
``lpt``) and take 20 leapfrog steps, uniform in the scale factor, to a = 1. Kicks and drifts are those of FastPM (Feng
et al. 2016, arXiv:1603.00476): with p = F(a) psi the momentum of a Zel'dovich trajectory x = q + D(a) psi,
F = a^2 E f D,

    kick = [F(a1) - F(a0)] / D(a)    drift = [D(a1) - D(a0)] / F(a),

so that linear growth is exact whatever the number of steps. The cosmology is flat LambdaCDM with the Omega_b, h and n_s
of CAMELS (Villaescusa-Navarro et al. 2022, arXiv:2109.10915) and the linear spectrum of Eisenstein & Hu (1998).

A map is the mass in a slab of 5 Mpc/h, seen along an axis. Mass is laid down by the Lagrangian sheet (Abel, Hahn &
Kaehler 2012, arXiv:1111.3944): displacements are interpolated trilinearly between particles, three times as finely in
each dimension, because twice leaves ripples in the voids. Cloud in cell across the map, sharp edges along the line of
sight.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from models.density_fields.data import BOX, SIZE

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # jax_cosmo asks for its own version with pkg_resources
    import jax_cosmo
    from jaxpm.growth import growth_factor, growth_rate
    from jaxpm.pm import linear_field, lpt

OMEGA_B, HUBBLE, SPECTRAL_INDEX = 0.049, 0.6711, 0.9624
CRITICAL_DENSITY = 2.775e11
"""3 H0^2 / (8 pi G) in (Msun/h) / (Mpc/h)^3."""
NUM_SLABS = 5


@dataclass(frozen=True)
class Settings:
    """A simulation but for its cosmology and its seed.

    Attributes:
        size: particles, mesh cells and map pixels per dimension.
        box: side [Mpc/h].
        steps: leapfrog steps.
        start: scale factor at which they begin.
        force_mesh: cells of the mesh of the forces per particle and dimension.
        sheet: points of the Lagrangian sheet per particle and dimension.
    """

    size: int = SIZE
    box: float = BOX
    steps: int = 20
    start: float = 0.05
    force_mesh: int = 1
    sheet: int = 3


@contextmanager
def _quiet() -> Iterator[None]:
    """While jax_cosmo is traced: it asks for int64, which it does not need."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Explicitly requested dtype int64", UserWarning)
        yield


class Simulation(NamedTuple):
    """What is kept of a simulation.

    Attributes:
        maps: surface densities [(Msun/h) / (Mpc/h)^2], (15, size, size): five slabs along each of three axes.
        power: matter power spectrum at a = 1 [(Mpc/h)^3], in the bins of `wavenumbers`.
    """

    maps: Array
    power: Array


def cosmology(omega_m: Any, sigma_8: Any) -> jax_cosmo.Cosmology:
    """Flat LambdaCDM with the other parameters of CAMELS."""
    return jax_cosmo.Cosmology(
        Omega_c=omega_m - OMEGA_B, Omega_b=OMEGA_B, h=HUBBLE, n_s=SPECTRAL_INDEX, sigma8=sigma_8,
        Omega_k=0.0, w0=-1.0, wa=0.0,
    )  # fmt: skip


@_quiet()
def linear_power(omega_m: Any, sigma_8: Any, k: Any) -> Array:
    """Linear matter power [(Mpc/h)^3] at a = 1 for wavenumbers k [h/Mpc] between 1e-3 and 50.

    Normalised here: the integral of jax_cosmo for sigma_8 is off by 3 % at Omega_m = 0.1, where baryons are half of the
    matter.
    """
    log_k = np.linspace(np.log(1e-4), np.log(50.0), 2048)
    table = np.exp(log_k)
    window = 3.0 * (np.sin(8.0 * table) - 8.0 * table * np.cos(8.0 * table)) / (8.0 * table) ** 3
    window = np.where(table < 1e-2, 1.0 - (8.0 * table) ** 2 / 10.0, window)
    power = jax_cosmo.power.linear_matter_power(cosmology(omega_m, sigma_8), jnp.asarray(table, jnp.float32))
    integrand = power * jnp.asarray(window**2 * table**3 / (2.0 * np.pi**2), jnp.float32)
    variance = jnp.trapezoid(integrand, dx=float(log_k[1] - log_k[0]))
    normalised = jnp.log(power * sigma_8**2 / variance)
    return jnp.exp(jnp.interp(jnp.log(jnp.maximum(k, 1e-4)), jnp.asarray(log_k, jnp.float32), normalised))


def initial_field(seed: Any, omega_m: Any, sigma_8: Any, settings: Settings) -> Array:
    """Linear overdensity scaled to a = 1, (size, size, size)."""
    shape, box = (settings.size,) * 3, (settings.box,) * 3
    return linear_field(shape, box, partial(linear_power, omega_m, sigma_8), jax.random.key(seed))


@_quiet()
def evolve(field: Array, omega_m: Any, sigma_8: Any, settings: Settings) -> Array:
    """Displacements at a = 1 of particles that began on the mesh points, in cells, (size, size, size, 3)."""
    universe = cosmology(omega_m, sigma_8)
    edges = jnp.linspace(settings.start, 1.0, settings.steps + 1)
    middles = 0.5 * (edges[1:] + edges[:-1])
    growth, momentum = growth_and_momentum(universe, edges)
    middle_momentum = growth_and_momentum(universe, middles)[1]
    kicks = jnp.diff(middle_momentum, prepend=momentum[:1]) / growth[:-1]
    drifts = jnp.diff(growth) / middle_momentum

    def step(state: tuple[Array, Array], factors: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        (displacement, velocity), (kick, drift) = state, factors
        velocity = velocity + kick * forces(displacement, settings.force_mesh)
        return (displacement + drift * velocity, velocity), None

    displacement, velocity, _ = lpt(universe, field, a=settings.start, order=2)
    displacement, velocity = _undo_differences(displacement), _undo_differences(velocity)
    (displacement, _), _ = jax.lax.scan(step, (displacement, velocity), (kicks, drifts))
    return displacement


@_quiet()
def growth_and_momentum(universe: jax_cosmo.Cosmology, a: Array) -> tuple[Array, Array]:
    """D(a), which is 1 today, and F(a) = a^2 E f D, the momentum per initial displacement in units of H0."""
    growth = growth_factor(universe, a)
    rate = growth_rate(universe, a)
    return growth, a**2 * jnp.sqrt(jax_cosmo.background.Esqr(universe, a)) * rate * growth


def forces(displacement: Array, factor: int) -> Array:
    """Forces on displaced particles, as JaxPM's ``pm_forces``, on a mesh ``factor`` times finer than their grid.

    JaxPM ties the mesh to the particles, and reads the three components one after another. On one core this takes an
    eighth of the time on the same mesh.

    Args:
        displacement: in cells of the particle grid, (size, size, size, 3).
        factor: mesh cells per particle and dimension.

    Returns:
        Minus the gradient of the inverse Laplacian of the overdensity, in cells of the particle grid, same shape.
    """
    mesh_size = factor * displacement.shape[0]
    cells, weights = corners(factor * particle_positions(displacement).reshape(-1, 3), mesh_size)
    density = factor**3 * deposit(cells, weights, mesh_size**3).reshape((mesh_size,) * 3)
    half = 2.0 * np.pi * np.fft.rfftfreq(mesh_size)
    full = 2.0 * np.pi * np.fft.fftfreq(mesh_size)
    waves = (full[:, None, None], full[:, None], half)
    square = sum(wave**2 for wave in waves)
    inverse = np.divide(1.0, square, out=np.zeros_like(square), where=square > 0)
    potential = jnp.fft.rfftn(density) * inverse.astype(np.float32)
    gradients = [1j * _difference(wave).astype(np.float32) for wave in waves]
    field = jnp.stack([jnp.fft.irfftn(gradient * potential) for gradient in gradients], axis=-1).reshape(-1, 3)
    read = sum(
        weight[:, None] * field.at[cell].get(mode="promise_in_bounds")
        for cell, weight in zip(cells, weights, strict=True)
    )
    return jnp.reshape(read / factor, displacement.shape)


def _difference(wave: np.ndarray) -> np.ndarray:
    """Transform of the four-point derivative of JaxPM, where that of the derivative is ``wave``."""
    return (8.0 * np.sin(wave) - np.sin(2.0 * wave)) / 6.0


def _undo_differences(displacement: Array) -> Array:
    """The displacements of JaxPM's ``lpt`` with exact derivatives: its own lose 15 % at half the Nyquist wavenumber."""
    size = displacement.shape[0]
    wave = 2.0 * np.pi * np.fft.fftfreq(size)
    difference = _difference(wave)
    safe = np.abs(difference) > 1e-6
    ratio = np.where(safe, wave / np.where(safe, difference, 1.0), 0.0)
    ratio[0] = 1.0
    corrected = [
        jnp.fft.ifft(jnp.fft.fft(displacement[..., i], axis=i) * np.moveaxis(ratio[:, None, None], 0, i), axis=i).real
        for i in range(3)
    ]
    return jnp.stack(corrected, axis=-1)


def particle_positions(displacement: Array) -> Array:
    """Positions in cells, on the particle grid plus displacements (size, size, size, 3)."""
    axis = jnp.arange(displacement.shape[0], dtype=displacement.dtype)
    return jnp.stack(jnp.meshgrid(axis, axis, axis, indexing="ij"), axis=-1) + displacement


def corners(positions: Array, size: int) -> tuple[list[Array], list[Array]]:
    """Cloud in cell: flat indices and weights of the 2^d mesh points around positions (N, d) on a periodic size^d."""
    floor = jnp.floor(positions)
    upper = positions - floor
    cell = floor.astype(jnp.int32)
    indices, weights = [], []
    for corner in product((0, 1), repeat=positions.shape[1]):
        index, weight = jnp.int32(0), jnp.array(1.0, positions.dtype)
        for axis, side in enumerate(corner):
            index = index * size + (cell[:, axis] + side) % size
            weight = weight * (upper[:, axis] if side else 1.0 - upper[:, axis])
        indices.append(index)
        weights.append(weight)
    return indices, weights


def deposit(cells: list[Array], weights: list[Array], num: int) -> Array:
    """Sum the weights of :func:`corners` on a flat mesh of ``num`` points."""
    mesh = jnp.zeros(num, weights[0].dtype)
    for cell, weight in zip(cells, weights, strict=True):
        mesh = mesh.at[cell].add(weight, mode="promise_in_bounds")
    return mesh


def project(displacement: Array, omega_m: Any, settings: Settings) -> Array:
    """Surface densities [(Msun/h) / (Mpc/h)^2] of the slabs, (15, size, size), from displacements in cells."""
    size, sheet = settings.size, settings.sheet
    base = particle_positions(jnp.zeros_like(displacement))

    def add(maps: Array, offset: Array) -> tuple[Array, None]:
        moved = displacement
        for axis in range(3):
            moved = moved + offset[axis] * (jnp.roll(moved, -1, axis) - moved)
        positions = (base + offset + moved).reshape(-1, 3)
        added = []
        for axis in range(3):
            slab = jnp.floor(positions[:, axis] % size * (NUM_SLABS / size)).astype(jnp.int32)
            first = jnp.minimum(slab, NUM_SLABS - 1) * size**2
            cells, weights = corners(positions[:, [i for i in range(3) if i != axis]], size)
            added.append(deposit([first + cell for cell in cells], weights, NUM_SLABS * size**2))
        return maps + jnp.stack(added), None

    offsets = jnp.array(list(product(range(sheet), repeat=3)), displacement.dtype) / sheet
    counts = jax.lax.scan(add, jnp.zeros((3, NUM_SLABS * size**2), displacement.dtype), offsets)[0]
    mean = sheet**3 * size / NUM_SLABS
    return CRITICAL_DENSITY * omega_m * (settings.box / NUM_SLABS) * counts.reshape(-1, size, size) / mean


def wavenumbers(settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Mean wavenumber [h/Mpc] and number of modes of each bin, one fundamental mode wide, to the particles' Nyquist."""
    index, k = _bins(settings.size, settings)
    num = settings.size // 2
    modes = np.bincount(index.ravel(), minlength=num + 2)[1 : num + 1]
    return np.bincount(index.ravel(), weights=k.ravel(), minlength=num + 2)[1 : num + 1] / modes, modes


def _bins(mesh_size: int, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    waves = np.fft.fftfreq(mesh_size, 1.0 / mesh_size)
    k = np.sqrt(sum(axis**2 for axis in np.meshgrid(waves, waves, waves, indexing="ij")))
    return np.minimum(np.floor(k + 0.5).astype(np.int32), settings.size // 2 + 1), k * 2.0 * np.pi / settings.box


def power_spectrum(density: Array, settings: Settings, cloud_in_cell: bool = False) -> Array:
    """Power [(Mpc/h)^3] of a density (M, M, M) in the bins of `wavenumbers`.

    Args:
        density: of mean 1, or an overdensity.
        settings: box and bins.
        cloud_in_cell: divide by the window of that assignment on this mesh.
    """
    size = density.shape[0]
    amplitudes = jnp.fft.fftn(density) / size**3
    index, _ = _bins(size, settings)
    power = jnp.abs(amplitudes) ** 2 * settings.box**3
    if cloud_in_cell:
        window = jnp.sinc(jnp.fft.fftfreq(size)) ** 4
        power = power / (window[:, None, None] * window[:, None] * window)
    num = settings.size // 2
    sums = jnp.bincount(index.ravel(), weights=power.ravel(), length=num + 2)
    return (sums / np.bincount(index.ravel(), minlength=num + 2))[1 : num + 1]


@partial(jax.jit, static_argnames="settings")
def simulate(seed: int, omega_m: float, sigma_8: float, settings: Settings = Settings()) -> Simulation:
    """Maps and matter power spectrum of one simulation.

    Args:
        seed: of the initial field; the same seed has the same phases in every cosmology.
        omega_m: matter density parameter.
        sigma_8: rms of the linear overdensity in spheres of 8 Mpc/h at a = 1.
        settings: box, particles and steps.
    """
    field = initial_field(seed, omega_m, sigma_8, settings)
    displacement = evolve(field, omega_m, sigma_8, settings)
    fine = 2 * settings.size
    positions = 2.0 * particle_positions(displacement).reshape(-1, 3)
    density = 8.0 * deposit(*corners(positions, fine), fine**3).reshape((fine,) * 3)
    return Simulation(project(displacement, omega_m, settings), power_spectrum(density, settings, cloud_in_cell=True))
