"""A field under a mask and inhomogeneous noise, with unknown noise level and calibration: denoising and inpainting.

    y = c x + f r n   where the mask is 1,

with x from a diffusion prior, n unit white noise, r a known map of relative noise, f its unknown level and c the
calibration. Neither mask nor r is stationary, so no closed form helps: the field is sampled. It is linear in x with
Gaussian noise, so ``bd.GibbsDiffusion`` samples the model as it stands, at no gradient of the network; as unit normal
values under the prior's probability flow (``bd.noncentred``) the other engines do. The application is the denoising of
arXiv:2211.12444, there at known noise without a mask.

A prior of shapes, whose card holds the scale of its windows (:mod:`models.denoising.scale`), is of w in x = m + a w,
with amplitude a and offset m sites of their own. The norm of w is fixed, so that the data tell the product c a, and c
is known as well as the spread of amplitudes allows.

With a Gaussian prior the posterior of x at given (f, c) is that of a linear Gaussian model, in closed form:
:func:`exact_posterior` is the check of everything else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers

import bayesdiff as bd
from bayesdiff.diffusion.denoiser import is_gaussian
from models.denoising.scale import window_scale
from models.masked_map.observation import MaskedMap, check_survey

LEVEL_BOUNDS = (0.05, 1.0)
CALIBRATION_SD = 0.05
NUM_STEPS = 6
"""Steps of the flow. Their number fixes the cost of a gradient; the study measures what more would change."""


def make_model(
    prior: bd.DiffusionModel,
    mask: np.ndarray,
    relative_noise: np.ndarray,
    context: tuple[float, ...] | None = None,
    num_steps: int | None = NUM_STEPS,
    calibration_sd: float = CALIBRATION_SD,
) -> Callable:
    """The NumPyro model of a masked map.

    Args:
        prior: diffusion prior of the field, of unit variance.
        mask: 1 where a pixel was observed, else 0, (H, W).
        relative_noise: positive, (H, W).
        context: of the prior; by default the centre of its range.
        num_steps: steps of the probability flow, under which the field is a non-centred site; None leaves the field as
            it is, for ``bd.GibbsDiffusion``.
        calibration_sd: standard deviation of the logarithm of the calibration; 0 for a map that is calibrated, as it
            must be by Gibbs for a learned prior that is not one of shapes (:mod:`bayesdiff.sampling.field_gibbs`).

    Returns:
        A model with sites ``level``, ``calibration`` where it is unknown, ``x`` (1, H, W) and ``y``, and with a prior
        of shapes ``amplitude``, ``offset`` and ``shape``. The unit normal values of a non-centred field are at
        ``x_base``, or ``shape_base``.

    Raises:
        ValueError: the shapes do not fit, nothing was observed, the relative noise is not positive, or the
            standard deviation is negative.
    """
    if not calibration_sd >= 0.0:
        raise ValueError(f"calibration_sd must not be negative, got {calibration_sd}")
    mask, relative_noise = check_survey(mask, relative_noise, prior.event_shape[-2:])
    context = central_context(prior) if context is None else context
    spread = jnp.where(mask, relative_noise, 1.0)

    def model(y=None):
        level, calibration, scale = parameter_priors(prior, calibration_sd)
        if scale is None:
            x = numpyro.sample("x", bd.DiffusionPrior(prior, context))
        else:
            amplitude, offset = scale
            shape = numpyro.sample("shape", bd.DiffusionPrior(prior, context))
            x = numpyro.deterministic("x", offset + amplitude * shape)
        observed = dist.Normal(calibration * x, level * spread).mask(mask).to_event(3)
        numpyro.sample("y", observed, obs=y)

    return model if num_steps is None else bd.noncentred(model, num_steps=num_steps)


def parameter_priors(prior: bd.DiffusionModel, calibration_sd: float) -> tuple[Any, Any, tuple[Any, Any] | None]:
    """NumPyro sites of what is unknown beside the field: level, calibration, and the scale of a prior of shapes."""
    level = numpyro.sample("level", dist.LogUniform(*LEVEL_BOUNDS))
    calibration = numpyro.sample("calibration", dist.LogNormal(0.0, calibration_sd)) if calibration_sd else 1.0
    scale = window_scale(prior.card.entries)
    return level, calibration, None if scale is None else scale.sample()


def default_calibration_sd(prior: bd.DiffusionModel, gibbs: bool) -> float:
    """``CALIBRATION_SD``; 0 where Gibbs with a learned prior of whole windows could not tell a calibration."""
    told = is_gaussian(prior.denoiser) or window_scale(prior.card.entries) is not None
    return 0.0 if gibbs and not told else CALIBRATION_SD


def unknowns(prior: bd.DiffusionModel, calibration_sd: float) -> tuple[str, ...]:
    """Names of what the model infers beside the field."""
    of_scale = () if window_scale(prior.card.entries) is None else ("amplitude", "offset")
    return ("level", *(("calibration",) if calibration_sd else ()), *of_scale)


def draw_field(key: jax.Array, prior: bd.DiffusionModel) -> np.ndarray:
    """A field x (1, H, W) of the model."""
    mask = np.ones(prior.event_shape[-2:])
    model = make_model(prior, mask, mask, num_steps=None)
    return np.asarray(handlers.trace(handlers.seed(model, key)).get_trace()["x"]["value"])


def central_context(prior: bd.DiffusionModel) -> tuple[float, ...]:
    """The centre of the range of a prior's context: of the noise of its diffusion, which its field does not know."""
    return tuple(0.5 * (low + high) for low, high in prior.context_bounds or ())


def exact_posterior(
    observation: MaskedMap, power: np.ndarray, mean: float, level: float, calibration: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """The closed form for a Gaussian field: mean (N,), covariance (N, N) of x and log p(y) at given level, calibration.

    Args:
        observation: of H W = N pixels.
        power: of the field, orthonormal, (H, W).
        mean: of the field.
        level: noise level f.
        calibration: c.
    """
    height, width = power.shape
    correlation = np.real(np.fft.ifft2(power))
    row, column = (x.ravel() for x in np.mgrid[:height, :width])
    prior = correlation[(row[:, None] - row) % height, (column[:, None] - column) % width]
    seen = np.flatnonzero(observation.mask.ravel())
    variance = (level * observation.relative_noise.ravel()[seen]) ** 2
    residual = observation.y.ravel()[seen].astype(float) - calibration * mean
    total = calibration**2 * prior[np.ix_(seen, seen)] + np.diag(variance)
    gain = np.linalg.solve(total, calibration * prior[seen]).T
    log_density = -0.5 * residual @ np.linalg.solve(total, residual) - 0.5 * np.linalg.slogdet(2 * np.pi * total)[1]
    return mean + gain @ residual, prior - calibration * gain @ prior[seen], float(log_density)
