"""Gibbs sampling of latent fields against closed forms, and the likelihoods it refuses."""

from __future__ import annotations

import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from scipy.stats import norm

import bayesdiff as bd
from bayesdiff.diffusion.fourier import filter_field
from bayesdiff.sampling import field_gibbs
from bayesdiff.sampling.augmentation import (
    LARGEST_SHARE,
    draw_given_likelihood,
    is_linear,
    largest_eigenvalue,
    operator_function,
)
from bayesdiff.sampling.field_gibbs import log_likelihood
from bayesdiff.sampling.target import build_target
from bayesdiff.sampling.translations import prior_ratio, twin_mean
from models.masked_map.model import exact_posterior
from models.masked_map.observation import observe, scan_noise, survey_mask
from tests.diffusion_toys import coloured, pixel_mixture, red_power

SIZE, MEAN, LEVEL, CALIBRATION = 8, 0.3, 0.4, 1.05
MASK, NOISE = survey_mask(SIZE, seed=1), scan_noise(SIZE)
SPREAD = np.where(MASK, NOISE, 1.0)


@pytest.fixture
def prior(x64):
    return bd.DiffusionModel(
        bd.GaussianDenoiser(jnp.asarray(red_power(SIZE)), MEAN), bd.schedules.Cosine(), bd.WhiteNoise(), (1, SIZE, SIZE)
    )


@pytest.fixture
def observation(prior):
    field = np.asarray(bd.DiffusionPrior(prior).sample(jax.random.key(3)))
    return observe(jax.random.key(1), field, MASK, NOISE, LEVEL, 1.0)


def masked(prior, level=LEVEL, calibration=CALIBRATION):
    def model(y=None):
        x = numpyro.sample("x", bd.DiffusionPrior(prior))
        numpyro.sample("y", dist.Normal(calibration * x, level * SPREAD).mask(MASK).to_event(3), obs=y)

    return model


def run(model, *data, num=1500, **settings):
    algorithm = bd.GibbsDiffusion(**{"num_warmup": 100, "num_diffusion_steps": 1, "adaptation_steps": 100} | settings)
    return bd.sample(
        jax.random.key(0), model, *data, algorithm=algorithm, num_chains=4, num_samples=num, progress=False
    )


def check_moments(draws, mean, covariance, within=4.5):
    """Means and variances of (chains, draws, values), in Monte Carlo standard errors."""
    for values, expected, spread in (
        (draws, mean, np.sqrt(np.diag(covariance))),
        ((draws - mean) ** 2, np.diag(covariance), np.sqrt(2.0) * np.diag(covariance)),
    ):
        ess = np.array([arviz_stats.ess(values[:, :, i]) for i in range(values.shape[-1])])
        z = (values.mean(axis=(0, 1)) - expected) / spread * np.sqrt(ess)
        assert np.abs(z).max() < within
        assert np.sqrt(np.mean(z**2)) < 1.5


def test_a_field_under_a_mask_has_its_exact_posterior(prior, observation):
    data = run(masked(prior), observation.y)
    mean, covariance, _ = exact_posterior(observation, red_power(SIZE), MEAN, LEVEL, CALIBRATION)
    check_moments(data["posterior"]["x"].values.reshape(4, -1, SIZE**2), mean, covariance)
    # Noise of the diffusion's kind, as much as the least noisy pixel allows.
    level = data["sample_stats"]["field_noise_level"].values
    assert np.all((level < LEVEL / CALIBRATION) & (level > 0.8 * LEVEL / CALIBRATION))


@pytest.mark.slow
def test_coloured_noise_and_an_operator_that_is_not_diagonal(x64):
    """The field is smoothed before it is masked, and its diffusion has the noise of another spectrum."""
    power, window = red_power(SIZE), 1.0 / (1.0 + 0.3 / red_power(SIZE))
    prior = coloured(bd.GaussianDenoiser(jnp.asarray(power)), SIZE)
    fn = bd.DiffusionPrior(prior, prior.context_array(tuple(np.mean(prior.context_bounds, axis=1))))
    operator = np.asarray(
        jax.vmap(lambda e: filter_field(e.reshape(1, SIZE, SIZE), jnp.asarray(window)).ravel())(jnp.eye(SIZE**2))
    ).T[MASK.ravel()]
    signal = np.asarray(
        jax.vmap(lambda e: filter_field(e.reshape(1, SIZE, SIZE), jnp.asarray(power)).ravel())(jnp.eye(SIZE**2))
    )
    y = operator @ np.asarray(fn.sample(jax.random.key(1))).ravel()
    y = y + LEVEL * np.random.default_rng(0).normal(size=y.shape)

    def model(y=None):
        x = numpyro.sample("x", fn)
        numpyro.sample("y", dist.Normal(jnp.asarray(operator) @ x.ravel(), LEVEL).to_event(1), obs=y)

    data = run(model, y, num_diffusion_steps=2)
    covariance = np.linalg.inv(np.linalg.inv(signal) + operator.T @ operator / LEVEL**2)
    check_moments(
        data["posterior"]["x"].values.reshape(4, -1, SIZE**2), covariance @ operator.T @ y / LEVEL**2, covariance
    )


