"""Rebuild the CMB emulator from CAMB: ``python -m bayesdiff.cosmology.build_emulator``.

The table of CAMB spectra (:mod:`bayesdiff.cosmology.camb_table`) is interpolated by Chebyshev polynomials to a dense
grid, and the perceptron is fitted to that by L-BFGS in float64. The spectra kept out of the table measure the error
that goes into the card.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpy.polynomial.chebyshev import chebvander

from bayesdiff.cosmology.camb_table import BOX, FIXED, GRID_SHAPE, LMAX, build_table, chebyshev_nodes
from bayesdiff.cosmology.emulator import LMIN, WEIGHTS, network

DENSE_SHAPE = (48, 36)
NUM_COMPONENTS = 24
HIDDEN = (64, 64)
ITERATIONS = 8000


def scale_to_unit(parameters: np.ndarray) -> np.ndarray:
    """Parameters (N, 2) scaled so that the box is [-1, 1]^2."""
    low, high = np.array(list(BOX.values())).T
    return (parameters - 0.5 * (low + high)) / (0.5 * (high - low))


def chebyshev_interpolate(log_spectra: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Polynomial interpolant of the table.

    Args:
        log_spectra: log C_ell on the grid of the table, shape (384, M).
        unit: scaled parameters where it is wanted, shape (N, 2), in [-1, 1].

    Returns:
        Log C_ell there, shape (N, M).
    """
    inverses = [np.linalg.inv(chebvander(chebyshev_nodes(num, -1.0, 1.0), num - 1)) for num in GRID_SHAPE]
    table = log_spectra.reshape(*GRID_SHAPE, -1)
    coefficients = np.einsum("ai,bj,ijm->abm", *inverses, table, optimize=True)
    terms = [chebvander(unit[:, axis], num - 1) for axis, num in enumerate(GRID_SHAPE)]
    products = (terms[0][:, :, None] * terms[1][:, None, :]).reshape(len(unit), -1)
    return products @ coefficients.reshape(-1, coefficients.shape[-1])


def fit(
    unit: np.ndarray, targets: np.ndarray, hidden: tuple[int, ...] = HIDDEN, iterations: int = ITERATIONS, seed: int = 0
) -> dict[str, np.ndarray]:
    """Fit the perceptron by least squares.

    Args:
        unit: scaled parameters, shape (N, 2).
        targets: what it must give there, shape (N, num_outputs).
        hidden: units of the hidden layers.
        iterations: L-BFGS iterations.
        seed: of the initial weights.

    Returns:
        The arrays ``kernel_i`` and ``bias_i`` of the weight file, float32.
    """
    from scipy.optimize import minimize

    sizes = (2, *hidden, targets.shape[-1])
    rng = np.random.default_rng(seed)
    kernels = tuple(rng.normal(size=pair) / np.sqrt(pair[0]) for pair in zip(sizes[:-1], sizes[1:], strict=True))
    biases = tuple(rng.normal(size=size) for size in sizes[1:])
    with jax.enable_x64(True):
        flat, unravel = ravel_pytree((kernels, biases))
        inputs, outputs = jnp.asarray(unit), jnp.asarray(targets)

        def loss(parameters: jax.Array) -> jax.Array:
            kernels, biases = unravel(parameters)
            difference = network(kernels, biases, inputs) - outputs
            return jnp.mean(jnp.sum(difference**2, axis=-1))

        value_and_gradient = jax.jit(jax.value_and_grad(loss))
        # L-BFGS-B stops on tiny values; the loss is multiplied up so that only the iteration limit ends it.
        result = minimize(
            lambda x: tuple(np.asarray(part, float) * 1e6 for part in value_and_gradient(jnp.asarray(x))),
            np.asarray(flat),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": iterations, "maxfun": 2 * iterations, "maxcor": 50, "ftol": 0.0, "gtol": 0.0},
        )
        kernels, biases = unravel(jnp.asarray(result.x))
        arrays = {f"kernel_{i}": np.asarray(kernel, np.float32) for i, kernel in enumerate(kernels)}
        return arrays | {f"bias_{i}": np.asarray(bias, np.float32) for i, bias in enumerate(biases)}


