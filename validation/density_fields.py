"""Cosmology from dark-matter fields of held-out simulations, by the recommended likelihood and by two baselines.

One map of each of 150 simulations that the prior has not seen. The recommended estimator is the bound with the twin as
reference, raised to the exponent that training simulations call for and interpolated by ``MarginalSurrogate``; its
errors must not exceed those of the power spectrum. Other estimators of the likelihood are judged by
:mod:`validation.density_calibration`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import arviz_stats
import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import norm

import bayesdiff as bd
from models.density_fields.baselines import load_baselines, one_map_each
from models.density_fields.data import PARAMETER_BOUNDS
from models.density_fields.likelihood import recommended_bound, recommended_surrogate
from models.density_fields.model import make_model
from models.density_fields.power_spectrum import Moments, PowerSpectrumBaseline, posterior_moments
from models.density_fields.prior import NAME, load_fields
from models.density_fields.regression import predict
from validation.field_posteriors import (
    SURROGATE,
    Estimate,
    Judged,
    Row,
    by_surrogate,
    calibration_figures,
    posteriors,
)
from validation.figures import RESULTS, Figure, below

NAMES = tuple(PARAMETER_BOUNDS)
NUM_TIMES, TEMPERED_TWIN = 16, 0.02
OTHER_MAP = 7
"""Of every simulation, in turn from its eighth: another slab, along another axis."""
REQUIRED = dict.fromkeys(NAMES, (0.65, 0.95))
NUM_TIMES_OF_ONE, NUM_TIMES_OF_ENGINES, NUM_DRAWS_OF_ENGINES = 64, 4, 600
FULL_GRID = 2500 * 1000


def held_out(offset: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """One field (1, 64, 64) of each held-out simulation, and its parameters."""
    return one_map_each(load_fields().held_out, offset)


def by_recommended(prior: bd.DiffusionModel) -> Estimate:
    """Posteriors by the recommended likelihood, interpolated; one compiled program for all fields of one shape."""
    algorithm = bd.MarginalSurrogate(recommended_bound(prior, NUM_TIMES), twin_exponent=TEMPERED_TWIN, **SURROGATE)
    return by_surrogate(make_model(prior), algorithm, NAMES)


def run(folder: Path = RESULTS / "density_fields") -> list[Figure]:
    """Calibration, coverage and errors."""
    prior = bd.load_pretrained(NAME)
    fields, truths = held_out()
    estimate = by_recommended(prior)
    recommended = posteriors(folder, "tempered", estimate, fields, truths)
    figures = calibration_figures("recommended", recommended, truths, NAMES, REQUIRED, coverage=True)
    baselines = load_baselines()
    spectrum = gaussian_rows(posterior_moments(baselines.power_spectrum, fields), truths)
    figures += calibration_figures("power spectrum and mean", spectrum, truths, NAMES)
    for i, name in enumerate(NAMES):
        errors = [np.sqrt(np.mean((Judged.of(r).mean[:, i] - truths[:, i]) ** 2)) for r in (recommended, spectrum)]
        figures.append(below(f"recommended: {name}: rms error over the power spectrum's", errors[0] / errors[1], 1.0))
    figures += other_maps(baselines.power_spectrum, estimate, folder)
    network = gaussian_rows(predict(baselines.regression, fields), truths)
    figures += calibration_figures("regression network", network, truths, NAMES)
    print_summary(figures)
    return figures


def other_maps(baseline: PowerSpectrumBaseline, estimate: Estimate, folder: Path) -> list[Figure]:
    """What of the coverage is the choice of maps: another map of every simulation, and the baseline on all of them."""
    fields, truths = held_out(OTHER_MAP)
    rows = posteriors(folder, "tempered_others", estimate, fields, truths)
    figures = calibration_figures("recommended, other maps", rows, truths, NAMES, REQUIRED, coverage=True)
    every = load_fields().held_out
    truths = np.asarray(every.contexts, np.float64)
    rows = gaussian_rows(posterior_moments(baseline, np.asarray(every.fields)), truths)
    label = f"power spectrum and mean, all {len(rows)} maps"
    for figure in calibration_figures(label, rows, truths, NAMES):
        if "interval" in figure.name or "|z|" in figure.name:
            figures.append(replace(figure, detail=False))
    return figures


def gaussian_rows(moments: Moments, truths: np.ndarray) -> list[Row]:
    """Posteriors of a baseline, taken as Gaussian."""
    rank = norm.cdf((truths - moments.mean) / moments.sd)
    columns = zip(moments.mean, moments.sd, rank, strict=True)
    return [Row(m.tolist(), s.tolist(), r.tolist(), True, 1, 0.0) for m, s, r in columns]


def engines(num_fields: int = 1) -> list[Figure]:
    """Grid, HMC and NUTS on one deterministic bound: means and standard deviations in Monte Carlo standard errors."""
    prior = bd.load_pretrained(NAME)
    fields, _ = held_out()
    model = make_model(prior, recommended_bound(prior, NUM_TIMES_OF_ENGINES))
    algorithms = {
        "grid": (bd.Grid(dict.fromkeys(NAMES, 40), batch_size=8), 1000),
        "NUTS": (bd.NUTS(num_warmup=150), NUM_DRAWS_OF_ENGINES),
        "HMC": (bd.HMC(num_warmup=150, num_integration_steps=5), NUM_DRAWS_OF_ENGINES),
    }
    worst = {"mean": 0.0, "sd": 0.0}
    rhat = 0.0
    for index, x in enumerate(fields[:num_fields]):
        draws = {}
        for name, (algorithm, num) in algorithms.items():
            key = jax.random.key(4000 + index)
            data = bd.sample(key, model, x, algorithm=algorithm, num_chains=2, num_samples=num, progress=False)
            draws[name] = {p: np.asarray(data["posterior"][p]) for p in NAMES}
            rhat = max(rhat, *(float(arviz_stats.rhat(draws[name][p])) for p in NAMES))
        for name in ("NUTS", "HMC"):
            for p in NAMES:
                for what, summary in (("mean", np.mean), ("sd", np.std)):
                    pair = [draws[e][p] for e in (name, "grid")]
                    errors = [float(arviz_stats.mcse(d, method=what)) for d in pair]
                    difference = abs(summary(pair[0]) - summary(pair[1]))
                    worst[what] = max(worst[what], difference / np.hypot(errors[0], errors[1]))
    return [
        below("grid, HMC, NUTS: largest difference of a mean [Monte Carlo s.e.]", worst["mean"], 3.0),
        below("grid, HMC, NUTS: largest difference of a standard deviation [Monte Carlo s.e.]", worst["sd"], 3.0),
        below("grid, HMC, NUTS: largest R-hat", rhat, 1.01),
    ]


def cost() -> list[Figure]:
    """One posterior of one field, compiling included, beside the published grid of all terms."""
    import time

    prior = bd.load_pretrained(NAME)
    x = held_out()[0][0]
    algorithm = recommended_surrogate(prior, NUM_TIMES_OF_ONE)
    clock = time.perf_counter()
    data = bd.sample(jax.random.key(5000), make_model(prior), x, algorithm=algorithm, progress=False)
    seconds = time.perf_counter() - clock
    evaluations = 2 * NUM_TIMES_OF_ONE * data.attrs["surrogate_evaluations"]
    ess = min(float(arviz_stats.ess(np.asarray(data["posterior"][p]))) for p in NAMES)
    return [
        below("one posterior, 4 chains: seconds, compiling included", seconds, 180.0),
        Figure("one posterior: smallest bulk ESS", ess, "> 400", bool(ess > 400)),
        below(
            "one posterior: network evaluations over those of the 2,500-point grid of all terms",
            evaluations / FULL_GRID,
            0.2,
        ),
    ]


def print_summary(figures: list[Figure]) -> None:
    """One line per estimator and parameter."""
    table = Table("estimator", "quantity", "value")
    for figure in figures:
        title, _, quantity = figure.name.partition(": ")
        table.add_row(title, quantity, figure.value if isinstance(figure.value, str) else f"{figure.value:.3f}")
    Console(width=130).print(table)
