"""Convergence from shear, under the mask and the noise map of a survey, with the level of the noise unknown.

    e_i = gamma_i(kappa) + f s_i n   where the mask is 1,   kappa = kappa(x),   i = 1, 2

with x from a diffusion prior, kappa(x) the scale of its fields (:class:`models.mass_mapping.data.LogConvergence` for
the shipped prior), gamma the operator of Kaiser and Squires on the periodic patch, n unit white noise, s the noise map
of the survey and f the level by which it may be off. The field is sampled as unit normal values under the prior's
probability flow (``bd.noncentred``): nothing else is known of the posterior than that it is smooth. Remy et al. (2023,
arXiv:2201.05561) sample the same posterior by annealing a score network.

The shear does not know the mean of kappa; the prior alone says what it is, by the mean of x and by what it has learned
of the mean of a patch from its peaks. Mass outside the patch does shear galaxies inside it, and is not in the model:
keep the mask away from the edges.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import bayesdiff as bd
from bayesdiff.cosmology import convergence_to_shear
from models.mass_mapping.data import ShearMap, Survey, check_survey, load_convergence, load_cosmos

LEVEL_SD = 0.1
"""Standard deviation of log f: how well the noise map is believed to be calibrated."""
NUM_STEPS = 4
"""Steps of the flow. Their number fixes the cost of a gradient; the study measures what more would change."""


def make_model(
    prior: bd.DiffusionModel,
    survey: Survey,
    to_convergence: Callable[[jax.Array], jax.Array],
    num_steps: int | None = NUM_STEPS,
) -> Callable:
    """The NumPyro model of an observed shear, with the field as a non-centred site.

    Args:
        prior: diffusion prior of x, of one channel and without context.
        survey: mask and noise, of the prior's shape.
        to_convergence: of a field x of the prior, e.g. ``convergence_scale(prior).convergence``.
        num_steps: steps of the probability flow, under which the field is a non-centred site; None leaves the field as
            it is, for ``GibbsDiffusion``.

    Returns:
        A model of ``shear`` (2, H, W) with sites ``level``, ``x`` (1, H, W; its unit normal values at ``x_base``),
        ``kappa`` (1, H, W) and ``shear``.

    Raises:
        ValueError: the prior or the survey does not fit.
    """
    if prior.event_shape[0] != 1 or prior.context_names:
        raise ValueError(
            f"the prior must have one channel and no context, got fields {prior.event_shape} and {prior.context_names}"
        )
    check_survey(survey, prior.event_shape[-2:])
    mask = np.asarray(survey.mask, dtype=bool)
    noise_sd = jnp.where(mask, survey.noise_sd, 1.0)

    def model(shear=None):
        level = numpyro.sample("level", dist.LogNormal(0.0, LEVEL_SD))
        x = jnp.asarray(numpyro.sample("x", bd.DiffusionPrior(prior)))
        kappa = numpyro.deterministic("kappa", to_convergence(x))
        observed = dist.Normal(convergence_to_shear(kappa), level * noise_sd).mask(mask).to_event(3)
        numpyro.sample("shear", observed, obs=shear)

    return model if num_steps is None else bd.noncentred(model, num_steps=num_steps)


def observe(
    key: jax.Array, convergence: np.ndarray, survey: Survey, level: float = 1.0, description: str = "simulated shear"
) -> ShearMap:
    """A survey of a known convergence.

    Args:
        key: random key.
        convergence: (1, H, W) of the survey's size or larger; the survey looks at the middle of it, and mass around
            that shears galaxies too.
        survey: mask and noise.
        level: noise over that of the survey.
        description: what it is.

    Raises:
        ValueError: the convergence is smaller than the survey, or the survey does not fit.
    """
    shape = np.shape(survey.mask)
    check_survey(survey, shape)  # pyright: ignore[reportArgumentType]
    rows, columns = np.shape(convergence)[-2:]
    top, left = (rows - shape[0]) // 2, (columns - shape[1]) // 2
    if min(top, left) < 0:
        raise ValueError(f"the convergence must cover the {shape} pixels of the survey, got {rows} x {columns}")
    inside = (slice(None), slice(top, top + shape[0]), slice(left, left + shape[1]))
    shear = np.asarray(convergence_to_shear(convergence))[inside]
    noise = level * np.asarray(survey.noise_sd) * np.asarray(jax.random.normal(key, shear.shape))
    truth = {"kappa": np.asarray(convergence)[inside], "level": np.asarray(level)}
    return ShearMap(np.where(survey.mask, shear + noise, 0.0).astype(np.float32), survey, description, truth)


def observe_held_out(key: jax.Array, level: float = 1.0) -> ShearMap:
    """The held-out simulated map as COSMOS would have seen it: the middle of a larger map, its mask and noise."""
    maps = load_convergence()
    survey = load_cosmos().survey
    return observe(
        key,
        np.asarray(maps.scale.convergence(maps.held_out[0])),
        survey,
        level,
        "held-out MassiveNuS map, COSMOS mask and noise",
    )


def chi_square(kappa: np.ndarray, observed: ShearMap) -> np.ndarray:
    """Mean square of the residual shear of convergence maps (..., 1, H, W) over the survey's noise, (...).

    For draws of the posterior it scatters about the square of the noise level.
    """
    mask = np.asarray(observed.survey.mask, dtype=bool)
    residual = np.asarray(observed.shear - convergence_to_shear(kappa))[..., mask]
    return np.mean((residual / np.asarray(observed.survey.noise_sd)[:, mask]) ** 2, axis=(-2, -1))
