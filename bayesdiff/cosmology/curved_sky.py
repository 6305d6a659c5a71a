r"""The flat-sky approximation put to the test: patches of a curved sky, simulated with pixell.

A Gaussian sky is drawn from C_ell in spherical harmonics and looked at through a small cylindrical (plate carree) patch
on the equator, with the pixels of the flat model; such a cut is not periodic. The patch is apodised by a window w, and
the mean of its Fourier power is compared with what the flat model predicts for the same pixels and window,

.. math:: E |\mathcal{F}(w x)_k|^2 = \sum_{k'} |\tilde w_{k - k'}|^2 P(k'),

evaluated on a periodic patch eight times larger. Both see the same window and cut, so only the curvature is left. Waves
longer than two patches are left out of both: the periodic model does not describe them, they leak through any window,
and all patches of a sky share them.
"""

from __future__ import annotations

import numpy as np

from bayesdiff.cosmology.emulator import LMIN, cmb_spectrum
from bayesdiff.cosmology.flat_sky import ARCMIN, cmb_power, patch_multipoles

_PADDING = 8
# Bins stop where power beyond the Nyquist frequency, folded back, is still below 0.5 % behind the beam.
_LARGEST_SHARE_OF_NYQUIST = 0.8


def simulate_curved_patches(
    seed: int, spectrum: np.ndarray, num: int, size: int, pixel_arcmin: float, beam_fwhm_arcmin: float = 0.0
) -> np.ndarray:
    """Patches of Gaussian curved skies, centred on the equator and a patch width apart from each other.

    Args:
        seed: of the first sky; sky i has ``seed + i``.
        spectrum: C_ell [muK^2] for ell = 0, ..., lmax.
        num: number of patches.
        size: pixels per side.
        pixel_arcmin: side of a pixel [arcmin], a divisor of 180 degrees.
        beam_fwhm_arcmin: Gaussian beam [arcmin].

    Returns:
        Temperature [muK], shape (num, size, size).

    Raises:
        ValueError: the pixels do not tile the sphere.
    """
    from pixell import curvedsky, enmap, utils

    if abs(180 * 60 / pixel_arcmin - round(180 * 60 / pixel_arcmin)) > 1e-9:
        raise ValueError(f"pixel_arcmin must divide 180 degrees to tile the sphere; got {pixel_arcmin}.")
    (rows, columns), wcs = enmap.fullsky_geometry(res=pixel_arcmin * utils.arcmin)
    first_row = (rows - size) // 2
    shape, wcs = enmap.slice_geometry((rows, columns), wcs, np.s_[first_row : first_row + size, :])
    ells = np.arange(len(spectrum))
    beam_sigma = beam_fwhm_arcmin * ARCMIN / np.sqrt(8.0 * np.log(2.0))
    beamed = spectrum * np.exp(-ells * (ells + 1.0) * beam_sigma**2)
    patches: list[np.ndarray] = []
    while len(patches) < num:
        harmonics = curvedsky.rand_alm(beamed, lmax=len(spectrum) - 1, seed=seed)
        equator = np.asarray(curvedsky.alm2map(harmonics, enmap.zeros(shape, wcs)))
        patches += [equator[:, start : start + size] for start in range(0, columns - 2 * size + 1, 2 * size)]
        seed += 1
    return np.stack(patches[:num])


def sine_window(size: int) -> np.ndarray:
    """Window that falls smoothly to zero at the sides, of unit mean square, shape (size, size)."""
    profile = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
    window = profile[:, None] * profile[None, :]
    return window / np.sqrt(np.mean(window**2))


def windowed_flat_power(power: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Exact expected Fourier power of a windowed cut from a larger periodic Gaussian field.

    Args:
        power: orthonormal power of the periodic field, shape (m N, m N) with m an integer.
        window: window on the cut, shape (N, N).

    Returns:
        E |fft2(window * cut, norm="ortho")|^2, shape (N, N).
    """
    size, large = window.shape[0], power.shape[0]
    padded = np.zeros_like(power)
    padded[:size, :size] = window
    # The circular convolution of |w_k|^2 with P is a product of correlation functions.
    correlation = np.real(np.fft.ifft2(np.abs(np.fft.fft2(padded)) ** 2)) * np.real(np.fft.ifft2(power))
    expected = np.real(np.fft.fft2(correlation)) / size**2
    return expected[:: large // size, :: large // size]


def curved_sky_check(
    H0: float = 67.4,
    omega_b: float = 0.0224,
    size: int = 64,
    pixel_arcmin: float = 8.0,
    num: int = 200,
    num_bins: int = 10,
    seed: int = 1,
) -> dict[str, np.ndarray]:
    """Mean power of windowed curved-sky patches against the flat-sky prediction, in bins of multipole.

    Both have a beam of two pixels, which keeps what lies beyond the Nyquist frequency from folding back into the bins.

    Args:
        H0: Hubble constant [km/s/Mpc].
        omega_b: Omega_b h^2.
        size: pixels per side.
        pixel_arcmin: side of a pixel [arcmin].
        num: number of patches.
        num_bins: bins of equal width, from half the fundamental mode to 0.8 of the Nyquist frequency.
        seed: of the first sky.

    Returns:
        Table with columns ``ell`` (mean multipole of the bin), ``curved`` and ``flat`` (mean power [muK^2 per pixel]),
        ``ratio`` (curved over flat) and ``standard_error`` of the ratio, from the scatter over patches.
    """
    beam = 2.0 * pixel_arcmin
    ells = patch_multipoles((size, size), pixel_arcmin)
    ell_min = 0.5 * ells[0, 1]
    spectrum = np.concatenate([np.zeros(LMIN), np.asarray(cmb_spectrum(H0, omega_b), float)])
    spectrum[: int(np.ceil(ell_min))] = 0.0
    patches = simulate_curved_patches(seed, spectrum, num, size, pixel_arcmin, beam)
    window = sine_window(size)
    measured = np.abs(np.fft.fft2(patches * window, norm="ortho")) ** 2
    large = (_PADDING * size, _PADDING * size)
    flat = np.asarray(cmb_power(H0, omega_b, large, pixel_arcmin, beam, normalise=False), float)
    predicted = windowed_flat_power(np.where(patch_multipoles(large, pixel_arcmin) >= ell_min, flat, 0.0), window)

    edges = np.linspace(ell_min, _LARGEST_SHARE_OF_NYQUIST * ells[0, size // 2], num_bins + 1)
    bins = np.digitize(ells, edges) - 1
    columns: dict[str, list[float]] = {"ell": [], "curved": [], "flat": [], "ratio": [], "standard_error": []}
    for index in range(num_bins):
        inside = bins == index
        curved, expected = measured[:, inside].mean(axis=1), predicted[inside].mean()
        columns["ell"].append(ells[inside].mean())
        columns["curved"].append(curved.mean())
        columns["flat"].append(expected)
        columns["ratio"].append(curved.mean() / expected)
        columns["standard_error"].append(curved.std(ddof=1) / np.sqrt(num) / expected)
    return {name: np.array(values) for name, values in columns.items()}
