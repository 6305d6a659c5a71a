"""Calibration of every likelihood of a dark-matter field, on maps of held-out simulations.

Maps of simulations that the prior has not seen, at random and in random orientations. Parameters of the simulations
are spread evenly over the box that is the prior of the model, so that ranks of the truths are uniform for an estimator
that is right. Besides the recommended one these are the twin, the bound as it is, the flow, and those of the
literature: all terms of the discrete bound, the first ones, and L_0 alone on the published grid. There is a page for
each. They are two studies, for each takes hours.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bayesdiff as bd
from bayesdiff.calibration import Sbc, tarp
from bayesdiff.diffusion.densities import LogDensity, Twin
from bayesdiff.diffusion.discrete_bound import DiscreteBound, term_importance
from bayesdiff.windows import LabelledFields
from inference.density_estimators import FIRST_TERMS, NUM_TIMESTEPS, PUBLISHED_POINTS
from models.density_fields.baselines import one_map_each
from models.density_fields.data import PARAMETER_BOUNDS
from models.density_fields.likelihood import plain_bound, recommended_bound
from models.density_fields.model import make_model
from models.density_fields.prior import NAME, load_fields
from validation.density_fields import NUM_TIMES, TEMPERED_TWIN
from validation.field_posteriors import SURROGATE
from validation.figures import RESULTS, Figure
from validation.ranked import quantity_figures

NAMES = tuple(PARAMETER_BOUNDS)
NUM, KEY = 300, 31
NUM_TIMES_PLAIN, NUM_SAMPLED = 16, 24
WEAK_TWIN = 0.1
"""Exponent of the twin's likelihood, which is 3 standard deviations off; at 0.1 two rounds of points are enough."""


class Estimator(NamedTuple):
    """A likelihood and the engine for it.

    Attributes:
        model: of a field.
        algorithm: of its posterior.
    """

    model: Any
    algorithm: Any


def run(folder: Path = RESULTS / "density_calibration") -> list[Figure]:
    """Ranks, coverage and errors of the recommended estimator, of the twin, and of the first terms."""
    prior = bd.load_pretrained(NAME)
    first = DiscreteBound(NUM_TIMESTEPS, FIRST_TERMS)
    estimators = {
        "recommended": interpolated(prior, recommended_bound(prior, NUM_TIMES), TEMPERED_TWIN),
        "Gaussian twin": interpolated(prior, Twin(jnp.zeros(1))),
        f"first {FIRST_TERMS} terms": interpolated(prior, first, WEAK_TWIN),
    }
    return judge(estimators, load_fields().held_out, folder)


def others(folder: Path = RESULTS / "density_calibration_others") -> list[Figure]:
    """The same of L_0 and of the estimators of the whole density."""
    prior, held_out = bd.load_pretrained(NAME), load_fields().held_out
    zero = bd.Grid(dict.fromkeys(NAMES, PUBLISHED_POINTS), batch_size=PUBLISHED_POINTS)
    estimators = {
        "L_0 alone": Estimator(make_model(prior, DiscreteBound(NUM_TIMESTEPS, 1)), zero),
        "bound, exponent 1": interpolated(prior, plain_bound(prior, NUM_TIMES_PLAIN), WEAK_TWIN),
        "probability flow": interpolated(prior, bd.ProbabilityFlow(num_steps=16, num_probes=2), WEAK_TWIN),
        "all terms": interpolated(prior, every_term(prior, held_out), WEAK_TWIN),
    }
    return judge(estimators, held_out, folder)


def judge(estimators: dict[str, Estimator], held_out: LabelledFields, folder: Path) -> list[Figure]:
    """Studies and figures of estimators by name."""
    figures = []
    for name, estimator in estimators.items():
        figures += of_study(name, calibrate(name, estimator, held_out, folder / name.replace(" ", "_")))
    return figures


def interpolated(prior: bd.DiffusionModel, log_density: LogDensity, twin_exponent: float | None = None) -> Estimator:
    """An estimator by ``MarginalSurrogate``; a plane needs fewer points than its default."""
    algorithm = bd.MarginalSurrogate(log_density, twin_exponent=twin_exponent, **SURROGATE)
    return Estimator(make_model(prior), algorithm)


def every_term(prior: bd.DiffusionModel, held_out: LabelledFields) -> DiscreteBound:
    """All terms of the discrete bound, of which some are chosen by what they tell of the parameters."""
    fields, truths = (x[-4:] for x in one_map_each(held_out))
    middle = np.array([0.5 * (low + high) for low, high in PARAMETER_BOUNDS.values()])
    others = truths - 0.02 * np.sign(truths - middle)
    some = (jnp.asarray(x, jnp.float32) for x in (fields, truths, others))
    return DiscreteBound(
        NUM_TIMESTEPS, num_sampled=NUM_SAMPLED, importance=term_importance(prior, *some, num_timesteps=NUM_TIMESTEPS)
    )


def calibrate(name: str, estimator: Estimator, held_out: LabelledFields, folder: Path) -> Sbc:
    """The study of one estimator, continued where it was, and its page."""
    study = bd.calibration.sbc(
        jax.random.key(KEY),
        estimator.model,
        algorithm=estimator.algorithm,
        num_simulations=NUM,
        simulator=partial(observe, held_out),
        store=folder / "study.sbc",
    )
    title = f"Cosmology from held-out dark-matter fields: {name}"
    bd.reporting.write_calibration_report(study, folder, title=title, notes=(str(__doc__),))
    return study


def observe(held_out: LabelledFields, key: jax.Array) -> dict[str, jax.Array]:
    """A map and the parameters of its simulation."""
    choice = held_out.choose(key)
    assert choice.context is not None
    return {"x": choice.field} | dict(zip(NAMES, choice.context, strict=True))


def of_study(name: str, study: Sbc) -> list[Figure]:
    """Its figures."""
    joint = tarp(study.truth[study.ranked], study.draws[study.ranked])
    num = study.num_simulations
    figures = [
        Figure(f"{name}: smallest adjusted p-value of the ranks, {num} fields", float(study.tests.adjusted.min())),
        Figure(f"{name}: fields that failed", f"{len(study.failed)} of {num}"),
        *quantity_figures(name, study),
    ]
    for i, parameter in enumerate(study.names):
        error, sd = study.records.mean[:, i] - study.truth[:, i], study.records.sd[:, i]
        figures.append(Figure(f"{name}: {parameter}: median standard deviation", float(np.nanmedian(sd))))
        figures.append(Figure(f"{name}: {parameter}: rms error of the mean", float(np.sqrt(np.nanmean(error**2)))))
    return [*figures, Figure(f"{name}: TARP area", joint.area)]
