"""Gibbs over field and parameters on the analytic twin, and the refusal of what it cannot do."""

from __future__ import annotations

import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayesdiff as bd
from bayesdiff.diffusion.noise import gaussian_log_density
from bayesdiff.sampling.diffusion_sites import ResidualPower, group_power

SIZE = 8
BOUNDS = (0.2, 3.0)


@pytest.fixture
def twin(x64):
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE, 1 / SIZE), np.fft.fftfreq(SIZE, 1 / SIZE)))
    power = 1.0 / (0.5 + k) ** 2
    noise = bd.StationaryNoise(lambda context: jnp.asarray(1.0 / (1.0 + k)) ** context[0], isotropic=True)
    return bd.DiffusionModel(
        bd.GaussianDenoiser(jnp.asarray(power)),
        bd.schedules.Cosine(),
        noise,
        (1, SIZE, SIZE),
        context_names=("slope",),
        context_bounds=((0.0, 3.0),),
    )


def make_model(diffusion):
    def model(y=None):
        sigma = numpyro.sample("sigma", dist.Uniform(*BOUNDS))
        numpyro.sample("y", bd.NoisyDiffusion(diffusion, sigma, (1.0,)), obs=y)

    return model


def grid_posterior(diffusion, y):
    sigma = np.linspace(*BOUNDS, 2001)
    log_density = np.array([float(bd.NoisyDiffusion(diffusion, s, (1.0,)).log_prob(y)) for s in sigma])
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    mean = weight @ sigma
    return mean, np.sqrt(weight @ (sigma - mean) ** 2)


def test_gibbs_has_the_exact_marginal_posterior(twin):
    y = bd.NoisyDiffusion(twin, 1.0, (1.0,)).sample(jax.random.key(3))
    algorithm = bd.GibbsDiffusion(num_warmup=80, num_diffusion_steps=2, num_parameter_steps=3, adaptation_steps=100)
    data = bd.sample(jax.random.key(0), make_model(twin), y, algorithm=algorithm, num_samples=1500, progress=False)
    draws = data["posterior"]["sigma"].values
    ess = float(arviz_stats.ess(draws))
    assert float(arviz_stats.rhat(draws)) < 1.02
    assert ess > 300
    mean, sd = grid_posterior(twin, y)
    assert abs(draws.mean() - mean) < 4 * sd / np.sqrt(ess)
    # The standard deviation of an estimated standard deviation is about sd / sqrt(2 ESS).
    assert abs(draws.std() - sd) < 4 * sd / np.sqrt(ess)


def test_grouped_residual_power_is_the_complete_data_likelihood(twin):
    residual = jax.random.normal(jax.random.key(1), (2, 1, SIZE, SIZE))
    context = jnp.array([1.3])
    grouped = group_power(twin, residual)
    assert grouped.shape[-1] < SIZE * SIZE
    density = ResidualPower(twin, jnp.asarray(0.7), context).log_prob(grouped)
    direct = gaussian_log_density(residual, 0.7**2 * twin.noise_power(context))
    np.testing.assert_allclose(density, direct, rtol=1e-12)
    anisotropic = bd.DiffusionModel(
        twin.denoiser, twin.schedule, bd.StationaryNoise(lambda c: twin.noise_power(c)), (1, SIZE, SIZE), ("slope",)
    )
    every_mode = group_power(anisotropic, residual)
    assert every_mode.shape[-1] == SIZE * SIZE
    np.testing.assert_allclose(
        ResidualPower(anisotropic, jnp.asarray(0.7), context).log_prob(every_mode), direct, rtol=1e-12
    )


def test_model_without_a_diffusion_site_is_refused():
    def model(y=None):
        mu = numpyro.sample("mu", dist.Normal())
        numpyro.sample("y", dist.Normal(mu), obs=y)

    with pytest.raises(
        ValueError, match=r"observed site with a NoisyDiffusion distribution; the model observes y ~ Normal"
    ):
        bd.sample(jax.random.key(0), model, jnp.zeros(3), algorithm=bd.GibbsDiffusion(), progress=False)


def test_prior_that_depends_on_the_parameters_is_refused(twin):
    class Conditional:
        reference = twin.denoiser

        def __call__(self, y, s, noise_power, context):
            return context[0] * y / (1.0 + s**2)

    jax.tree_util.register_pytree_node(Conditional, lambda c: ((), ()), lambda aux, children: Conditional())
    conditional = bd.DiffusionModel(Conditional(), twin.schedule, bd.WhiteNoise(), (1, SIZE, SIZE), ("slope",))
    with pytest.raises(ValueError, match="the prior of its field depends on the context"):
        bd.sample(
            jax.random.key(0),
            make_model(conditional),
            jnp.zeros((1, SIZE, SIZE)),
            algorithm=bd.GibbsDiffusion(),
            progress=False,
        )


@pytest.mark.parametrize("settings", [{"num_diffusion_steps": 0}, {"num_warmup": 2, "num_adaptations": 4}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must be at least"):
        bd.GibbsDiffusion(**settings)
