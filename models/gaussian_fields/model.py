"""The NumPyro model of a Gaussian field whose power law is unknown."""

from __future__ import annotations

from collections.abc import Callable

import numpyro
import numpyro.distributions as dist

import bayesdiff as bd
from bayesdiff.diffusion.densities import LogDensity
from models.gaussian_fields.data import PARAMETER_BOUNDS


def make_model(prior: bd.DiffusionModel, log_density: LogDensity | None = None) -> Callable:
    """Log amplitude and index from a field x (1, H, W) without noise, whose density ``log_density`` estimates."""

    def model(x=None):
        parameters = {name: numpyro.sample(name, dist.Uniform(*bounds)) for name, bounds in PARAMETER_BOUNDS.items()}
        numpyro.sample("x", bd.DiffusionPrior(prior, parameters, log_density), obs=x)

    return model
