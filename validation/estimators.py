"""Estimators of the log density on the shipped prior: scatter over noise seeds with and without twin, and agreement.

What inference uses are differences of log density between parameters, so these are compared: from the truth to about
one posterior width in sigma and in H0, for the bound with and without the twin as reference and for the probability
flow.
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import bayesdiff as bd
from validation.figures import Figure, below

TRUTH = (67.4, 0.0224, 0.6)
STEPS = {"sigma + 0.02": (0.0, 0.0, 0.02), "H0 + 6": (6.0, 0.0, 0.0), "omega_b + 0.005": (0.0, 0.005, 0.0)}
NUM_SEEDS = 8


def run() -> list[Figure]:
    """All figures of this study."""
    model = bd.load_pretrained("dust-cmb-64")
    y = bd.NoisyDiffusion(model, TRUTH[2], TRUTH[:2]).sample(jax.random.key(40))
    points = jnp.asarray([TRUTH, *(np.add(TRUTH, step) for step in STEPS.values())])
    estimators = {
        "Elbo, twin as reference, 32 pairs": lambda key: bd.Elbo(32, 1, key=key),
        "Elbo, twin as reference, 128 pairs": lambda key: bd.Elbo(64, 2, key=key),
        "Elbo, no reference, 128 pairs": lambda key: bd.Elbo(64, 2, key=key, reference=False),
        "ProbabilityFlow, 16 steps, 4 probes": lambda key: bd.ProbabilityFlow(num_steps=16, num_probes=4, key=key),
    }
    table = Table(
        "estimator",
        "value",
        *STEPS,
        "seconds per value",
        title="log p(y) and its differences: mean ± scatter over seeds",
    )
    means, errors, scatters = {}, {}, {}
    for name, make in estimators.items():
        values, seconds = _values(model, y, points, make)
        differences = values[:, 1:] - values[:, :1]
        means[name], scatters[name] = differences.mean(axis=0), differences.std(axis=0, ddof=1)
        errors[name] = scatters[name] / np.sqrt(NUM_SEEDS)
        cells = [f"{m:.2f} ± {s:.2f}" for m, s in zip(means[name], scatters[name], strict=True)]
        table.add_row(name, f"{values[:, 0].mean():.1f} ± {values[:, 0].std(ddof=1):.1f}", *cells, f"{seconds:.2f}")
    Console(width=150).print(table)
    reference, flow = "Elbo, twin as reference, 128 pairs", "ProbabilityFlow, 16 steps, 4 probes"
    figures = [Figure(f"{name}: largest scatter of a difference [nat]", float(s.max())) for name, s in scatters.items()]
    gap = np.abs(means[reference] - means[flow])
    figures.append(Figure("bound against flow: largest disagreement of a difference [nat]", float(gap.max())))
    figures.append(
        Figure("the same in standard errors over seeds", float((gap / np.hypot(errors[reference], errors[flow])).max()))
    )
    ratio = scatters[reference].max() / scatters["Elbo, no reference, 128 pairs"].max()
    figures.append(below("scatter of a difference, with the twin over without", float(ratio), 1.0))
    return figures


def _values(model, y, points, make) -> tuple[np.ndarray, float]:
    """Values (seed, point) and seconds per value."""

    @jax.jit
    def evaluate(key, p):
        return make(key)(model, y, p[2], p[:2])

    keys = jax.random.split(jax.random.key(41), NUM_SEEDS)
    evaluate(keys[0], points[0]).block_until_ready()
    clock = time.perf_counter()
    values = np.array([[float(evaluate(key, p)) for p in points] for key in keys])
    return values, (time.perf_counter() - clock) / values.size
