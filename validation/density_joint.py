"""Dark-matter fields that are not seen one by one and clean: several of one cosmology, and one in unknown noise.

Maps of 30 simulations of the CV set, at the fiducial cosmology, each with a seed of its own. The sum of the bounds of
three maps of different simulations gives one posterior, beside those of its maps alone: three independent fields know
the parameters better by sqrt(3) where the posterior is narrow within its box. And held-out maps of the hypercube
with white noise of unknown level, which is integrated out at its t*.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bayesdiff as bd
from models.density_fields.data import MAPS_PER_SIMULATION, PARAMETER_BOUNDS, load_maps
from models.density_fields.likelihood import recommended_bound
from models.density_fields.model import make_noisy_model
from models.density_fields.prior import NAME, SIMULATIONS, scale_of
from models.density_fields.sets import FIDUCIAL
from validation.density_fields import NUM_TIMES, TEMPERED_TWIN, by_recommended, held_out
from validation.field_posteriors import SURROGATE, Judged, by_surrogate, calibration_figures, posteriors
from validation.figures import RESULTS, Figure

NAMES = tuple(PARAMETER_BOUNDS)
NUM_GROUPS, GROUP = 10, 3
NUM_NOISY, NOISE_RANGE = 20, (0.1, 1.0)


def run(folder: Path = RESULTS / "density_joint") -> list[Figure]:
    """Calibration of both, and what several fields gain."""
    prior = bd.load_pretrained(NAME)
    return [*several_fields(prior, folder), *unknown_noise(prior, folder)]


def several_fields(prior: bd.DiffusionModel, folder: Path) -> list[Figure]:
    """Joint posteriors of groups of maps beside those of each map."""
    maps = scale_of(prior).field(load_maps(SIMULATIONS, "CV").surface_density)
    fields = np.asarray(maps)[::MAPS_PER_SIMULATION, None][: NUM_GROUPS * GROUP]
    truths = np.tile(list(FIDUCIAL.values()), (len(fields), 1))
    estimate = by_recommended(prior)
    single = posteriors(folder, "single", estimate, fields, truths)
    groups = fields.reshape(NUM_GROUPS, GROUP, *fields.shape[1:])
    estimate = by_recommended(prior)
    joint = posteriors(folder, "joint", estimate, groups, truths[:NUM_GROUPS])
    figures = calibration_figures("one field", single, truths, NAMES)
    figures += calibration_figures(f"{GROUP} fields", joint, truths[:NUM_GROUPS], NAMES)
    for i, name in enumerate(NAMES):
        ratio = np.median(Judged.of(joint).sd[:, i]) / np.median(Judged.of(single).sd[:, i])
        figures.append(Figure(f"{name}: width from {GROUP} fields over that from one", float(ratio)))
    return figures


def unknown_noise(prior: bd.DiffusionModel, folder: Path) -> list[Figure]:
    """Cosmology and noise level of one noisy map of each of some held-out simulations."""
    fields, truths = (x[:NUM_NOISY] for x in held_out())
    level, noise = jax.random.split(jax.random.key(31))
    low, high = np.log(NOISE_RANGE)
    s = np.exp(np.asarray(jax.random.uniform(level, (len(fields),), minval=low, maxval=high)))
    y = np.asarray(fields + s[:, None, None, None] * jax.random.normal(noise, fields.shape))
    # Of three parameters, more points than for the plane.
    settings: dict[str, Any] = SURROGATE | {"num_design": 24, "num_test": 12, "min_bulk": 12}
    algorithm = bd.MarginalSurrogate(recommended_bound(prior, NUM_TIMES), twin_exponent=TEMPERED_TWIN, **settings)
    names = (*NAMES, "noise_level")
    estimate = by_surrogate(make_noisy_model(prior), algorithm, names)
    truths = np.concatenate([truths, s[:, None]], axis=1)
    rows = posteriors(folder, "noisy", estimate, jnp.asarray(y), truths)
    return calibration_figures("in unknown noise", rows, truths, names)
