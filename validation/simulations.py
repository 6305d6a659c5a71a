"""The matter power spectrum of the simulations against halofit.

Halofit is that of Mead et al. (2021, arXiv:2009.01858), from CAMB. The CV set cannot be expected to meet it: no wave
longer than its box of 25 Mpc/h is in it. In the fiducial cosmology the linear variance of those is 0.69, so that with
them everything in the box would have grown further; the power is lower by half, at all wavenumbers. That is a property
of the box, as of every simulation of that size. Therefore two comparisons:

* The same code with the same particles, mesh and steps in boxes of 50, 100 and 200 Mpc/h. In the largest the variance
  of what is missing is 0.01, and halofit is required, from the third mode, where sampling errors are 5 %, to a quarter
  of the particles' Nyquist wavenumber. The bound is what the mesh costs there: clouds in cells, laid down and read,
  weaken forces by sinc^4(pi / 8), 10 %.
* The CV set, in the same range of its box and per bin, with sampling errors.

The power at a quarter of the Nyquist wavenumber, where all boxes lose the same to the mesh, is reported for each box.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from models.density_fields.data import BOX
from models.density_fields.sets import FIDUCIAL
from models.density_fields.simulator import HUBBLE, OMEGA_B, SPECTRAL_INDEX, Settings, simulate, wavenumbers
from validation.figures import Figure, below

FOLDER = Path("build/density_fields")
FIDUCIAL_POINT = FIDUCIAL["Omega_m"], FIDUCIAL["sigma_8"]
NUM_OF_BOX = {50.0: 4, 100.0: 4, 200.0: 8}
FIRST_BIN = 2
BOUND = 0.15


def halofit(k: np.ndarray, omega_m: float, sigma_8: float, nonlinear: bool = True) -> np.ndarray:
    """Matter power [(Mpc/h)^3] at a = 1, from CAMB, of massless neutrinos.

    Args:
        k: wavenumbers [h/Mpc].
        omega_m: matter density parameter.
        sigma_8: normalisation of the linear spectrum.
        nonlinear: halofit, else the linear spectrum.
    """
    import camb

    parameters = camb.set_params(
        H0=100.0 * HUBBLE, ombh2=OMEGA_B * HUBBLE**2, omch2=(omega_m - OMEGA_B) * HUBBLE**2, ns=SPECTRAL_INDEX,
        mnu=0.0, omk=0.0, As=2e-9, halofit_version="mead2020",
    )  # fmt: skip
    parameters.set_matter_power(redshifts=[0.0], kmax=max(20.0, 1.5 * float(np.max(k))))
    amplitude = 2e-9 * (sigma_8 / camb.get_results(parameters).get_sigma8_0()) ** 2
    parameters.InitPower.set_params(As=amplitude, ns=SPECTRAL_INDEX)
    results = camb.get_results(parameters)
    interpolator: Any = results.get_matter_power_interpolator(nonlinear=nonlinear, hubble_units=True, k_hunit=True)
    return np.array([float(interpolator.P(0.0, one)) for one in k])


def ratio_to_halofit(k: np.ndarray, powers: np.ndarray, title: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean power over halofit and its standard error, printed per bin.

    Args:
        k: wavenumbers [h/Mpc], (B,).
        powers: of simulations of the fiducial cosmology [(Mpc/h)^3], (N, B).
        title: of the table.
    """
    expected = halofit(k, *FIDUCIAL_POINT)
    linear = halofit(k, *FIDUCIAL_POINT, nonlinear=False)
    ratio = powers.mean(axis=0) / expected
    error = powers.std(axis=0, ddof=1) / expected / np.sqrt(len(powers))
    table = Table("k [h/Mpc]", "P / halofit", "standard error", "halofit / linear", title=title)
    for row in zip(k, ratio, error, expected / linear, strict=True):
        table.add_row(*(f"{value:.3f}" for value in row))
    Console().print(table)
    return ratio, error


def box_spectra(box: float, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Wavenumbers [h/Mpc] and power [(Mpc/h)^3], (num, B), of fiducial simulations of another box [Mpc/h]."""
    settings = Settings(box=box)
    k, _ = wavenumbers(settings)
    return k, np.stack([np.asarray(simulate(seed, *FIDUCIAL_POINT, settings).power) for seed in range(num)])


def run(folder: Path = FOLDER) -> list[Figure]:
    """All figures of this study; needs the CV set, ``python -m models simulate --set CV``."""
    with np.load(folder / "spectra_CV_JaxPM.npz", allow_pickle=False) as file:
        spectra = {BOX: (file["k"], file["power"])}
    spectra |= {box: box_spectra(box, num) for box, num in NUM_OF_BOX.items()}
    figures, quarters = [], []
    for box, (k, powers) in spectra.items():
        ratio, error = ratio_to_halofit(k, powers, f"{len(powers)} simulations of a box of {box:g} Mpc/h")
        quarter = len(k) // 4 - 1
        quarters.append(
            Figure(
                f"P / halofit at a quarter of Nyquist, {k[quarter]:.2f} h/Mpc, box of {box:g} Mpc/h",
                f"{ratio[quarter]:.3f} +- {error[quarter]:.3f}",
            )
        )
        worst = FIRST_BIN + int(np.argmax(np.abs(ratio - 1.0)[FIRST_BIN : quarter + 1]))
        scales = f"box of {box:g} Mpc/h, k = {k[FIRST_BIN]:.2f} to {k[quarter]:.2f} h/Mpc"
        name = f"largest |P / halofit - 1|, {scales}"
        deviation = float(abs(ratio[worst] - 1.0))
        if box == max(spectra):
            figures.append(below(name, deviation, BOUND))
        elif box == BOX:
            figures.append(Figure(f"{name} (the CV set)", deviation))
        else:
            continue
        figures.append(Figure(f"its sampling error, {scales}", float(error[worst]), detail=True))
    return figures + quarters
