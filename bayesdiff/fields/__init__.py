"""Statistics of flat-sky fields: spectra, morphology, moments, polyspectra, peaks, ensembles, distances of patches."""

from __future__ import annotations

from bayesdiff.fields.ensembles import ChiSquare, EnsembleSummary, reduced_chi_square, summarise_ensemble
from bayesdiff.fields.filters import gaussian_smooth
from bayesdiff.fields.gaussian import matched_gaussian
from bayesdiff.fields.moments import Moments, banded_moments, moments
from bayesdiff.fields.morphology import (
    Histogram,
    MinkowskiFunctionals,
    gaussian_minkowski_functionals,
    histogram,
    minkowski_functionals,
)
from bayesdiff.fields.patches import nearest_patch_distance, regrid
from bayesdiff.fields.peaks import PeakProfiles, find_peaks, peak_profiles, pool_peak_profiles
from bayesdiff.fields.polyspectra import BandedCumulant, collapsed_bispectrum, collapsed_trispectrum
from bayesdiff.fields.spectra import (
    Correlation,
    Spectrum,
    cross_correlation,
    cross_spectrum,
    power_spectrum,
    spectral_matrix,
    wavenumbers,
)

__all__ = [
    "BandedCumulant",
    "ChiSquare",
    "Correlation",
    "EnsembleSummary",
    "Histogram",
    "MinkowskiFunctionals",
    "Moments",
    "PeakProfiles",
    "Spectrum",
    "banded_moments",
    "collapsed_bispectrum",
    "collapsed_trispectrum",
    "cross_correlation",
    "cross_spectrum",
    "find_peaks",
    "gaussian_minkowski_functionals",
    "gaussian_smooth",
    "histogram",
    "matched_gaussian",
    "minkowski_functionals",
    "moments",
    "nearest_patch_distance",
    "peak_profiles",
    "pool_peak_profiles",
    "power_spectrum",
    "reduced_chi_square",
    "regrid",
    "spectral_matrix",
    "summarise_ensemble",
    "wavenumbers",
]
