"""Gaussian fields of known power, and the check of a mean against its truth, for the tests of field statistics."""

from __future__ import annotations

import numpy as np

from bayesdiff.fields import wavenumbers


def red_power(shape: tuple[int, int], amplitude: float = 10.0, slope: float = -3.0) -> np.ndarray:
    """Orthonormal power amplitude |k|^slope of every mode, without the mean."""
    k = wavenumbers(shape)
    return np.where(k > 0, amplitude * np.maximum(k, 1.0) ** slope, 0.0)


def gaussian_fields(seed: int, power: np.ndarray, batch: tuple[int, ...]) -> np.ndarray:
    """Fields (*batch, height, width) of this power, made with NumPy alone."""
    white = np.random.default_rng(seed).standard_normal((*batch, *power.shape))
    return np.fft.ifft2(np.sqrt(power) * np.fft.fft2(white)).real


def z_of_mean(samples, truth) -> np.ndarray:
    """(mean - truth) over the standard error, samples on the first axis."""
    samples = np.asarray(samples, dtype=float)
    return (samples.mean(0) - truth) / (samples.std(0, ddof=1) / np.sqrt(len(samples)))
