"""Emulated CMB spectra, flat-sky Fourier powers and Gaussian components of a patch."""

from bayesdiff.cosmology.emulator import cmb_spectrum
from bayesdiff.cosmology.flat_sky import (
    CMBPower,
    WhitePower,
    cmb_power,
    dust_cmb_noise_components,
    power_from_card,
)
from bayesdiff.cosmology.gaussian import simulate_gaussian, wiener_separation

__all__ = [
    "CMBPower",
    "WhitePower",
    "cmb_power",
    "cmb_spectrum",
    "dust_cmb_noise_components",
    "power_from_card",
    "simulate_gaussian",
    "wiener_separation",
]
