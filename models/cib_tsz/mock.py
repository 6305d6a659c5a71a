r"""Mock skies of CIB at 95, 150 and 857 GHz and tSZ at 150 GHz, with halos of one density for both.

In each slice of the light cone a Gaussian field g has the power of the projected linear matter density. Halos of mass M
are a Poisson sample of n(M) exp(b g - b^2 <g^2> / 2), a lognormal density of bias b(M). Every halo above 10^12.2 solar
masses is there one by one: its galaxy and those of its satellites, each with its own luminosity and spectrum
(:mod:`models.cib_tsz.emission`), and, above 10^12.7, the pressure of its gas (:mod:`models.cib_tsz.pressure`). The
light of smaller halos, many in every pixel, is their mean under the same density with Gaussian shot noise.

The sky is painted on a periodic grid of 256 x 256 pixels of 1 arcmin, masked and low-passed as in the published work
(:mod:`models.cib_tsz.treatment`), and kept on 128 x 128 pixels of 2 arcmin.

Not in the mock: slices are independent of one another, clusters are round, radio galaxies, lensing and the kinetic SZ
effect are absent, nothing is nearer than z = 0.1.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from models.cib_tsz import emission, pressure
from models.cib_tsz.halos import ARCMIN, LightCone, light_cone
from models.cib_tsz.treatment import CIB_FREQUENCIES, Clusters, Sky, degrade, fill_masks, low_pass, multipoles

CHANNELS = ("cib_95", "cib_150", "cib_857", "tsz_150")
"""Maps of a mock in their order, all in micro-K of CMB temperature."""
SIZE, PIXEL_ARCMIN, OVERSAMPLING = 128, 2.0, 2
LOG_SMALLEST, LOG_SMALLEST_GAS = 12.2, 12.7
GROUP = 6
"""Mass bins that share a bias where halos are placed: 0.3 dex."""
LUMINOSITY_SCATTER, TEMPERATURE_SCATTER, INDEX_SCATTER, GAS_SCATTER = 0.4, 0.08, 0.15, 0.15
"""Of ln L, ln T and the spectral index (about 857 GHz) of a galaxy, and of ln y of a halo."""
FLUX_CUT = 2e-3
SIZE_STEP = 0.08
"""Clusters whose ln theta_500 agree to this are painted with one profile."""


class Sources(NamedTuple):
    """Points of light of a mock.

    Attributes:
        position: in pixels of the fine grid, (N, 2).
        redshift: (N,).
        luminosity: up to L_0, (N,).
    """

    position: np.ndarray
    redshift: np.ndarray
    luminosity: np.ndarray


def simulate(seed: int, index: int) -> np.ndarray:
    """Mock number ``index``: channels of :data:`CHANNELS`, periodic, (4, 128, 128) float32 [micro-K].

    Raises:
        ModuleNotFoundError: colossus is not installed.
    """
    rng = np.random.default_rng([seed, index])
    sky = paint(rng)
    pixel = PIXEL_ARCMIN / OVERSAMPLING * ARCMIN
    return degrade(low_pass(fill_masks(rng, sky, pixel), pixel), OVERSAMPLING).astype(np.float32)


def paint(rng: np.random.Generator) -> Sky:
    """The sky of one realisation of the density."""
    cone, size = light_cone(), SIZE * OVERSAMPLING
    pixel = PIXEL_ARCMIN / OVERSAMPLING * ARCMIN
    faint = np.zeros((len(CIB_FREQUENCIES), size, size))
    sources, clusters = [], []
    for number in range(len(cone.z)):
        g, variance = density(rng, cone, number, size, pixel)
        faint += faint_light(rng, cone, number, g, variance, pixel)
        some, gas = place_halos(rng, cone, number, g, variance, pixel)
        sources.append(some)
        clusters.append(gas)
    points = Sources(*(np.concatenate(column) for column in zip(*sources, strict=True)))
    found = Clusters(*(np.concatenate(column) for column in zip(*clusters, strict=True)))
    temperature = emission.dust_temperature(points.redshift)
    temperature *= np.exp(TEMPERATURE_SCATTER * rng.normal(size=temperature.shape))
    index = INDEX_SCATTER * rng.normal(size=temperature.shape)
    cell = np.floor(points.position).astype(int) % size
    flat = cell[:, 0] * size + cell[:, 1]
    maps, bright = [], np.zeros(len(flat), dtype=bool)
    for channel, nu in enumerate(CIB_FREQUENCIES):
        flux = points.luminosity * _flux_per_luminosity(cone, nu, points.redshift, temperature)
        flux *= (nu / CIB_FREQUENCIES[-1]) ** index
        light = np.bincount(flat, weights=flux, minlength=size**2).reshape(size, size) / pixel**2 + faint[channel]
        maps.append(1e6 * light / emission.jy_per_kelvin(nu))
        if nu == 150:
            bright = flux > FLUX_CUT
    maps.append(1e6 * emission.tsz_kelvin(150.0) * compton_y(found, size, pixel))
    return Sky(np.stack(maps), cell[bright], found)


def density(
    rng: np.random.Generator, cone: LightCone, number: int, size: int, pixel: float
) -> tuple[np.ndarray, float]:
    """Gaussian projected density contrast of a slice, (size, size), and its variance."""
    ell = multipoles(size, pixel)
    # The mean of the patch varies as waves of its size do.
    ell[0, 0] = ell[0, 1]
    power = np.exp(np.interp(np.log(ell), np.log(cone.multipoles), np.log(cone.matter_power[number]))) / pixel**2
    white = np.fft.fft2(rng.normal(size=(size, size)))
    return np.fft.ifft2(np.sqrt(power) * white).real, float(power.mean())


def luminosity_scale(cone: LightCone) -> float:
    """L_0: the flux [Jy] of unit luminosity at unit comoving distance [Mpc], from the mean CIB at 857 GHz."""
    mass = 10.0**cone.log_mass
    light = (emission.galaxy_luminosity(mass) + emission.satellites(mass)[1]) * emission.evolution(cone.z)[:, None]
    seen = emission.spectrum(857.0, cone.z, emission.dust_temperature(cone.z)) / (cone.chi**2 * (1.0 + cone.z))
    return emission.MEAN_857 / float(np.sum(cone.density * light * seen[:, None]))


@lru_cache(maxsize=1)
def _scale() -> float:
    return luminosity_scale(light_cone())


def _flux_per_luminosity(cone: LightCone, nu: float, z: np.ndarray, temperature: np.ndarray) -> np.ndarray:
    chi = np.interp(z, cone.z, cone.chi)
    return _scale() * emission.spectrum(nu, z, temperature) / (chi**2 * (1.0 + z))


def faint_light(
    rng: np.random.Generator, cone: LightCone, number: int, g: np.ndarray, variance: float, pixel: float
) -> np.ndarray:
    """Brightness [Jy/sr] of the halos too small to be there one by one, by frequency, (3, n, n)."""
    small = cone.log_mass < LOG_SMALLEST
    z = cone.z[[number]]
    each = emission.galaxy_luminosity(10.0 ** cone.log_mass[small]) * emission.evolution(z)
    expected = cone.density[number, small] * pixel**2
    light = each @ expected
    bias = float((each * cone.bias[number, small]) @ expected / light)
    bright = np.exp(bias * g - 0.5 * bias**2 * variance)
    shot = np.sqrt((each**2) @ expected * np.exp(LUMINOSITY_SCATTER**2) * bright) * rng.normal(size=g.shape)
    temperature = emission.dust_temperature(z)
    per_luminosity = [_flux_per_luminosity(cone, nu, z, temperature)[0] for nu in CIB_FREQUENCIES]
    return np.array(per_luminosity)[:, None, None] * (light * bright + shot) / pixel**2


def place_halos(
    rng: np.random.Generator, cone: LightCone, number: int, g: np.ndarray, variance: float, pixel: float
) -> tuple[Sources, Clusters]:
    """The larger halos of a slice: galaxies with those of their satellites, and gas.

    Args:
        rng: of all random numbers.
        cone: tables of the light cone.
        number: of the slice.
        g: its Gaussian density contrast, (n, n).
        variance: of that.
        pixel: side of a pixel [rad].
    """
    large = np.flatnonzero(cone.log_mass >= LOG_SMALLEST)
    log_mass, position = _sample(rng, cone, number, large, g, variance, pixel)
    mass, z = 10.0**log_mass, float(cone.z[number])
    number_of, light_of = emission.satellites(10.0 ** cone.log_mass[large])
    mean_number = np.interp(log_mass, cone.log_mass[large], number_of)
    host = np.repeat(np.arange(len(mass)), rng.poisson(mean_number))
    mean_light = np.exp(np.interp(log_mass, cone.log_mass[large], np.log(light_of))) / mean_number
    r200 = cone.angle(_at(cone, cone.r200[number], log_mass), number) / pixel
    places = np.concatenate([position, position[host] + _inside(rng, len(host)) * r200[host, None]])
    light = np.concatenate([emission.galaxy_luminosity(mass), mean_light[host]]) * emission.evolution(np.array(z))
    light *= _lognormal(rng, LUMINOSITY_SCATTER, len(light))
    gas = log_mass >= LOG_SMALLEST_GAS
    m500 = _at(cone, cone.m500[number], log_mass[gas])
    r500 = _at(cone, cone.r500[number], log_mass[gas])
    amplitude = pressure.amplitude(m500, r500, cone.efunc[number], cone.h) * _lognormal(rng, GAS_SCATTER, len(m500))
    clusters = Clusters(position[gas], amplitude, cone.angle(r500, number), m500)
    return Sources(places, np.full(len(places), z), light), clusters


def _sample(
    rng: np.random.Generator,
    cone: LightCone,
    number: int,
    large: np.ndarray,
    g: np.ndarray,
    variance: float,
    pixel: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Masses log10 M_200c (N,) and positions (N, 2) of the halos of the mass bins ``large``."""
    size, step = len(g), cone.log_mass[1] - cone.log_mass[0]
    log_mass, position = [], []
    for group in np.split(large, np.arange(GROUP, len(large), GROUP)):
        expected = cone.density[number, group] * (size * pixel) ** 2
        total = expected.sum()
        bias = float(cone.bias[number, group] @ expected / total)
        # The number follows the density too: its variance is beyond Poisson's.
        weight = np.cumsum(np.exp(bias * g - 0.5 * bias**2 * variance).ravel())
        found = rng.poisson(total * weight[-1] / size**2)
        cell = np.searchsorted(weight, rng.uniform(0.0, weight[-1], found))
        within = rng.uniform(size=(found, 2))
        position.append(np.stack(np.unravel_index(np.minimum(cell, size**2 - 1), g.shape), axis=1) + within)
        edges = np.append(0.0, np.cumsum(expected))
        positions = cone.log_mass[group[0]] + step * (np.arange(len(edges)) - 0.5)
        log_mass.append(np.interp(rng.uniform(0.0, edges[-1], found), edges, positions))
    return np.concatenate(log_mass), np.concatenate(position)


