"""Bound and probability flow over their settings, on the twin and on the shipped prior: error, scatter and cost.

What inference uses are differences of log density between parameters, so these are compared: over about one posterior
width of each parameter, centred on the truth, over noise seeds. On the twin the closed form is known; there the bound
goes without a reference and the flow in the whitened field of a Gaussian of the wrong power, since with the twin as
reference both are exact. On the shipped prior nothing is known; the finest flow is what the others are compared with.
There a third way exists: by Fisher's identity the gradient of log p(y) is the mean of that of log N(y - x; 0, s^2
Sigma) over the reverse process, which is what Gibbs sampling goes by; times the width it is the same difference once
more. For an exact denoiser all of them agree. One row shows why the factor that draws of the prior need is not in the
likelihood.

Evaluations of the network are those of a value: two per pair of antithetic noise, two per step of the flow's solver
(Heun), there with as many derivatives along a direction as it has probes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import bayesdiff as bd
from bayesdiff.diffusion.densities import LogDensity
from bayesdiff.diffusion.noise import gaussian_log_density
from bayesdiff.networks.wiener import WienerDenoiser
from models.dust_cmb.prior import CONTRAST
from models.linear_gaussian import make_twin, power_law
from validation.figures import Figure, below

TRUTH = np.array([67.4, 0.0224, 0.6])
WIDTHS = {"H0, 6": (6.0, 0.0, 0.0), "omega_b, 0.005": (0.0, 0.005, 0.0), "sigma, 0.02": (0.0, 0.0, 0.02)}
NUM_SEEDS = 6
NUM_FIELDS = 160
TWIN_SIZE = 32


class Setting(NamedTuple):
    """An estimator of the log density.

    Attributes:
        name: of estimator and setting.
        evaluations: of the network, for a value.
        make: from the key of its noise.
        model: prior that it is used on; None for the one of the table.
    """

    name: str
    evaluations: int
    make: Callable[[jax.Array], LogDensity]
    model: bd.DiffusionModel | None = None


class Row(NamedTuple):
    """Differences over the widths, shape (3,) each, and the cost.

    Attributes:
        mean: over the seeds.
        scatter: standard deviation over the seeds.
        error: standard error of the mean.
        seconds: of a value and of a gradient.
    """

    mean: np.ndarray
    scatter: np.ndarray
    error: np.ndarray
    seconds: tuple[float, float]


def elbo(num_times: int, num_noise: int = 1, *, reference: bool = True, model=None, note: str = "") -> Setting:
    """The bound with ``num_times * num_noise`` pairs."""
    pairs = num_times * num_noise
    name = f"Elbo, {'twin as' if reference else 'no'} reference, {pairs} pairs{note}"
    return Setting(name, 2 * pairs, lambda key: bd.Elbo(num_times, num_noise, key=key, reference=reference), model)


def flow(num_steps: int, num_probes: int, reference: bd.GaussianDenoiser | None = None) -> Setting:
    """The flow with Hutchinson's estimator of its divergence."""
    name = f"ProbabilityFlow, {num_steps} steps, {num_probes} probe{'s' if num_probes > 1 else ''}"
    options = {"num_steps": num_steps, "num_probes": num_probes, "reference": reference}
    return Setting(name, 2 * num_steps, lambda key: bd.ProbabilityFlow(key=key, **options))


def run() -> list[Figure]:
    """All figures of this study."""
    return [*_on_the_twin(), *_on_the_prior()]


def _on_the_twin() -> list[Figure]:
    with jax.enable_x64(True):
        model = make_twin(TWIN_SIZE)
        y = bd.NoisyDiffusion(model, TRUTH[2], TRUTH[:2]).sample(jax.random.key(40))
        wrong = bd.GaussianDenoiser(jnp.asarray(1.5 * power_law(TWIN_SIZE, -2.0)))
        settings = [elbo(n, reference=False) for n in (8, 32, 128)]
        settings += [flow(*setting, wrong) for setting in ((8, 1), (16, 1), (16, 4), (32, 4))]
        exact, _ = _values(model, y, Setting("", 0, lambda key: bd.Exact()), num_seeds=1)
        truth = _differences(exact)[0]
        rows = {setting.name: _measure(model, y, setting) for setting in settings}
    _print(
        f"Twin, {TWIN_SIZE} x {TWIN_SIZE}: error of a difference of log p(y) against the closed form",
        settings,
        rows,
        truth,
    )
    return [
        Figure(f"twin, {name}: largest {what} of a difference [nat]", float(np.max(np.abs(values))), detail=True)
        for name, row in rows.items()
        for what, values in (("bias", row.mean - truth), ("scatter", row.scatter))
    ]


