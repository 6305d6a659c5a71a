"""The adaptive grid on the analytic twin: evidence against the closed form, marginals against a full grid.

The reference is the closed-form likelihood summed in NumPy over panels of Gauss-Legendre nodes, 50 x 50 x 200 of them;
it shares nothing with the package but the noise spectra.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial.legendre import leggauss
from rich.console import Console
from rich.table import Table

import bayesdiff as bd
from bayesdiff.sampling.target import build_target
from models.dust_cmb.model import PRIOR_BOUNDS, make_model
from models.linear_gaussian import make_twin, power_law
from validation.figures import Figure, below

SIZE = 32
NUM_OBSERVATIONS = 3
FULL = {"H0": 50, "omega_b": 50, "sigma": 30}
PANELS = {"H0": 10, "omega_b": 10, "sigma": 40}
_PANEL_NODES = 5


class Reference(NamedTuple):
    """Log evidence, and for each parameter the ends of its panels and the cumulative distribution there."""

    log_evidence: float
    cumulative: dict[str, tuple[np.ndarray, np.ndarray]]


def run(num_observations: int = NUM_OBSERVATIONS) -> list[Figure]:
    """All figures of this study."""
    with jax.enable_x64(True):
        return _run(num_observations)


def _run(num_observations: int) -> list[Figure]:
    twin = make_twin(SIZE)
    axes = {name: _panels(*PRIOR_BOUNDS[name], num) for name, num in PANELS.items()}
    spectra = _spectra(twin, axes["H0"][0], axes["omega_b"][0])
    size = int(np.prod(list(FULL.values())))
    rng = np.random.default_rng(31)
    target = None
    rows: list[dict[str, float]] = []
    for index in range(num_observations):
        truth = {name: rng.uniform(*bounds) for name, bounds in PRIOR_BOUNDS.items()}
        mixture = bd.NoisyDiffusion(twin, truth["sigma"], (truth["H0"], truth["omega_b"]))
        y = mixture.sample(jax.random.key(300 + index))
        key = jax.random.key(400 + index)
        target = build_target(key, make_model(twin), (y,)) if target is None else target.with_data(key, y)
        adaptive, full = (
            bd.Grid(FULL, adaptive=adaptive, max_error=max_error).run(key, target, 1, 1000, False)
            for adaptive, max_error in ((True, 0.01), (False, np.inf))
        )
        reference = _reference(np.asarray(y), spectra, axes)
        rows.append(
            {
                "evidence": abs(adaptive.attrs["log_evidence"] - reference.log_evidence),
                "claimed": adaptive.attrs["log_evidence_error"],
                "evidence, full": abs(full.attrs["log_evidence"] - reference.log_evidence),
                "evaluations": adaptive.attrs["num_evaluations"] / size,
                "CDF - full grid": max(_between(adaptive, full, name) for name in PRIOR_BOUNDS),
                "CDF - reference": max(_apart(adaptive, name, *reference.cumulative[name]) for name in PRIOR_BOUNDS),
            }
        )
    table = Table("observation", *rows[0])
    for index, row in enumerate(rows):
        table.add_row(str(index), *(f"{value:.2g}" for value in row.values()))
    Console(width=140).print(table)
    worst = {name: max(row[name] for row in rows) for name in rows[0]}
    shape = " x ".join(map(str, FULL.values()))
    return [
        below("log evidence, adaptive grid: largest error against the closed form", worst["evidence"], 0.02),
        below(f"evaluations, as a part of those of a full {shape} grid", worst["evaluations"], 0.1),
        below("marginals: largest difference of a CDF from the full grid's", worst["CDF - full grid"], 0.01),
        below("marginals: largest difference of a CDF from the closed form's", worst["CDF - reference"], 0.01),
        Figure("log evidence: largest error that the adaptive grid claims", worst["claimed"]),
        Figure("log evidence, full grid: largest error against the closed form", worst["evidence, full"]),
    ]


def _panels(low: float, high: float, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss-Legendre sums on ``num`` panels; the weights add up to 1, as a uniform prior does."""
    nodes, weights = leggauss(_PANEL_NODES)
    edges = np.linspace(low, high, num + 1)
    x = edges[:-1, None] + 0.5 * (nodes + 1.0) * np.diff(edges)[:, None]
    return x.ravel(), np.tile(0.5 * weights / num, num)


def _spectra(twin: bd.DiffusionModel, H0: np.ndarray, omega_b: np.ndarray) -> np.ndarray:
    """Noise power of every mode at every pair of parameters, (H0 * omega_b, modes)."""
    contexts = jnp.asarray(np.stack(np.meshgrid(H0, omega_b, indexing="ij"), axis=-1).reshape(-1, 2))
    return np.asarray(jax.vmap(twin.noise_power)(contexts)).reshape(len(contexts), -1)


def _reference(y: np.ndarray, spectra: np.ndarray, axes: dict[str, tuple[np.ndarray, np.ndarray]]) -> Reference:
    """Sum of N(y; 0, P + sigma^2 S) over the nodes, mode by mode."""
    modes = np.abs(np.fft.fft2(y[0], norm="ortho")).ravel() ** 2
    power, variance = power_law(SIZE).ravel(), axes["sigma"][0][:, None] ** 2
    log_density = np.empty((len(spectra), len(variance)))
    for row, spectrum in zip(log_density, spectra, strict=True):
        total = power + variance * spectrum
        row[:] = -0.5 * (modes / total + np.log(2.0 * np.pi * total)).sum(axis=1)
    weights = np.einsum("i,j,k->ijk", *(weight for _, weight in axes.values()))
    mass = np.exp(log_density - log_density.max()).reshape(weights.shape) * weights
    cumulative = {}
    for axis, (name, num) in enumerate(PANELS.items()):
        panels = mass.sum(axis=tuple(a for a in range(3) if a != axis)).reshape(num, -1).sum(axis=1)
        edges = np.linspace(*PRIOR_BOUNDS[name], num + 1)
        cumulative[name] = edges, np.concatenate([[0.0], np.cumsum(panels)]) / mass.sum()
    return Reference(float(np.log(mass.sum()) + log_density.max()), cumulative)


def _apart(data: Any, name: str, x: np.ndarray, cumulative: np.ndarray) -> float:
    own = data["marginals"][f"cdf_{name}"]
    return float(np.abs(np.interp(x, own[name].values, own.values) - cumulative).max())


def _between(data: Any, other: Any, name: str) -> float:
    theirs = other["marginals"][f"cdf_{name}"]
    return _apart(data, name, theirs[name].values, theirs.values)