def _at(cone: LightCone, column: np.ndarray, log_mass: np.ndarray) -> np.ndarray:
    return np.exp(np.interp(log_mass, cone.log_mass, np.log(column)))


def _lognormal(rng: np.random.Generator, scatter: float, num: int) -> np.ndarray:
    """Factors of mean one."""
    return np.exp(scatter * rng.normal(size=num) - 0.5 * scatter**2)


def _inside(rng: np.random.Generator, num: int) -> np.ndarray:
    """Projected places in an isothermal sphere of unit radius, (num, 2)."""
    direction = rng.normal(size=(num, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return (rng.uniform(size=(num, 1)) * direction)[:, :2]


def compton_y(clusters: Clusters, size: int, pixel: float) -> np.ndarray:
    """Map of Compton y on a periodic grid of ``pixel`` [rad], (size, size)."""
    ell = multipoles(size, pixel)[:, : size // 2 + 1]
    kinds = np.rint(np.log(clusters.theta) / SIZE_STEP).astype(int)
    total = np.zeros(ell.shape, dtype=complex)
    for kind in np.unique(kinds):
        those = kinds == kind
        theta = np.exp(kind * SIZE_STEP)
        # At equal integrated y: the profile is as if of size theta, its amplitude makes up for the difference.
        weight = clusters.amplitude[those] * (clusters.theta[those] / theta) ** 2
        cell = np.floor(clusters.position[those]).astype(int) % size
        points = np.bincount(cell[:, 0] * size + cell[:, 1], weights=weight, minlength=size**2).reshape(size, size)
        total += np.fft.rfft2(points) * theta**2 * pressure.transform(ell * theta)
    return np.fft.irfft2(total, s=(size, size)) / pixel**2
