"""A trained conditional diffusion whose posterior is known: Gaussian fields with power A (k / 8)^-n.

Every estimator of log p(x | A, n) gives a posterior of each of 200 fields, beside the exact one: the full bound, the
bound in 1,000 discrete steps, its first 20 terms, L_0 alone, and the Gaussian family that the network corrects; the
probability flow of 20 of them, for what it costs.
"""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import bayesdiff as bd
from bayesdiff.diffusion.densities import LogDensity, Twin
from bayesdiff.diffusion.discrete_bound import DiscreteBound, term_importance
from bayesdiff.diffusion.fourier import RadialModes, mode_power
from models.gaussian_fields.data import NUM_HELD_OUT, PARAMETER_BOUNDS, PIVOT, SIZE, simulate
from models.gaussian_fields.model import make_model
from validation.field_posteriors import (
    SURROGATE,
    Judged,
    Row,
    by_sampling,
    by_surrogate,
    calibration_figures,
    posteriors,
    row,
)
from validation.figures import RESULTS, Figure, below, between

NAMES = tuple(PARAMETER_BOUNDS)
HELD_OUT_SEED = 2
NUM_POINTS, NUM_DRAWS = 241, 4000
NUM_TERMS, FIRST_TERMS_TWIN = 20, 0.1
NUM_FLOW = 20


def run(folder: Path = RESULTS / "known_answer") -> list[Figure]:
    """Posteriors of every estimator against the exact ones."""
    model = bd.load_pretrained("gaussian-fields-64")
    fields, truths = simulate(HELD_OUT_SEED, NUM_HELD_OUT)
    exact = [exact_posterior(index, x, truth) for index, (x, truth) in enumerate(zip(fields, truths, strict=True))]
    figures = calibration_figures("exact", exact, truths, NAMES)

    def surrogate(log_density: LogDensity, twin_exponent: float = 1.0):
        algorithm = bd.MarginalSurrogate(log_density, twin_exponent=twin_exponent, **SURROGATE)
        return by_surrogate(make_model(model), algorithm, NAMES)

    studies = {
        "full bound": surrogate(bd.Elbo(num_times=16, num_noise=1)),
        "all terms": surrogate(all_terms(model, fields, truths)),
        f"first {NUM_TERMS} terms": surrogate(DiscreteBound(1000, NUM_TERMS), FIRST_TERMS_TWIN),
        "L_0 alone": on_grid(model, DiscreteBound(1000, 1)),
        "fitted family": surrogate(Twin(jnp.zeros(1))),
        "probability flow": surrogate(bd.ProbabilityFlow(num_steps=16, num_probes=2)),
    }
    for title, estimate in studies.items():
        num = NUM_FLOW if title == "probability flow" else len(fields)
        rows = posteriors(folder, title.replace(" ", "_"), estimate, fields[:num], truths[:num])
        required = dict.fromkeys(NAMES, (0.70, 0.90)) if title == "full bound" else None
        figures += calibration_figures(title, rows, truths[:num], NAMES, required)
        figures += against_exact(title, rows, exact[:num], required is not None)
    print_table(figures)
    return figures


def on_grid(model: bd.DiffusionModel, log_density: LogDensity):
    """Posteriors of a wide density on an adaptive grid."""
    points = dict.fromkeys(NAMES, 40)
    algorithm = bd.Grid(points, first_cells=2, max_error=0.03, max_evaluations=1600, batch_size=8)
    return by_sampling(make_model(model, log_density), algorithm, NAMES)


def all_terms(model: bd.DiffusionModel, fields: np.ndarray, truths: np.ndarray) -> DiscreteBound:
    """All of the discrete bound by 64 terms, chosen by what they change over about a posterior width."""
    some, contexts = jnp.asarray(fields[-4:]), jnp.asarray(truths[-4:], jnp.float32)
    # Two posterior widths in each parameter, towards the centre of the box.
    weights = term_importance(model, some, contexts, contexts - 0.08 * jnp.sign(contexts - jnp.array([0.0, 2.5])))
    return DiscreteBound(1000, num_sampled=64, importance=weights)


def exact_posterior(index: int, x: np.ndarray, truth: np.ndarray) -> Row:
    """The closed form on a fine grid of eight posterior widths around its maximum, as independent draws."""
    modes = RadialModes((SIZE, SIZE))
    power = np.asarray(modes.total(mode_power(jnp.asarray(x[0]))), dtype=np.float64)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE, 1.0 / SIZE), np.fft.fftfreq(SIZE, 1.0 / SIZE))).ravel()
    log_k = np.log(np.maximum(radius[modes.first], 1.0) / PIVOT)

    def log_density(log_amplitude: np.ndarray, index: np.ndarray) -> np.ndarray:
        log_power = log_amplitude[..., None] - index[..., None] * log_k
        return -0.5 * np.sum(power * np.exp(-log_power) + modes.counts * log_power, axis=-1)

    low, high = (np.array(ends) for ends in zip(*PARAMETER_BOUNDS.values(), strict=True))
    for _ in range(3):
        axes = [np.linspace(a, b, NUM_POINTS) for a, b in zip(low, high, strict=True)]
        mesh = np.meshgrid(*axes, indexing="ij")
        value = log_density(*mesh)
        weight = np.exp(value - value.max())
        weight /= weight.sum()
        mean = np.array([np.sum(weight * m) for m in mesh])
        sd = np.sqrt([np.sum(weight * (m - c) ** 2) for m, c in zip(mesh, mean, strict=True)])
        bounds = np.array(list(PARAMETER_BOUNDS.values())).T
        low, high = np.maximum(mean - 8.0 * sd, bounds[0]), np.minimum(mean + 8.0 * sd, bounds[1])
    rng = np.random.default_rng([7, index])
    chosen = rng.choice(weight.size, NUM_DRAWS, p=weight.ravel())
    step = [(a[1] - a[0]) * rng.uniform(-0.5, 0.5, NUM_DRAWS) for a in axes]
    draws = np.stack([m.ravel()[chosen] + d for m, d in zip(mesh, step, strict=True)])
    return row(draws, truth, True, NUM_POINTS**2, 0.0)._replace(mean=mean.tolist(), sd=sd.tolist())


def against_exact(title: str, rows: list[Row], exact: list[Row], required: bool) -> list[Figure]:
    """Widths and shifts in units of the exact standard deviation."""
    ours, theirs = Judged.of(rows), Judged.of(exact)
    figures = []
    for i, name in enumerate(NAMES):
        ratio = float(np.mean(ours.sd[:, i] / theirs.sd[:, i]))
        shift = float(np.mean(np.abs(ours.mean[:, i] - theirs.mean[:, i]) / theirs.sd[:, i]))
        width = f"{title}: {name}: width over the exact width, mean"
        moved = f"{title}: {name}: |shift| of the mean in exact standard deviations, mean"
        figures += (
            [between(width, ratio, 0.9, 1.1), below(moved, shift, 0.2)]
            if required
            else [
                Figure(width, ratio),
                Figure(moved, shift),
            ]
        )
    return figures


def print_table(figures: list[Figure]) -> None:
    """What each estimator loses."""
    table = Table("estimator", "quantity", "value")
    for figure in figures:
        title, _, quantity = figure.name.partition(": ")
        table.add_row(title, quantity, figure.value if isinstance(figure.value, str) else f"{figure.value:.3f}")
    Console(width=130).print(table)
