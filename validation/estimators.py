"""Estimators of the log density on the shipped prior: scatter over noise seeds with and without twin, and agreement.

What inference uses are differences of log density between parameters, so these are compared: over about one posterior
width of each parameter, centred on the truth, for the bound with and without the twin as reference and for the
probability flow. By Fisher's identity the gradient of log p(y) is the mean of that of log N(y - x; 0, s^2 Sigma) over
the reverse process, which is what Gibbs sampling goes by; times the width it is the same difference once more. For an
exact denoiser all of them agree; with the factor that draws of the prior need, the bound leaves the others.
"""

from __future__ import annotations

import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import bayesdiff as bd
from bayesdiff.diffusion.noise import gaussian_log_density
from bayesdiff.networks.wiener import WienerDenoiser
from models.dust_cmb.prior import CONTRAST
from validation.figures import Figure, below

TRUTH = np.array([67.4, 0.0224, 0.6])
WIDTHS = {"H0, 6": (6.0, 0.0, 0.0), "omega_b, 0.005": (0.0, 0.005, 0.0), "sigma, 0.02": (0.0, 0.0, 0.02)}
NUM_SEEDS = 8
NUM_FIELDS = 160
BOUND, FLOW = "Elbo, twin as reference, 128 pairs", "ProbabilityFlow, 16 steps, 4 probes"
PLAIN = "Elbo, no reference, 128 pairs"


def run() -> list[Figure]:
    """All figures of this study."""
    model = bd.load_pretrained("dust-cmb-64")
    assert isinstance(model.denoiser, WienerDenoiser)
    raised = replace(model, denoiser=model.denoiser.generator)
    y = bd.NoisyDiffusion(model, TRUTH[2], TRUTH[:2]).sample(jax.random.key(40))
    draws = f"with the factor {CONTRAST:g} of draws"
    estimators = {
        "Elbo, twin as reference, 32 pairs": (model, lambda key: bd.Elbo(32, 1, key=key)),
        f"the same, {draws}": (raised, lambda key: bd.Elbo(32, 1, key=key)),
        BOUND: (model, lambda key: bd.Elbo(64, 2, key=key)),
        PLAIN: (model, lambda key: bd.Elbo(64, 2, key=key, reference=False)),
        FLOW: (model, lambda key: bd.ProbabilityFlow(num_steps=16, num_probes=4, key=key)),
    }
    table = Table(
        "estimator", "value", *WIDTHS, "seconds", title="log p(y), its differences over a width: mean ± scatter"
    )
    means, errors, scatters = {}, {}, {}
    for name, (prior, make) in estimators.items():
        values, seconds = _values(prior, y, make)
        differences = values[:, 0::2] - values[:, 1::2]
        means[name], scatters[name] = differences.mean(axis=0), differences.std(axis=0, ddof=1)
        errors[name] = scatters[name] / np.sqrt(NUM_SEEDS)
        centre = values.mean(axis=1)
        cells = (f"{m:.2f} ± {s:.2f}" for m, s in zip(means[name], scatters[name], strict=True))
        table.add_row(name, f"{centre.mean():.1f} ± {centre.std(ddof=1):.1f}", *cells, f"{seconds:.2f} per value")
    for num_steps in (16, 32, 64):
        name = f"Fisher's identity, {num_steps} steps"
        means[name], scatter, seconds = _fisher(model, y, num_steps)
        errors[name] = scatter / np.sqrt(NUM_FIELDS)
        cells = (f"{m:.2f} ± {s:.2f}" for m, s in zip(means[name], scatter, strict=True))
        table.add_row(name, "", *cells, f"{seconds:.2f} per field")
    Console(width=170).print(table)
    figures = [Figure(f"{name}: largest scatter of a difference [nat]", float(s.max())) for name, s in scatters.items()]
    for name in means:
        if name != FLOW:
            gap = np.abs(means[name] - means[FLOW])
            worst = int(np.argmax(gap))
            error = float(np.hypot(errors[name], errors[FLOW])[worst])
            figures.append(
                Figure(f"{name}: largest disagreement of a difference with the flow [nat]", float(gap[worst]))
            )
            figures.append(Figure(f"{name}: standard error of that", error, detail=True))
    figures.append(
        below("scatter of a difference, with the twin over without", scatters[BOUND].max() / scatters[PLAIN].max(), 1.0)
    )
    return figures


def _values(model, y, make) -> tuple[np.ndarray, float]:
    """Values (seed, point) half a width above and below the truth in each parameter, and seconds per value."""
    points = jnp.asarray([TRUTH + sign * 0.5 * np.array(width) for width in WIDTHS.values() for sign in (1, -1)])

    @jax.jit
    def evaluate(key, p):
        return make(key)(model, y, p[2], p[:2])

    keys = jax.random.split(jax.random.key(41), NUM_SEEDS)
    evaluate(keys[0], points[0]).block_until_ready()
    clock = time.perf_counter()
    values = np.array([[float(evaluate(key, p)) for p in points] for key in keys])
    return values, (time.perf_counter() - clock) / values.size


def _fisher(model, y, num_steps: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Differences over the widths by Fisher's identity, their scatter over fields, and seconds per field."""
    p = jnp.asarray(TRUTH)
    observation = bd.NoisyDiffusion(model, p[2], p[:2])

    def gradient(key):
        x = observation.sample_latent(key, y, num_steps)
        return jax.grad(lambda p: gaussian_log_density(y - x, p[2] ** 2 * model.noise_power(p[:2])))(p)

    keys = jax.random.split(jax.random.key(42), NUM_FIELDS)
    draw = jax.jit(lambda keys: jax.lax.map(gradient, keys, batch_size=8)).lower(keys).compile()
    clock = time.perf_counter()
    differences = np.asarray(draw(keys)) @ np.array(list(WIDTHS.values())).T
    seconds = (time.perf_counter() - clock) / NUM_FIELDS
    return differences.mean(axis=0), differences.std(axis=0, ddof=1), seconds
