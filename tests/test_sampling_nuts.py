"""NUTS and HMC against posteriors known in closed form and against published reference draws.

Every statistical assertion is gated by R-hat and scaled by the effective sample size.
"""
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from pathlib import Path

import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr

from bayesdiff.sampling import HMC, NUTS, sample
from bayesdiff.sampling.chains import run_chains
from bayesdiff.sampling.nuts import guarded_metric, nuts_kernel
from bayesdiff.sampling.target import build_target

KEY = jax.random.key(5)
REFERENCE = Path(__file__).parents[1] / "../shared/data/posteriordb_reference.npz"


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def assert_mean(draws: xr.DataArray, truth: float, truth_error: float = 0.0) -> None:
    """The mean of well-mixed draws (chain, draw) is the truth within 4 Monte Carlo standard errors."""
    assert float(arviz_stats.rhat(draws)) < 1.01
    ess = float(arviz_stats.ess(draws, method="mean"))
    assert ess > 200
    error = np.hypot(float(draws.std()) / np.sqrt(ess), truth_error)
    assert abs(float(draws.mean()) - truth) < 4 * error


def assert_moments(draws: xr.DataArray, mean: float, variance: float) -> None:
    assert_mean(draws, mean)
    assert_mean((draws - mean) ** 2, variance)


@pytest.mark.usefixtures("x64")
def test_chains_in_turn_draw_what_chains_together_draw(monkeypatch):
    def model(y=None):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        numpyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y)

    def draws():
        nuts_kernel.cache_clear()
        tree = sample(KEY, model, jnp.ones(3), algorithm=NUTS(num_warmup=50), num_samples=60, progress=False)
        return tree["posterior"].to_dataset()["x"].values

    in_turn = draws()
    monkeypatch.setattr("bayesdiff.sampling.nuts.jax.default_backend", lambda: "gpu")
    np.testing.assert_allclose(draws(), in_turn, rtol=1e-6)
    nuts_kernel.cache_clear()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("algorithm", [NUTS(), NUTS(dense_mass=False), HMC()], ids=["nuts", "nuts-diagonal", "hmc"])
def test_conjugate_correlated_gaussian(algorithm):
    prior_covariance = np.array([[4.0, 3.4], [3.4, 4.0]])
    noise = np.array([1.5, 0.7])
    y = np.array([1.0, -2.0])

    def model(y=None):
        x = numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(2), prior_covariance))
        numpyro.sample("y", dist.Normal(x, noise).to_event(1), obs=y)

    precision = np.linalg.inv(prior_covariance) + np.diag(noise**-2)
    covariance = np.linalg.inv(precision)
    mean = covariance @ (y / noise**2)
    tree = sample(KEY, model, y, algorithm=algorithm, num_samples=1000, progress=False)
    x = tree["posterior"].to_dataset()["x"]
    assert x.dtype == np.float64
    for i in range(2):
        assert_moments(x[..., i], mean[i], covariance[i, i])
    assert_mean((x[..., 0] - mean[0]) * (x[..., 1] - mean[1]), covariance[0, 1])
    stats = tree["sample_stats"].to_dataset()
    assert {"acceptance_rate", "diverging", "energy", "n_steps", "step_size", "lp"} <= set(stats.data_vars)
    assert not stats["diverging"].any()
    assert (stats["step_size"] == stats["step_size"][:, 0]).all(), "the step size must be frozen after the warm-up"
    # 0.8 is aimed at; the average over the last window is off by a few hundredths.
    assert 0.7 < float(stats["acceptance_rate"].mean()) < 0.97


@pytest.mark.usefixtures("x64")
def test_constrained_sites_follow_their_priors():
    def model(y=None):
        numpyro.sample("uniform", dist.Uniform(2.0, 5.0))
        numpyro.sample("half", dist.HalfNormal(2.0))
        numpyro.sample("simplex", dist.Dirichlet(jnp.array([2.0, 3.0, 5.0])))
        with numpyro.plate("band", 2):
            numpyro.sample("rate", dist.Exponential(jnp.array([1.0, 3.0])))
        numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)

    tree = sample(KEY, model, jnp.array(0.3), num_samples=1500, progress=False)
    posterior = tree["posterior"].to_dataset()
    assert posterior["rate"].dims == ("chain", "draw", "band")
    assert posterior["simplex"].shape == (4, 1500, 3)
    np.testing.assert_allclose(posterior["simplex"].sum("simplex_dim_0"), 1.0)
    assert_moments(posterior["uniform"], 3.5, 0.75)
    assert_moments(posterior["half"], 2 * np.sqrt(2 / np.pi), 4 * (1 - 2 / np.pi))
    assert_moments(posterior["simplex"][..., 0], 0.2, 0.2 * 0.8 / 11)
    for i, rate in enumerate([1.0, 3.0]):
        assert_moments(posterior["rate"][..., i], 1 / rate, 1 / rate**2)


