"""The NumPyro model of the study: a mixed map, with the dust integrated out."""

from __future__ import annotations

from collections.abc import Callable

import numpyro
import numpyro.distributions as dist

import bayesdiff as bd

PRIOR_BOUNDS = {"H0": (50.0, 90.0), "omega_b": (0.0075, 0.0567), "sigma": (0.1, 1.2)}


def make_model(dust: bd.DiffusionModel) -> Callable:
    """The model of a mixture y = dust + sigma (CMB + instrument noise), in units of the dust standard deviation.

    Args:
        dust: dust prior whose noise is CMB and instrument noise, conditioned on (H0, omega_b).

    Returns:
        A NumPyro model with sites H0 [km/s/Mpc], omega_b, sigma (rms of the CMB), y (1, H, W), and the diffusion time
        t_star.
    """

    def model(y=None):
        H0 = numpyro.sample("H0", dist.Uniform(*PRIOR_BOUNDS["H0"]))
        omega_b = numpyro.sample("omega_b", dist.Uniform(*PRIOR_BOUNDS["omega_b"]))
        sigma = numpyro.sample("sigma", dist.Uniform(*PRIOR_BOUNDS["sigma"]))
        mixture = bd.NoisyDiffusion(dust, noise_level=sigma, context=(H0, omega_b))
        numpyro.deterministic("t_star", mixture.diffusion_time)
        numpyro.sample("y", mixture, obs=y)

    return model
