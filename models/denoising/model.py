"""Denoising: y = x + s n of a field x from a prior and unit white noise n, at known or unknown noise level s.

At unknown s the observation is the state of the diffusion at an unknown time t*, so the likelihood of s is the prior's
own density there, and the field is drawn by the reverse process from each t* (the denoising of arXiv:2211.12444, which
has the noise level given).
"""

from __future__ import annotations

from collections.abc import Callable

import numpyro
import numpyro.distributions as dist

import bayesdiff as bd
from bayesdiff.diffusion.densities import LogDensity

NOISE_BOUNDS = (0.05, 4.0)


def make_model(prior: bd.DiffusionModel, log_density: LogDensity | None = None) -> Callable:
    """The NumPyro model of a noisy field.

    Args:
        prior: diffusion prior of the field, in white noise.
        log_density: of the mixture; by default the best that the prior offers.

    Returns:
        A model with sites ``noise_level``, in the unit of the field, ``t_star`` and ``y``.
    """

    def model(y=None):
        s = numpyro.sample("noise_level", dist.LogUniform(*NOISE_BOUNDS))
        mixture = bd.NoisyDiffusion(prior, s, log_density=log_density)
        numpyro.deterministic("t_star", mixture.diffusion_time)
        numpyro.sample("y", mixture, obs=y)

    return model