def test_eight_schools_reproduces_reference_draws():
    if not REFERENCE.exists():
        pytest.skip(f"reference posterior draws are not there: {REFERENCE}")
    with np.load(REFERENCE) as data:
        prefix = "eight_schools_noncentered"
        draws, names = data[f"{prefix}/draws"], [str(name) for name in data[f"{prefix}/names"]]
        y, sigma = data[f"{prefix}/data/y"].astype(np.float32), data[f"{prefix}/data/sigma"].astype(np.float32)

    def model(sigma, y=None):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
        with numpyro.plate("school", len(sigma)):
            standard = numpyro.sample("standard", dist.Normal(0.0, 1.0))
            theta = numpyro.deterministic("theta", mu + tau * standard)
            numpyro.sample("y", dist.Normal(theta, sigma), obs=y)

    algorithm = NUTS(target_acceptance=0.95)
    tree = sample(KEY, model, sigma, y, algorithm=algorithm, num_samples=2000, progress=False)
    posterior = tree["posterior"].to_dataset()
    ours = {"mu": posterior["mu"], "tau": posterior["tau"]} | {
        f"theta[{i + 1}]": posterior["theta"][..., i] for i in range(8)
    }
    for name, reference in zip(names, np.moveaxis(draws, -1, 0), strict=True):
        error = reference.std() / np.sqrt(reference.size)
        assert_mean(ours[name], reference.mean(), error)
        spread = (reference - reference.mean()) ** 2
        assert_mean((ours[name] - reference.mean()) ** 2, spread.mean(), spread.std() / np.sqrt(spread.size))


def test_far_start_in_float32_is_survived():
    """A step too large by far overflows the kinetic energy; the chains must neither take it nor get lost."""

    def model(y=None):
        mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
        scale = numpyro.sample("scale", dist.HalfNormal(2.0))
        with numpyro.plate("pixel", 10):
            numpyro.sample("y", dist.Normal(mean, scale), obs=y)

    y = np.random.default_rng(0).normal(size=10).astype(np.float32)
    target = build_target(KEY, model, (y,))
    algorithm = NUTS(num_warmup=300)
    for seed in range(4):
        prepared = algorithm.prepare(KEY, target, 4, False)
        run = run_chains(jax.random.key(seed), prepared, 4, 200, progress=False)
        assert float(arviz_stats.rhat(run.posterior["mean"])) < 1.05
        assert seed == 0 or run.compile_seconds == 0


def test_overflowing_kinetic_energy_is_infinite():
    metric = guarded_metric(jnp.array([[1.0, -0.9], [-0.9, 1.0]]))
    huge = jnp.array([3e25, 2e25])
    assert float(metric.kinetic_energy(huge)) == np.inf
    assert float(metric.kinetic_energy(-huge)) == np.inf
    np.testing.assert_allclose(metric.kinetic_energy(jnp.array([1.0, 1.0])), 0.1, rtol=1e-5)


def test_large_dense_mass_is_warned_about():
    def model(y=None):
        x = jnp.asarray(numpyro.sample("x", dist.Normal(jnp.zeros(600), 1.0).to_event(1)))
        numpyro.sample("y", dist.Normal(x[0], 1.0), obs=y)

    target = build_target(KEY, model, (jnp.array(0.0),))
    with pytest.warns(UserWarning, match="600 unconstrained values"):
        NUTS().prepare(KEY, target, 1, False)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: NUTS(num_warmup=5), "num_warmup"),
        (lambda: NUTS(target_acceptance=1.0), "target_acceptance"),
        (lambda: NUTS(max_tree_depth=0), "max_tree_depth"),
        (lambda: HMC(num_integration_steps=0), "num_integration_steps"),
    ],
)
def test_bad_settings_are_refused(make, name):
    with pytest.raises(ValueError, match=name):
        make()
