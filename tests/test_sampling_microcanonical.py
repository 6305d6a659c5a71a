"""The adjusted microcanonical sampler against Gaussian posteriors in closed form, and the protocol of the chain loop.

Every statistical assertion is scaled by the effective sample size.
"""
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayesdiff as bd
from bayesdiff.sampling.chains import run_chains
from bayesdiff.sampling.layout import Layout
from bayesdiff.sampling.microcanonical import microcanonical_kernel
from bayesdiff.sampling.target import build_target
from tests.diffusion_toys import pixel_mixture, red_power, twin_model
from validation.noncentred import deviations, hartley

KEY = jax.random.key(5)
CONTEXT = (1.2, -1.0)
SIZE = 8


def assert_gaussian(draws: np.ndarray, mean: np.ndarray, variance: np.ndarray, smallest_ess: float) -> None:
    """Draws (chain, draw, values) have these moments within 4.5 Monte Carlo standard errors each."""
    means, variances, ess = deviations(draws.astype(np.float64), mean, variance)
    assert ess > smallest_ess
    assert np.abs(means).max() < 4.5
    assert np.abs(variances).max() < 4.5


class Correlated:
    """A linear-Gaussian model of 10 values whose posterior is correlated; counts its traces."""

    def __init__(self):
        rng = np.random.default_rng(0)
        factor = rng.normal(size=(10, 10))
        self.covariance = factor @ factor.T / 10 + 0.1 * np.eye(10)
        self.scale = np.linalg.cholesky(self.covariance).astype(np.float32)
        self.y = rng.normal(size=10).astype(np.float32)
        self.traces = 0

    def __call__(self, y=None):
        self.traces += 1
        x = numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(10), scale_tril=self.scale))
        numpyro.sample("y", dist.Normal(x, 1.5).to_event(1), obs=y)

    def posterior(self, y):
        covariance = np.linalg.inv(np.linalg.inv(self.covariance) + np.eye(10) / 1.5**2)
        return covariance @ (y / 1.5**2), covariance


@pytest.fixture(scope="module")
def correlated():
    """The model, its target, and one run of it."""
    model = Correlated()
    target = build_target(KEY, model, (model.y,))
    algorithm = bd.AdjustedMCLMC(num_warmup=300, trajectory_length=2.0)
    prepared = algorithm.prepare(KEY, target, 4, False)
    return model, prepared, run_chains(KEY, prepared, 4, 1000, progress=False)


def test_correlated_gaussian(correlated):
    model, _, run = correlated
    mean, covariance = model.posterior(model.y)
    values, vectors = np.linalg.eigh(covariance)
    assert values[-1] > 5 * values[0]
    assert_gaussian(run.posterior["x"] @ vectors, mean @ vectors, values, 800)
    stats = run.sample_stats
    assert {"acceptance_rate", "diverging", "n_steps", "step_size", "lp"} == set(stats)
    assert not stats["diverging"].any()
    assert (stats["step_size"] == stats["step_size"][:, :1]).all(), "the step size must be frozen after the warm-up"
    assert 0.8 < stats["acceptance_rate"].mean() < 0.999
    assert stats["n_steps"].min() >= 1
    assert len(np.unique(stats["n_steps"])) > 2, "lengths are random"


def test_same_key_same_draws_however_they_are_blocked(correlated, monkeypatch):
    _, prepared, run = correlated
    monkeypatch.setattr("bayesdiff.sampling.chains._BLOCK_SECONDS", 1e-9)
    blocks = []
    again = run_chains(KEY, prepared, 4, 40, progress=False, callback=blocks.append)
    assert again.compile_seconds == 0
    assert len(blocks) > 100, "one iteration at a time"
    for name, draws in again.posterior.items():
        np.testing.assert_array_equal(draws, run.posterior[name][:, :40])
    np.testing.assert_array_equal(again.sample_stats["n_steps"], run.sample_stats["n_steps"][:, :40])
    other = run_chains(jax.random.key(6), prepared, 4, 5, progress=False)
    assert (other.posterior["x"] != run.posterior["x"][:, :5]).all()


def test_new_data_do_not_compile_again(correlated):
    model, prepared, _ = correlated
    y = model.y + 2.0
    target = prepared.target.with_data(KEY, y)
    traces = model.traces
    prepared = bd.AdjustedMCLMC(num_warmup=300, trajectory_length=2.0).prepare(KEY, target, 4, False)
    run = run_chains(KEY, prepared, 4, 1000, progress=False)
    assert run.compile_seconds == 0
    assert model.traces == traces
    mean, covariance = model.posterior(y)
    values, vectors = np.linalg.eigh(covariance)
    assert_gaussian(run.posterior["x"] @ vectors, mean @ vectors, values, 800)


SHALLOW_POWER = 0.5 * red_power(SIZE, -0.5)
SHALLOW = bd.DiffusionModel(
    bd.GaussianDenoiser(jnp.asarray(SHALLOW_POWER)), bd.schedules.VPLinear(), bd.WhiteNoise(), (1, SIZE, SIZE)
)


def two_fields(y=None):
    """A steep field without centre, a shallow one as it is, and an ordinary parameter."""
    offset = numpyro.sample("offset", dist.Normal(0.0, 1.0))
    steep = jnp.asarray(numpyro.sample("steep", bd.DiffusionPrior(twin_model(SIZE), CONTEXT)))
    shallow = jnp.asarray(numpyro.sample("shallow", bd.DiffusionPrior(SHALLOW)))
    numpyro.sample("y", dist.Normal(steep + shallow + offset, 0.5).to_event(3), obs=y)


