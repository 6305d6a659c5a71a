r"""What halos emit: the spectrum of the tSZ effect, and the infrared light of galaxies.

The luminosity of a galaxy in a (sub)halo of mass m is that of Shang et al. (2012, arXiv:1109.1522) with the numbers of
Planck 2013 XXX (arXiv:1309.0382),

.. math:: L_\nu = L_0 (1 + z)^{3.6} \, m \, e^{-(\log_{10} m / m_{\rm eff})^2 / 2 \sigma^2} \, \phi(x) \bar T / T,
          \qquad x = h \nu (1 + z) / k T,

phi a greybody x^(3 + beta) / (e^x - 1) that goes over into a power law where it falls as steeply, T the dust
temperature about a mean that rises as (1 + z)^0.36. Scatter of T at given total luminosity, and galaxies of different
redshift, decorrelate the frequencies.
"""

from __future__ import annotations

import numpy as np

T_CMB = 2.7255
H_OVER_K = 4.799243073e-11
"""Planck's constant over Boltzmann's [K s]."""
BETA, GAMMA = 1.75, 1.7
DUST_TEMPERATURE, TEMPERATURE_EVOLUTION = 24.4, 0.36
EVOLUTION = 3.6
LOG_EFFECTIVE_MASS, LOG_MASS_VARIANCE = 12.6, 0.5
MEAN_857 = 0.576e6
"""Mean CIB at 857 GHz [Jy/sr] that sets L_0 (Planck 2013 XXX, table 10)."""


def frequency_ratio(nu_ghz: float) -> float:
    """The ratio h nu / k T_CMB."""
    return H_OVER_K * 1e9 * nu_ghz / T_CMB


def jy_per_kelvin(nu_ghz: float) -> float:
    """dB/dT of a black body at the temperature of the CMB: [Jy/sr] for a kelvin of CMB temperature."""
    x = frequency_ratio(nu_ghz)
    # 2 h nu^3 / c^2 in Jy/sr.
    brightness = 2.0 * 6.62607015e-34 * (1e9 * nu_ghz) ** 3 / 299792458.0**2 * 1e26
    return brightness * x * np.exp(x) / np.expm1(x) ** 2 / T_CMB


def tsz_kelvin(nu_ghz: float) -> float:
    """Temperature of the tSZ effect for unit Compton y, T_CMB (x coth(x / 2) - 4) [K_CMB]; negative below 217 GHz."""
    x = frequency_ratio(nu_ghz)
    return float(T_CMB * (x / np.tanh(0.5 * x) - 4.0))


def _break() -> float:
    """Where the greybody falls as x^-gamma: 3 + beta + gamma = x / (1 - e^-x)."""
    x = 3.0 + BETA + GAMMA
    for _ in range(50):
        x = (3.0 + BETA + GAMMA) * -np.expm1(-x)
    return float(x)


BREAK = _break()


def greybody(x: np.ndarray) -> np.ndarray:
    """phi(x), of value one at its maximum, of any shape."""
    top = 3.0 + BETA
    for _ in range(50):
        top = (3.0 + BETA) * -np.expm1(-top)
    inside = np.minimum(x, BREAK)
    shape = inside ** (3.0 + BETA) / np.expm1(inside) * (np.maximum(x, BREAK) / BREAK) ** -GAMMA
    return shape / (top ** (3.0 + BETA) / np.expm1(top))


def dust_temperature(z: np.ndarray) -> np.ndarray:
    """Mean dust temperature at redshift z [K]."""
    return DUST_TEMPERATURE * (1.0 + np.asarray(z)) ** TEMPERATURE_EVOLUTION


def spectrum(nu_ghz: float, z: np.ndarray, temperature: np.ndarray) -> np.ndarray:
    """phi(x) T-bar / T: observed shape at a frequency, normalised so that the total does not depend on T."""
    x = H_OVER_K * 1e9 * nu_ghz * (1.0 + np.asarray(z)) / temperature
    return greybody(x) * dust_temperature(z) / temperature


def galaxy_luminosity(mass: np.ndarray) -> np.ndarray:
    """Luminosity of the galaxy of a (sub)halo [solar masses], up to L_0 and the evolution."""
    distance = np.log10(mass) - LOG_EFFECTIVE_MASS
    return mass * np.exp(-(distance**2) / (2.0 * LOG_MASS_VARIANCE))


def evolution(z: np.ndarray) -> np.ndarray:
    """(1 + z)^3.6."""
    return (1.0 + np.asarray(z)) ** EVOLUTION


def satellites(mass: np.ndarray, smallest: float = 10**11.3) -> tuple[np.ndarray, np.ndarray]:
    """Mean number of satellites of a halo and their mean luminosity together, of the shape of ``mass``.

    From the subhalo mass function of Tinker & Wetzel (2010, arXiv:0909.1325), dN/dln m = 0.3 r^-0.7 exp(-9.9 r^2.5),
    r = m / M.

    Args:
        mass: of the halos [solar masses].
        smallest: mass of a subhalo that has a galaxy.
    """
    log_m = np.linspace(np.log(smallest), np.log(1e16), 400)
    ratio = np.exp(log_m) / np.asarray(mass)[..., None]
    number = np.where(ratio < 1.0, 0.3 * ratio**-0.7 * np.exp(-9.9 * np.minimum(ratio, 1.0) ** 2.5), 0.0)
    step = log_m[1] - log_m[0]
    return number.sum(axis=-1) * step, (number * galaxy_luminosity(np.exp(log_m))).sum(axis=-1) * step
