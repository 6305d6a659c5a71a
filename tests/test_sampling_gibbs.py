"""Gibbs over field and parameters on the analytic twin, and the refusal of what it cannot do."""

from __future__ import annotations

from functools import partial

import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayesdiff as bd
from bayesdiff.diffusion.noise import colour, gaussian_log_density
from bayesdiff.sampling.diffusion_sites import ResidualPower, group_power, noisy_sites
from bayesdiff.sampling.interweaving import first_proposal, log_ratio, shift, whitened_residuals
from bayesdiff.sampling.target import build_target

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
    log_prob = jax.jit(jax.vmap(lambda s: bd.NoisyDiffusion(diffusion, s, (1.0,)).log_prob(y)))
    log_density = np.asarray(log_prob(sigma))
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


def test_shifts_have_the_ratio_of_the_exact_density(twin):
    """With Gaussian dust the line integral of the score is a difference of closed forms, whatever moves."""

    def model(y=None):
        sigma = numpyro.sample("sigma", dist.Uniform(*BOUNDS))
        slope = numpyro.sample("slope", dist.Uniform(0.0, 3.0))
        numpyro.sample("y", bd.NoisyDiffusion(twin, sigma, (slope,)), obs=y)

    y = bd.NoisyDiffusion(twin, 1.0, (1.0,)).sample(jax.random.key(3))
    functions, data = bound(model, y)
    old, new = ({"sigma": jnp.asarray(a), "slope": jnp.asarray(b)} for a, b in ((-0.6, 0.2), (-0.45, -0.1)))
    (fn, _), (fn_new, _) = (noisy_sites(functions, position, data)["y"] for position in (old, new))
    x = fn.sample_latent(jax.random.key(4), y)
    white = whitened_residuals(functions, old, {"y": x}, data)
    moved = y - fn_new.noise_level * colour(white["y"], twin.noise_power(fn_new.context))
    np.testing.assert_allclose(y - fn.noise_level * colour(white["y"], twin.noise_power(fn.context)), x, atol=1e-10)
    smallest = twin.noise_levels()[0]
    between = {name: 0.5 * (old[name] + new[name]) for name in old}
    context = noisy_sites(functions, between, data)["y"][0].context
    prior_power = twin.denoiser.power + smallest**2 * twin.noise_power(context)
    expected = float(gaussian_log_density(moved, prior_power) - gaussian_log_density(x, prior_power))
    expected += float(functions.log_prior(new, data) - functions.log_prior(old, data))
    assert float(log_ratio(functions, old, new, white, data)) == pytest.approx(expected, abs=1e-6)
    assert float(log_ratio(functions, new, old, white, data)) == pytest.approx(-expected, abs=1e-6)


def test_shifts_are_refused_beyond_the_schedule(twin):
    def model(y=None):
        sigma = numpyro.sample("sigma", dist.LogNormal(0.0, 10.0))
        numpyro.sample("y", bd.NoisyDiffusion(twin, sigma, (1.0,)), obs=y)

    y = bd.NoisyDiffusion(twin, 1.0, (1.0,)).sample(jax.random.key(3))
    functions, data = bound(model, y)
    old, new = {"sigma": jnp.asarray(0.0)}, {"sigma": jnp.asarray(20.0)}
    white = {"y": jnp.ones((1, SIZE, SIZE))}
    # Traced, as in a run: NumPyro refuses concrete values at once.
    assert np.isnan(float(jax.jit(partial(log_ratio, functions))(old, new, white, data)))
    proposal = first_proposal(old)._replace(log_scale=jnp.asarray(20.0))
    for seed in range(3):
        moved = jax.jit(lambda key: shift(key, old, white, proposal, functions, data))
        position, acceptance = moved(jax.random.key(seed))
        assert float(acceptance) < 1e-6
        assert float(position["sigma"]) == 0.0


@pytest.mark.slow
def test_field_and_amplitude_move_together_where_the_field_hides_the_noise(twin):
    """Noise far below the field at almost every scale: in turn they creep, together they do not."""
    y = bd.NoisyDiffusion(twin, 0.25, (1.0,)).sample(jax.random.key(8))
    ess, draws = [], None
    for num_shifts in (0, 4):
        algorithm = bd.GibbsDiffusion(
            num_warmup=100, num_diffusion_steps=2, num_parameter_steps=2, num_shifts=num_shifts, adaptation_steps=60
        )
        data = bd.sample(jax.random.key(1), make_model(twin), y, algorithm=algorithm, num_samples=800, progress=False)
        draws = data["posterior"]["sigma"].values
        ess.append(float(arviz_stats.ess(draws)))
    assert ess[1] > 2 * ess[0]
    mean, sd = grid_posterior(twin, y)
    assert abs(draws.mean() - mean) < 4 * sd / np.sqrt(ess[1])
    assert abs(draws.std() - sd) < 4 * sd / np.sqrt(ess[1])


def bound(model, y):
    """The functions and the data of a model, as the engines have them."""
    target = build_target(jax.random.key(0), model, (y,))
    return target.functions, target.data


@pytest.mark.slow
def test_fields_in_a_plate_that_share_the_amplitude(twin):
    """NumPyro expands their distribution; another likelihood stands beside them."""

    def model(y=None, z=None):
        sigma = numpyro.sample("sigma", dist.Uniform(*BOUNDS))
        mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
        with numpyro.plate("fields", 3):
            numpyro.sample("y", bd.NoisyDiffusion(twin, sigma, (1.0,)), obs=y)
        numpyro.sample("z", dist.Normal(mean, 1.0), obs=z)

    y = bd.NoisyDiffusion(twin, 0.5, (1.0,)).sample(jax.random.key(5), (3,))
    algorithm = bd.GibbsDiffusion(num_warmup=80, num_diffusion_steps=2, num_parameter_steps=2, adaptation_steps=80)
    settings = {"num_samples": 500, "num_chains": 2, "progress": False}
    gibbs = bd.sample(jax.random.key(0), model, y, 1.5, algorithm=algorithm, **settings)["posterior"]
    nuts = bd.sample(jax.random.key(1), model, y, 1.5, algorithm=bd.NUTS(num_warmup=300), **settings)["posterior"]
    for name in ("sigma", "mean"):
        spread = float(nuts[name].std())
        errors = [1.0 / arviz_stats.ess(x[name].values) for x in (gibbs, nuts)]
        assert abs(float(gibbs[name].mean() - nuts[name].mean())) < 4.0 * spread * np.sqrt(sum(errors))
        assert float(gibbs[name].std()) == pytest.approx(spread, rel=0.25)