def _on_the_prior() -> list[Figure]:
    model = bd.load_pretrained("dust-cmb-64")
    assert isinstance(model.denoiser, WienerDenoiser)
    raised = replace(model, denoiser=model.denoiser.generator)
    y = bd.NoisyDiffusion(model, TRUTH[2], TRUTH[:2]).sample(jax.random.key(40))
    bound, plain, finest = elbo(64, 2), elbo(64, 2, reference=False), flow(16, 4)
    with_factor = elbo(32, model=raised, note=f", with the factor {CONTRAST:g} of draws")
    settings = [elbo(8), elbo(32), bound, plain, flow(8, 1), flow(16, 1), finest, with_factor]
    rows = {setting.name: _measure(model, y, setting) for setting in settings}
    for num_steps in (16, 32, 64):
        rows[f"Fisher's identity, {num_steps} steps"] = _fisher(model, y, num_steps)
    _print("Shipped dust prior: differences of log p(y) over a width", settings, rows)
    figures = []
    for name, row in rows.items():
        if name in {setting.name for setting in settings}:
            figures.append(Figure(f"{name}: largest scatter of a difference [nat]", float(row.scatter.max())))
        if name != finest.name:
            gap = np.abs(row.mean - rows[finest.name].mean)
            worst = int(np.argmax(gap))
            error = float(np.hypot(row.error, rows[finest.name].error)[worst])
            figures.append(Figure(f"{name}: largest disagreement with the finest flow [nat]", float(gap[worst])))
            figures.append(Figure(f"{name}: standard error of that", error, detail=True))
    figures += [
        Figure(f"{setting.name}: seconds of a gradient over those of a value", seconds[1] / seconds[0])
        for setting in (bound, finest)
        for seconds in [rows[setting.name].seconds]
    ]
    ratio = float(rows[bound.name].scatter.max() / rows[plain.name].scatter.max())
    return [*figures, below("scatter of a difference, with the twin over without", ratio, 1.0)]


def _measure(model: bd.DiffusionModel, y: jax.Array, setting: Setting) -> Row:
    values, seconds = _values(setting.model or model, y, setting, NUM_SEEDS)
    differences = _differences(values)
    scatter = differences.std(axis=0, ddof=1)
    return Row(differences.mean(axis=0), scatter, scatter / np.sqrt(NUM_SEEDS), seconds)


def _differences(values: np.ndarray) -> np.ndarray:
    return values[:, 0::2] - values[:, 1::2]


def _values(
    model: bd.DiffusionModel, y: jax.Array, setting: Setting, num_seeds: int
) -> tuple[np.ndarray, tuple[float, float]]:
    """Values (seed, point) half a width above and below the truth, and seconds per value and per gradient."""
    points = jnp.asarray([TRUTH + sign * 0.5 * np.array(width) for width in WIDTHS.values() for sign in (1, -1)])

    def density(p, key):
        return setting.make(key)(model, y, p[2], p[:2])

    keys = jax.random.split(jax.random.key(41), num_seeds)
    value, gradient = (jax.jit(f).lower(points[0], keys[0]).compile() for f in (density, jax.grad(density)))
    clock = time.perf_counter()
    values = np.array([[float(value(p, key)) for p in points] for key in keys])
    middle = time.perf_counter()
    jax.block_until_ready([gradient(p, keys[0]) for p in points[:2]])
    return values, ((middle - clock) / values.size, (time.perf_counter() - middle) / 2)


def _fisher(model: bd.DiffusionModel, y: jax.Array, num_steps: int) -> Row:
    """Differences over the widths by Fisher's identity; seconds per field."""
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
    scatter = differences.std(axis=0, ddof=1)
    return Row(differences.mean(axis=0), scatter, scatter / np.sqrt(NUM_FIELDS), (seconds, np.nan))


def _print(title: str, settings: Sequence[Setting], rows: dict[str, Row], truth: np.ndarray | float = 0.0) -> None:
    evaluations = {setting.name: f"{setting.evaluations}" for setting in settings}
    columns = ("estimator", *WIDTHS, "evaluations", "value [s]", "gradient [s]")
    table = Table(*columns, title=f"{title} \\[nat], mean ± scatter over seeds")
    for name, row in rows.items():
        cells = (f"{m:+.2f} ± {s:.2f}" for m, s in zip(row.mean - truth, row.scatter, strict=True))
        seconds = ("" if np.isnan(x) else f"{x:.2g}" for x in row.seconds)
        table.add_row(name, *cells, evaluations.get(name, "per field"), *seconds)
    Console(width=170).print(table)
