"""NumPyro models of dark-matter fields: cosmology from one field, from several, and from a field in noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

import bayesdiff as bd
from bayesdiff.diffusion.densities import LogDensity
from models.density_fields.data import PARAMETER_BOUNDS

NOISE_BOUNDS = (0.02, 1.0)


def cosmology() -> tuple[Any, Any]:
    """Sites Omega_m and sigma_8, uniform in the box that the prior was trained on: its edges are the prior's."""
    return (
        numpyro.sample("Omega_m", dist.Uniform(*PARAMETER_BOUNDS["Omega_m"])),
        numpyro.sample("sigma_8", dist.Uniform(*PARAMETER_BOUNDS["sigma_8"])),
    )


def observe(name: str, fn: Any, value: Any, num: int | None = None) -> None:
    """A site of one value of ``fn``, or of several independent ones where ``value`` or ``num`` has them."""
    if value is not None and jnp.ndim(value) > fn.event_dim:
        num = len(value)
    if num is None:
        numpyro.sample(name, fn, obs=value)
    else:
        with numpyro.plate("field", num):
            numpyro.sample(name, fn, obs=value)


def make_model(prior: bd.DiffusionModel, log_density: LogDensity | None = None) -> Callable:
    """Cosmology from fields without noise.

    Args:
        prior: conditional prior of the field.
        log_density: estimator of its log density; by default the bound with the twin as reference.

    Returns:
        A NumPyro model of ``x``, one field (1, H, W) or several of one cosmology (num, 1, H, W), whose log densities
        add up.
    """

    def model(x=None, num_fields: int | None = None):
        observe("x", bd.DiffusionPrior(prior, cosmology(), log_density), x, num_fields)

    return model


def make_noisy_model(prior: bd.DiffusionModel, log_density: LogDensity | None = None) -> Callable:
    """Cosmology and noise level from fields y = x + s n in white noise; the fields are integrated out at their t*.

    Args:
        prior: conditional prior of the field.
        log_density: as for :func:`make_model`.

    Returns:
        A NumPyro model of ``y``, one field or several of one cosmology in noise of one level.
    """

    def model(y=None, num_fields: int | None = None):
        context = cosmology()
        s = numpyro.sample("noise_level", dist.LogUniform(*NOISE_BOUNDS))
        mixture = bd.NoisyDiffusion(prior, s, context, log_density)
        numpyro.deterministic("t_star", mixture.diffusion_time)
        observe("y", mixture, y, num_fields)

    return model
