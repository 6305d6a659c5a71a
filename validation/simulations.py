"""The matter power spectrum of the simulations against halofit.

Halofit is that of Mead et al. (2021, arXiv:2009.01858), from CAMB. Two comparisons, because no range of the maps'
box allows a sharp one:

* The same code with the same particles, mesh and steps in a box of 200 Mpc/h, from its sixth mode to an eighth of the
  particles' Nyquist wavenumber: below, few modes and the variance of the box; above, the forces of the mesh lack what
  clouds in cells smooth away.
* The CV set, in its box of 25 Mpc/h, per bin. It is expected to have less power than halofit. Waves longer than the box
  are missing: their linear variance is 0.6 and they are as large as the shortest of them, so they would have coupled to
  everything in it. At the upper end the mesh smooths, as above.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from models.density_fields.sets import FIDUCIAL
from models.density_fields.simulator import HUBBLE, OMEGA_B, SPECTRAL_INDEX, Settings, simulate, wavenumbers
from validation.figures import Figure, below

FOLDER = Path("build/density_fields")
LARGE = Settings(box=200.0)
NUM_LARGE = 8


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
    parameters.set_matter_power(redshifts=[0.0], kmax=1.5 * float(np.max(k)))
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
    expected = halofit(k, FIDUCIAL["Omega_m"], FIDUCIAL["sigma_8"])
    linear = halofit(k, FIDUCIAL["Omega_m"], FIDUCIAL["sigma_8"], nonlinear=False)
    ratio = powers.mean(axis=0) / expected
    error = powers.std(axis=0, ddof=1) / expected / np.sqrt(len(powers))
    table = Table("k [h/Mpc]", "P / halofit", "standard error", "halofit / linear", title=title)
    for row in zip(k, ratio, error, expected / linear, strict=True):
        table.add_row(*(f"{value:.3f}" for value in row))
    Console().print(table)
    return ratio, error


def run(folder: Path = FOLDER) -> list[Figure]:
    """All figures of this study; needs the CV set, ``python -m models simulate --set CV``."""
    with np.load(folder / "spectra_CV_JaxPM.npz", allow_pickle=False) as file:
        k, powers = file["k"], file["power"]
    small, small_error = ratio_to_halofit(k, powers, f"{len(powers)} simulations of the CV set, 25 Mpc/h")

    large_k, _ = wavenumbers(LARGE)
    fiducial = FIDUCIAL["Omega_m"], FIDUCIAL["sigma_8"]
    large = np.stack([np.asarray(simulate(seed, *fiducial, LARGE).power) for seed in range(NUM_LARGE)])
    ratio, error = ratio_to_halofit(large_k, large, f"{NUM_LARGE} simulations of a box of 200 Mpc/h")
    resolved = np.arange(len(large_k)) < len(large_k) // 8
    worst = int(np.argmax(np.where(resolved, np.abs(ratio - 1.0), 0.0)))
    middle = int(np.argmin(np.abs(k - 1.0)))
    return [
        below(
            f"largest |P / halofit - 1| in a box of 200 Mpc/h, k < {large_k[resolved][-1]:.2f} h/Mpc",
            abs(ratio[worst] - 1.0), 0.1,
        ),
        Figure("its standard error", float(error[worst])),
        Figure("CV set: P / halofit at the box's first mode, k = 0.32 h/Mpc", float(small[0])),
        Figure("its standard error ", float(small_error[0]), detail=True),
        Figure("CV set: P / halofit at k = 1 h/Mpc, without the waves longer than the box", float(small[middle])),
        Figure("CV set: P / halofit at half the Nyquist wavenumber, 4 h/Mpc", float(small[len(k) // 2 - 1])),
    ]  # fmt: skip