@pytest.mark.parametrize("num_shifts", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_unknown_level_and_calibration_have_their_exact_posterior(prior, observation, num_shifts):
    def model(y=None):
        level = numpyro.sample("level", dist.LogUniform(0.1, 1.0))
        calibration = numpyro.sample("calibration", dist.Normal(1.0, 0.2))
        x = numpyro.sample("x", bd.DiffusionPrior(prior))
        numpyro.sample("y", dist.Normal(calibration * x, level * SPREAD).mask(MASK).to_event(3), obs=y)

    levels, calibrations = np.linspace(np.log(0.1), 0.0, 60), np.linspace(0.2, 1.8, 60)
    log_density = np.array(
        [
            [
                exact_posterior(observation, red_power(SIZE), MEAN, np.exp(level), c)[2] - 0.5 * ((c - 1.0) / 0.2) ** 2
                for c in calibrations
            ]
            for level in levels
        ]
    )
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    posterior = run(model, observation.y, num=1000, num_shifts=num_shifts)["posterior"]
    for values, grid, marginal in (
        (np.log(posterior["level"].values), levels, weight.sum(axis=1)),
        (posterior["calibration"].values, calibrations, weight.sum(axis=0)),
    ):
        mean = marginal @ grid
        sd = np.sqrt(marginal @ (grid - mean) ** 2)
        assert abs(values.mean() - mean) < 4.5 * sd / np.sqrt(arviz_stats.ess(values))
        assert values.std() == pytest.approx(sd, rel=0.15)


def test_a_run_that_was_interrupted_continues_to_the_same_draws(prior, observation, tmp_path, monkeypatch):
    monkeypatch.setattr("bayesdiff.sampling.store.COMMIT_SECONDS", 0.0)

    def model(y=None):
        level = numpyro.sample("level", dist.LogUniform(0.1, 1.0))
        x = numpyro.sample("x", bd.DiffusionPrior(prior))
        numpyro.sample("y", dist.Normal(x, level * SPREAD).mask(MASK).to_event(3), obs=y)

    algorithm = bd.GibbsDiffusion(num_warmup=30, num_diffusion_steps=1, num_adaptations=2, adaptation_steps=30)
    settings = {"algorithm": algorithm, "num_chains": 2, "num_samples": 60, "progress": False}
    target = (jax.random.key(5), model, observation.y)
    whole = bd.sample(*target, **settings)

    def stop(report):
        if report.phase == "warm-up" and report.step < report.total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bd.sample(*target, store=tmp_path / "run.zarr", callback=stop, **settings)
    continued = bd.sample(*target, store=tmp_path / "run.zarr", **settings)
    for group in ("posterior", "sample_stats"):
        xr.testing.assert_identical(continued[group].to_dataset().load(), whole[group].to_dataset())


@pytest.mark.slow
def test_two_fields_of_one_map_are_told_apart(prior):
    """Each with its own prior; their sum is observed."""
    smooth = bd.DiffusionModel(
        bd.GaussianDenoiser(jnp.asarray(red_power(SIZE)) ** 3), bd.schedules.Cosine(), bd.WhiteNoise(), (1, SIZE, SIZE)
    )

    def model(y=None):
        a = numpyro.sample("a", bd.DiffusionPrior(prior))
        b = numpyro.sample("b", bd.DiffusionPrior(smooth))
        numpyro.sample("y", dist.Normal(a + b, LEVEL).to_event(3), obs=y)

    y = np.random.default_rng(1).normal(size=(1, SIZE, SIZE))
    posterior = run(model, y, num=1500)["posterior"]
    modes = {name: np.fft.fft2(posterior[name].values[:, :, 0], norm="ortho").real for name in ("a", "b")}
    powers = {"a": red_power(SIZE), "b": red_power(SIZE) ** 3}
    total = sum(powers.values()) + LEVEL**2
    data = np.fft.fft2(y[0] - MEAN, norm="ortho").real
    # A few modes whose values are real: k and -k are the same.
    for row, column in ((0, 4), (4, 0), (4, 4)):
        for name, power in powers.items():
            values = modes[name][:, :, row, column]
            p = power[row, column]
            variance = p - p**2 / total[row, column]
            ess = arviz_stats.ess(values)
            expected = p / total[row, column] * data[row, column]
            assert abs(values.mean() - expected) < 4.5 * np.sqrt(variance / ess)
            assert values.var() == pytest.approx(variance, rel=0.3)


@pytest.mark.slow
def test_fields_in_a_plate(prior, observation):
    """Two maps of unknown common level: each has its own field."""

    def model(y=None):
        level = numpyro.sample("level", dist.LogUniform(0.1, 1.0))
        with numpyro.plate("maps", 2):
            x = numpyro.sample("x", bd.DiffusionPrior(prior))
            numpyro.sample("y", dist.Normal(x, level * SPREAD).mask(MASK).to_event(3), obs=y)

    second = bd.DiffusionPrior(prior).sample(jax.random.key(9))
    y = jnp.stack([jnp.asarray(observation.y), second + LEVEL * jax.random.normal(jax.random.key(2), second.shape)])
    data = run(model, y, num=300)
    x = data["posterior"]["x"].values
    assert x.shape == (4, 300, 2, 1, SIZE, SIZE)
    error = x.mean(axis=(0, 1))[1] - np.asarray(second)
    assert np.sqrt(np.mean(error[0][MASK] ** 2)) < np.asarray(second)[0][MASK].std()
    assert abs(np.log(data["posterior"]["level"].values).mean() - np.log(LEVEL)) < 0.5


@pytest.mark.slow
def test_any_other_likelihood_is_sampled_with_a_test(prior):
    """Counts of a lognormal field: against NUTS on unit normal values."""

    def model(y=None):
        x = numpyro.sample("x", bd.DiffusionPrior(prior))
        numpyro.sample("y", dist.Poisson(jnp.exp(0.5 * x)).to_event(3), obs=y)

    x = bd.DiffusionPrior(prior).sample(jax.random.key(3))
    y = np.asarray(jax.random.poisson(jax.random.key(4), jnp.exp(0.5 * x)), float)
    gibbs = run(model, y, num=2000)
    acceptance = gibbs["sample_stats"]["field_acceptance_rate"].values.mean()
    assert 0.4 < acceptance < 0.95
    nuts = bd.sample(
        jax.random.key(1), bd.noncentred(model), y, algorithm=bd.NUTS(num_warmup=300, dense_mass=False), progress=False
    )
    a, b = (data["posterior"]["x"].values.reshape(4, -1, SIZE**2) for data in (gibbs, nuts))
    for power in (1, 2):
        errors = [np.array([arviz_stats.mcse(d[:, :, i] ** power) for i in range(SIZE**2)]) for d in (a, b)]
        z = ((a**power).mean(axis=(0, 1)) - (b**power).mean(axis=(0, 1))) / np.hypot(*errors)
        assert np.abs(z).max() < 4.5
        assert np.sqrt(np.mean(z**2)) < 1.4


def test_draws_under_a_linear_likelihood_are_always_accepted(prior, observation):
    target = build_target(jax.random.key(0), masked(prior), (observation.y,))
    likelihood = lambda x: log_likelihood(target.functions, ("x",), {}, x, target.data)  # noqa: E731
    priors = {"x": bd.DiffusionPrior(prior)}
    x = {"x": priors["x"].sample(jax.random.key(2))}
    assert is_linear(jax.random.key(1), likelihood, x)
    assert not is_linear(jax.random.key(1), lambda x: -jnp.sum(jnp.exp(x["x"])), x)
    draw = draw_given_likelihood(jax.random.key(3), priors, likelihood, x, 1, reference={"x": jnp.zeros_like(x["x"])})
    assert float(draw.acceptance) == pytest.approx(1.0, abs=1e-3)
    assert np.any(draw.fields["x"] != x["x"])


def test_functions_and_the_largest_eigenvalue_of_an_operator(x64):
    rng = np.random.default_rng(0)
    vectors, _ = np.linalg.qr(rng.normal(size=(16, 16)))
    eigenvalues = np.linspace(-0.5, 0.88, 16)
    matrix = jnp.asarray(vectors * eigenvalues @ vectors.T)
    vector = {"x": jnp.asarray(rng.normal(size=(1, 4, 4)))}

    def operator(fields):
        return {"x": (matrix @ fields["x"].ravel()).reshape(1, 4, 4)}

    for function in (lambda t: np.sqrt(1.0 - t), lambda t: 1.0 / (1.0 - t)):
        expected = vectors * function(eigenvalues) @ vectors.T @ np.asarray(vector["x"]).ravel()
        np.testing.assert_allclose(operator_function(function, operator, vector)["x"].ravel(), expected, rtol=1e-3)
    found = float(largest_eigenvalue(jax.random.key(0), operator, vector))
    assert 0.8 * 0.88 < found <= 0.88 + 1e-9
    assert LARGEST_SHARE > 0.88


def test_what_fields_follow_is_the_posterior_mean_and_their_prior_the_closed_form(prior, observation):
    target = build_target(jax.random.key(0), masked(prior), (observation.y,))
    likelihood = lambda x: log_likelihood(target.functions, ("x",), {}, x, target.data)  # noqa: E731
    priors, start = {"x": bd.DiffusionPrior(prior)}, {"x": jnp.zeros((1, SIZE, SIZE))}
    mean, _, _ = exact_posterior(observation, red_power(SIZE), MEAN, LEVEL, CALIBRATION)
    np.testing.assert_allclose(twin_mean(likelihood, priors, start)["x"].ravel(), mean, atol=1e-3)
    change = {"x": 0.1 * jax.random.normal(jax.random.key(1), (1, SIZE, SIZE))}
    x = bd.DiffusionPrior(prior).sample(jax.random.key(2))
    expected = priors["x"].log_prob(x + change["x"]) - priors["x"].log_prob(x)
    assert float(prior_ratio(priors, {"x": x}, change)) == pytest.approx(float(expected), abs=0.02)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_chains_find_modes_by_their_weight_as_the_likelihood_comes_in_by_degrees(monkeypatch):
    bimodal, spread, observed = pixel_mixture(with_twin=True), 0.1, 0.2

    def model(y=None):
        x = numpyro.sample("x", bd.DiffusionPrior(bimodal))
        numpyro.sample("y", dist.Normal(x[..., 0, 0, 0] + 0.8 * x[..., 0, 0, 1], spread), obs=y)

    def share(first_power):
        """Of chains whose first pixel is in the lower mode and whose second is in the upper one."""
        monkeypatch.setattr(field_gibbs, "FIRST_POWER", first_power)
        field_gibbs.field_gibbs_kernel.cache_clear()
        algorithm = bd.GibbsDiffusion(num_warmup=200)
        settings = {"num_chains": 800, "num_samples": 2, "progress": False}
        data = bd.sample(jax.random.key(0), model, jnp.asarray(observed), algorithm=algorithm, **settings)
        x = np.asarray(data["posterior"]["x"])[:, -1, 0, 0]
        return np.mean((x[:, 0] < -0.2) & (x[:, 1] > -0.2))

    denoiser = bimodal.denoiser
    weight, mean, variance = (np.asarray(x) for x in (denoiser.weights, denoiser.means, denoiser.variances))
    centre = mean[:, None] + 0.8 * mean
    evidence = (
        weight[:, None] * weight * norm.pdf(observed, centre, np.sqrt(variance[:, None] + 0.64 * variance + spread**2))
    )
    exact = evidence[0, 1] / evidence.sum()
    by_degrees, at_once = share(field_gibbs.FIRST_POWER), share(1.0)
    field_gibbs.field_gibbs_kernel.cache_clear()
    assert abs(by_degrees - exact) < 0.7 * abs(at_once - exact)


def test_the_likelihood_is_whole_after_half_of_the_warm_up():
    powers = np.array([field_gibbs.likelihood_power(jnp.asarray(i), 100) for i in (0, 24, 49, 99, 5000)])
    assert powers[0] < 1.2 * field_gibbs.FIRST_POWER
    np.testing.assert_allclose(powers[1], field_gibbs.FIRST_POWER**0.5, rtol=1e-3)
    np.testing.assert_array_equal(powers[2:], 1.0)
    assert field_gibbs.likelihood_power(jnp.asarray(0), 0) == 1.0


@pytest.mark.slow
def test_a_parameter_that_the_data_do_not_tell_keeps_its_prior(prior, observation):
    def model(y=None):
        numpyro.sample("bounded", dist.Uniform(0.0, 1.0))
        numpyro.sample("heavy", dist.StudentT(1.0))
        masked(prior)(y)

    data = run(model, jnp.asarray(observation.y))["posterior"].to_dataset()
    bounded, heavy = data["bounded"], data["heavy"]
    assert max(float(arviz_stats.rhat(values)) for values in (bounded, heavy)) < 1.01
    np.testing.assert_allclose(np.quantile(bounded, [0.16, 0.5, 0.84]), [0.16, 0.5, 0.84], atol=0.05)
    np.testing.assert_allclose(np.quantile(heavy, [0.25, 0.5, 0.75]), [-1.0, 0.0, 1.0], atol=0.2)


def test_unsuitable_models_are_refused(prior):
    def both(y=None, z=None):
        x = numpyro.sample("x", bd.DiffusionPrior(prior))
        numpyro.sample("y", dist.Normal(x, 1.0).to_event(3), obs=y)
        numpyro.sample("z", bd.NoisyDiffusion(prior, 0.5), obs=z)

    field = np.ones((1, SIZE, SIZE))
    with pytest.raises(ValueError, match="not both in one model"):
        run(both, field, field)
    with pytest.raises(ValueError, match="num_field_steps must be at least 1, got 0"):
        bd.GibbsDiffusion(num_field_steps=0)
