"""Emulated CMB spectra, flat-sky Fourier powers, Gaussian components of a patch, and weak lensing."""

from bayesdiff.cosmology.emulator import cmb_spectrum
from bayesdiff.cosmology.flat_sky import (
    CMBPower,
    WhitePower,
    cmb_power,
    dust_cmb_noise_components,
    power_from_card,
)
from bayesdiff.cosmology.gaussian import simulate_gaussian, wiener_separation
from bayesdiff.cosmology.lensing import convergence_to_shear, shear_to_convergence

__all__ = [
    "CMBPower",
    "WhitePower",
    "cmb_power",
    "cmb_spectrum",
    "convergence_to_shear",
    "dust_cmb_noise_components",
    "power_from_card",
    "shear_to_convergence",
    "simulate_gaussian",
    "wiener_separation",
]