@pytest.mark.slow
def test_two_fields_of_64_values_and_a_parameter():
    """Each mode of the two fields has its own posterior; the offset shares the mean mode with both."""
    y = 0.3 + jax.random.normal(jax.random.key(8), (1, SIZE, SIZE))
    model = bd.noncentred(two_fields, sites=["steep"])
    data = bd.sample(KEY, model, y, algorithm=bd.AdjustedMCLMC(num_warmup=300), num_samples=1000, progress=False)
    posterior = data["posterior"].to_dataset()
    assert posterior["steep"].dims == posterior["shallow"].dims == ("chain", "draw", "channel", "height", "width")
    assert data.attrs["algorithm"] == "AdjustedMCLMC"
    assert "energy" not in data["sample_stats"], "a velocity of fixed length has no energy to diagnose"
    offset_mode = hartley(np.ones((SIZE, SIZE)))
    powers = {"steep": red_power(SIZE).ravel(), "shallow": SHALLOW_POWER.ravel(), "offset": offset_mode**2}
    total = sum(powers.values()) + 0.5**2
    residual = hartley(np.asarray(y[0], dtype=np.float64) - 0.3)
    for name, mean in (("steep", hartley(np.full((SIZE, SIZE), 0.3))), ("shallow", 0.0)):
        modes = hartley(posterior[name].values[:, :, 0].astype(np.float64))
        power = powers[name]
        assert_gaussian(modes, mean + power / total * residual, power - power**2 / total, 400)
    offset = posterior["offset"].values.astype(np.float64)[..., None]
    mean, variance = offset_mode[0] / total[0] * residual[0], 1.0 - offset_mode[0] ** 2 / total[0]
    assert_gaussian(offset, np.array([mean]), np.array([variance]), 400)


@pytest.mark.slow
def test_score_gradient_samples_the_density_of_its_values():
    """A Metropolis test on values makes up for a gradient that is not theirs."""
    width, y = 0.5, np.array([0.1, -0.4, 0.9, -1.2]).reshape(1, 2, 2).astype(np.float32)
    diffusion, s = pixel_mixture(True), 0.1
    prior = bd.DiffusionPrior(diffusion, log_density=bd.ScoreGradient(s, 16))

    def model(y=None):
        x = numpyro.sample("x", prior)
        numpyro.sample("y", dist.Normal(x, width).to_event(3), obs=y)

    data = bd.sample(KEY, model, y, algorithm=bd.AdjustedMCLMC(num_warmup=300), num_samples=2000, progress=False)
    grid = np.linspace(-4.0, 4.0, 4001)
    mixture = diffusion.denoiser
    total = np.asarray(mixture.variances) + s**2
    density = (
        np.asarray(mixture.weights) * np.exp(-0.5 * (grid[:, None] - np.asarray(mixture.means)) ** 2 / total)
    ) @ (total**-0.5)
    weight = density[:, None] * np.exp(-0.5 * (grid[:, None] - y.ravel()) ** 2 / width**2)
    weight /= weight.sum(axis=0)
    mean = grid @ weight
    variance = (grid**2) @ weight - mean**2
    x = data["posterior"].to_dataset()["x"].values.reshape(4, 2000, 4)
    assert_gaussian(x, mean, variance, 300)


def test_kernel_is_cached_and_chains_are_independent(correlated):
    _, prepared, _ = correlated
    settings = bd.AdjustedMCLMC(num_warmup=300, trajectory_length=2.0)
    layout = Layout.of(prepared.target.latent_shapes)
    assert microcanonical_kernel(settings, prepared.target.density, layout) is prepared.kernel
    assert prepared.kernel.independent


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"num_warmup": 5}, "num_warmup"),
        ({"target_acceptance": 1.0}, "target_acceptance"),
        ({"trajectory_length": 0.0}, "trajectory_length"),
        ({"trajectory_length": float("inf")}, "trajectory_length"),
        ({"max_integration_steps": 0}, "max_integration_steps"),
    ],
)
def test_bad_settings_are_refused(settings, name):
    with pytest.raises(ValueError, match=name):
        bd.AdjustedMCLMC(**settings)


def test_one_value_is_refused():
    def model(y=None):
        numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal(0.0, 1.0)), 1.0), obs=y)

    with pytest.raises(ValueError, match="at least 2 unconstrained values, the model has 1"):
        bd.sample(KEY, model, np.float32(0.3), algorithm=bd.AdjustedMCLMC(), progress=False)


def test_a_short_warm_up_finds_the_step_size_of_a_field_observed_well_in_one_mode():
    """A hundred times narrower in one direction than in the others."""

    def model(y=None):
        x = jnp.asarray(numpyro.sample("x", dist.Normal(0.0, 1.0).expand((30,)).to_event(1)))
        numpyro.sample("y", dist.Normal(x[3], 1e-2), obs=y)

    data = bd.sample(KEY, model, 0.5, algorithm=bd.AdjustedMCLMC(num_warmup=60), num_samples=20, progress=False)
    statistics = data["sample_stats"].to_dataset()
    assert float(statistics["n_steps"].mean()) < 4
    assert float(statistics["acceptance_rate"].mean()) > 0.7