def fit_emulator(log_spectra: np.ndarray, iterations: int = ITERATIONS) -> dict[str, np.ndarray]:
    """Arrays of the weight file from the table.

    Args:
        log_spectra: log C_ell on the grid of the table, shape (384, M).
        iterations: L-BFGS iterations.
    """
    mean = log_spectra.mean(axis=0)
    rows = np.linalg.svd(log_spectra - mean, full_matrices=False)[2][:NUM_COMPONENTS]
    coefficients = (log_spectra - mean) @ rows.T
    # One common scale for all components: the loss is then the mean squared error of log C_ell, up to a factor.
    scale = np.sqrt(np.mean(coefficients[:, 0] ** 2))
    axes = [np.cos(np.pi * np.arange(num) / (num - 1)) for num in DENSE_SHAPE]
    unit = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    targets = chebyshev_interpolate(coefficients / scale, unit)
    arrays = fit(unit, targets, iterations=iterations)
    arrays |= {"mean": mean.astype(np.float32), "basis": (scale * rows).astype(np.float32)}
    rms = np.sqrt(np.mean((evaluate(arrays, unit) - mean - scale * targets @ rows) ** 2))
    print(f"rms error of log C_ell on the dense grid: {rms:.2e}", flush=True)
    return arrays


def evaluate(arrays: dict[str, np.ndarray], unit: np.ndarray) -> np.ndarray:
    """Log C_ell (N, M) of the arrays of a weight file, in NumPy: the slow twin of the emulator."""
    num_layers = sum(name.startswith("kernel_") for name in arrays)
    hidden = unit
    for i in range(num_layers):
        hidden = hidden @ arrays[f"kernel_{i}"].astype(float) + arrays[f"bias_{i}"]
        hidden = np.tanh(hidden) if i < num_layers - 1 else hidden
    return arrays["mean"] + hidden @ arrays["basis"].astype(float)


def error_summary(log_emulated: np.ndarray, log_truth: np.ndarray) -> dict[str, float]:
    """Relative errors of spectra (N, 2499): percentiles over spectra, then the worst multipole."""
    error = np.abs(np.expm1(log_emulated - log_truth))
    percentile = np.percentile(error, 95, axis=0)
    summary: dict[str, float] = {"num_spectra": len(error), "median": float(np.median(error))}
    for last in (1500, LMAX):
        summary[f"p95_worst_ell_to_{last}"] = float(percentile[: last - LMIN + 1].max())
        summary[f"max_to_{last}"] = float(error[:, : last - LMIN + 1].max())
    return summary


def write(path: Path, arrays: dict[str, np.ndarray], error: dict[str, float] | None) -> None:
    """Write the weight file and its card."""
    import camb
    from safetensors.numpy import save

    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    card: dict[str, Any] = {
        "type": "cmb_emulator",
        "target": "log of the lensed TT C_ell [muK^2], ell = 2..2500",
        "box": {name: list(bounds) for name, bounds in BOX.items()},
        "camb": {"version": camb.__version__, "lmax": LMAX + 100, **FIXED},
        "network": {"hidden": list(HIDDEN), "activation": "tanh", "num_components": NUM_COMPONENTS},
        "training": {
            "table": f"{GRID_SHAPE[0]} x {GRID_SHAPE[1]} Chebyshev nodes of (H0, omega_b)",
            "dense_grid": f"{DENSE_SHAPE[0]} x {DENSE_SHAPE[1]} by Chebyshev interpolation of log C_ell",
            "optimiser": f"L-BFGS, float64, {ITERATIONS} iterations",
            "command": "python -m bayesdiff.cosmology.build_emulator",
        },
        "error": error,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    path.write_bytes(content)
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", type=Path, default=Path("build/camb"), help="folder of the CAMB spectra")
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="weight file to write")
    parser.add_argument("--processes", type=int, default=2, help="CAMB processes")
    parser.add_argument("--no-test", action="store_true", help="skip the held-out spectra; the card then has no error")
    parser.add_argument("--measure", action="store_true", help="keep the weights, measure their error for the card")
    options = parser.parse_args(arguments)

    if options.measure:
        from safetensors.numpy import load_file

        arrays = load_file(options.output)
    else:
        _, spectra = build_table(options.table, "train", options.processes)
        arrays = fit_emulator(np.log(spectra[:, LMIN:]))
    error = None
    if not options.no_test:
        parameters, spectra = build_table(options.table, "test", options.processes)
        error = error_summary(evaluate(arrays, scale_to_unit(parameters)), np.log(spectra[:, LMIN:]))
        print(json.dumps(error, indent=2))
    write(options.output, arrays, error)
    print(f"wrote {options.output} and its card")


if __name__ == "__main__":
    main()
