"""The CMB emulator against CAMB, and the flat sky against the curved one.

Required: error below 0.5 % at the 95th percentile for every multipole up to 1,500 on 200 spectra that were not used in
training, 10,000 times the speed of CAMB per spectrum when batched, gradients within 2 % of finite differences of CAMB.
"""

from __future__ import annotations

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from bayesdiff.cosmology import cmb_spectrum
from bayesdiff.cosmology.camb_table import build_table, camb_spectrum
from bayesdiff.cosmology.curved_sky import curved_sky_check
from bayesdiff.cosmology.emulator import LMIN
from validation.figures import Figure, above, below

# Away from the edges, where a central difference would leave the box.
GRADIENT_POINTS = ((67.4, 0.0224), (55.0, 0.012), (85.0, 0.050), (75.0, 0.035))
GRADIENT_STEPS = {"H0": 0.5, "omega_b": 0.0003}
GRADIENT_ELLS = np.array([50, 150, 220, 400, 540, 700, 800, 1000, 1200, 1500])


def _accuracy(folder: Path) -> dict[str, float]:
    parameters, spectra = build_table(folder, "test")
    emulated = np.asarray(cmb_spectrum(parameters[:, 0], parameters[:, 1]), float)
    error = np.abs(emulated / spectra[:, LMIN:] - 1)
    percentile = np.percentile(error, 95, axis=0)
    end = 1500 - LMIN + 1
    return {
        "num_spectra": float(len(error)),
        "p95_worst_ell_to_1500": float(percentile[:end].max()),
        "p95_worst_ell_to_2500": float(percentile.max()),
        "median_to_1500": float(np.median(error[:, :end])),
        "max_to_1500": float(error[:, :end].max()),
    }


def _speed(batch: int = 4096, repeats: int = 5) -> dict[str, float]:
    camb_spectrum(70.0, 0.0224)
    start = time.perf_counter()
    for H0 in (60.0, 70.0, 80.0):
        camb_spectrum(H0, 0.0224)
    camb_seconds = (time.perf_counter() - start) / 3
    H0, omega_b = jnp.linspace(50.0, 90.0, batch), jnp.linspace(0.0075, 0.0567, batch)
    batched = jax.jit(cmb_spectrum)
    batched(H0, omega_b).block_until_ready()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        batched(H0, omega_b).block_until_ready()
        times.append(time.perf_counter() - start)
    emulator_seconds = float(np.median(times)) / batch
    return {
        "camb_seconds": camb_seconds,
        "emulator_seconds": emulator_seconds,
        "speed_ratio": camb_seconds / emulator_seconds,
    }


def _gradient_error() -> dict[str, float]:
    """Largest error of d log C_ell over the chosen multipoles, in units of the largest derivative among them."""
    jacobian = jax.jit(jax.jacfwd(lambda point: jnp.log(cmb_spectrum(point[0], point[1]))))
    worst = dict.fromkeys(GRADIENT_STEPS, 0.0)
    for point in GRADIENT_POINTS:
        derivative = np.asarray(jacobian(jnp.array(point)))[GRADIENT_ELLS - LMIN]
        for axis, (name, step) in enumerate(GRADIENT_STEPS.items()):
            move = step * np.eye(2)[axis]
            upper, lower = (np.log(camb_spectrum(*(point + sign * move))[GRADIENT_ELLS]) for sign in (1, -1))
            difference = (upper - lower) / (2 * step)
            error = np.abs(derivative[:, axis] - difference).max() / np.abs(difference).max()
            worst[name] = max(worst[name], float(error))
    return {f"gradient_error_{name}": value for name, value in worst.items()}


def emulator_table(folder: Path | str = Path("build/camb")) -> dict[str, float]:
    """Measure the emulator and print the figures beside what is required.

    Args:
        folder: of the CAMB spectra kept out of training; the missing ones are computed (a few seconds each).

    Returns:
        The figures by name: relative errors as fractions, times in seconds.
    """
    figures = _accuracy(Path(folder)) | _speed() | _gradient_error()
    table = Table(
        "figure", "measured", "required", title=f"CMB emulator on {figures['num_spectra']:.0f} held-out spectra"
    )
    table.add_row("error, 95th percentile, worst ell to 1,500", f"{figures['p95_worst_ell_to_1500']:.3%}", "< 0.5 %")
    table.add_row("error, 95th percentile, worst ell to 2,500", f"{figures['p95_worst_ell_to_2500']:.3%}", "")
    table.add_row("median error to 1,500", f"{figures['median_to_1500']:.4%}", "")
    table.add_row("largest error to 1,500", f"{figures['max_to_1500']:.3%}", "")
    table.add_row("CAMB, one spectrum", f"{figures['camb_seconds']:.2f} s", "")
    table.add_row("emulator, one spectrum of a batch", f"{1e6 * figures['emulator_seconds']:.1f} us", "")
    table.add_row("speed ratio", f"{figures['speed_ratio']:,.0f}", "> 10,000")
    for name in GRADIENT_STEPS:
        table.add_row(f"gradient error, {name}", f"{figures[f'gradient_error_{name}']:.2%}", "< 2 %")
    Console().print(table)
    return figures


def curved_sky_table(num: int = 200) -> dict[str, float]:
    """Compare the power of windowed curved-sky patches with the flat-sky prediction and print it per bin.

    Args:
        num: number of simulated patches.

    Returns:
        Largest deviation of the ratio from 1, and the largest in units of its standard error.
    """
    columns = curved_sky_check(num=num)
    table = Table("ell", "curved / flat", "standard error", title=f"Flat-sky approximation, {num} curved patches")
    for ell, ratio, error in zip(columns["ell"], columns["ratio"], columns["standard_error"], strict=True):
        table.add_row(f"{ell:.0f}", f"{ratio:.4f}", f"{error:.4f}")
    Console().print(table)
    deviation = np.abs(columns["ratio"] - 1)
    return {
        "num_patches": float(num),
        "largest_deviation": float(deviation.max()),
        "largest_deviation_in_errors": float((deviation / columns["standard_error"]).max()),
    }


def run() -> list[Figure]:
    """All figures of this study."""
    emulator, sky = emulator_table(), curved_sky_table()
    return [
        below(
            "emulator: worst 95th percentile of |dC/C| for ell 2 to 1,500, 200 held-out spectra",
            emulator["p95_worst_ell_to_1500"],
            0.005,
        ),
        above("emulator: speed over CAMB per spectrum, batched", emulator["speed_ratio"], 1e4),
        *(
            below(f"emulator: gradient error, {name}", emulator[f"gradient_error_{name}"], 0.02)
            for name in GRADIENT_STEPS
        ),
        Figure("curved sky over flat sky: largest deviation of the windowed power", sky["largest_deviation"]),
        Figure("the same in standard errors", sky["largest_deviation_in_errors"]),
    ]
