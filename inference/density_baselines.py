"""The baselines of dark-matter fields as estimators: the power spectrum's likelihood, and a network that regresses."""

from __future__ import annotations

import jax
import numpy as np

from bayesdiff import Exact
from inference.density_problem import Estimator, Outcome, Problem, outcome_of
from models.density_fields import baselines
from models.density_fields.data import PARAMETER_BOUNDS
from models.density_fields.power_spectrum import make_power_spectrum_model
from models.density_fields.prior import scale_of


def _power_spectrum(key: jax.Array, problem: Problem) -> Outcome:
    baseline = baselines.load_baselines().power_spectrum
    summaries = np.asarray(baseline.summary(_fields(problem)))
    data = summaries if problem.num_fields > 1 else summaries[0]
    model, grid = make_power_spectrum_model(baseline), problem.grid(max_evaluations=20_000)
    return outcome_of(problem.sample(key, model, grid, data=data), Exact(), problem)


def _regression(key: jax.Array, problem: Problem) -> Outcome:
    """Normal draws of the network's mean and standard deviation; of several fields, of the product of their densities.

    They are not cut at the box, so that mean and standard deviation remain the network's.
    """
    moments = baselines.predict(baselines.load_baselines().regression, _fields(problem))
    precision = (1.0 / moments.sd**2).sum(axis=0)
    mean = (moments.mean / moments.sd**2).sum(axis=0) / precision
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    draws = mean + rng.normal(size=(problem.num_chains, problem.num_samples, len(mean))) / np.sqrt(precision)
    return Outcome({name: draws[..., axis] for axis, name in enumerate(PARAMETER_BOUNDS)}, 0)


def _fields(problem: Problem) -> np.ndarray:
    """The observed fields (num, 1, H, W) in the unit of the baselines."""
    ours, theirs = scale_of(problem.prior), baselines.scale_of()
    fields = problem.y.reshape(-1, *problem.prior.event_shape)
    return ((ours.mean + ours.sd * fields.astype(np.float64) - theirs.mean) / theirs.sd).astype(np.float32)


BASELINES: dict[str, Estimator] = {
    "power_spectrum": Estimator("power spectrum and mean (baseline)", _power_spectrum),
    "regression": Estimator("regression network (baseline)", _regression),
}
