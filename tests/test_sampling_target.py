"""A NumPyro model as a target: densities against closed forms, refusals by name, dimension names."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from scipy import stats

from bayesdiff.sampling.start import find_start
from bayesdiff.sampling.target import build_target

KEY = jax.random.key(3)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def scale_model(y=None):
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    low = numpyro.sample("low", dist.Uniform(-1.0, 3.0))
    numpyro.deterministic("high", low + scale)
    with numpyro.plate("pixel", 3):
        numpyro.sample("y", dist.Normal(low, scale), obs=y)


def closed_form(position, y):
    """Log joint in unconstrained space: scale = exp(u), low = -1 + 4 sigmoid(v)."""
    scale, unit = np.exp(position["scale"]), 1 / (1 + np.exp(-position["low"]))
    low = -1 + 4 * unit
    prior = stats.halfnorm.logpdf(scale, scale=2) + np.log(1 / 4)
    jacobian = np.log(scale) + np.log(4 * unit * (1 - unit))
    return prior + jacobian, stats.norm.logpdf(y, low, scale).sum()


@pytest.mark.usefixtures("x64")
def test_density_matches_closed_form():
    y = np.array([0.3, 1.2, -0.4])
    target = build_target(KEY, scale_model, (y,))
    position = {"scale": jnp.array(-0.3), "low": jnp.array(0.8)}
    log_prior, log_likelihood = closed_form({k: float(v) for k, v in position.items()}, y)
    np.testing.assert_allclose(target.log_density(position), log_prior + log_likelihood, rtol=1e-12)
    np.testing.assert_allclose(target.functions.log_prior(position, target.data), log_prior, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_constrain_and_back():
    target = build_target(KEY, scale_model, (np.zeros(3),))
    position = {"scale": jnp.array(-0.3), "low": jnp.array(0.8)}
    values = target.constrain(position)
    assert set(values) == {"scale", "low", "high"}
    np.testing.assert_allclose(values["high"], values["scale"] + values["low"])
    np.testing.assert_allclose(values["scale"], np.exp(-0.3))
    back = target.functions.unconstrain({name: values[name] for name in target.latent}, target.data)
    for name, value in position.items():
        np.testing.assert_allclose(back[name], value, rtol=1e-12)
    likelihood = target.functions.distributions(position, target.data)["y"]
    np.testing.assert_allclose(likelihood.variance, np.full(3, np.exp(-0.6)))


def test_transform_model_replaces_the_density():
    def tempered(model):
        return handlers.scale(model, scale=0.5)

    y = np.zeros(3, dtype=np.float32)
    position = {"scale": jnp.array(0.0), "low": jnp.array(0.0)}
    full = build_target(KEY, scale_model, (y,))
    half = build_target(KEY, scale_model, (y,), transform_model=tempered)
    jacobian = 0.0 + np.log(4 * 0.25)
    np.testing.assert_allclose(
        half.log_density(position) - jacobian, 0.5 * (full.log_density(position) - jacobian), rtol=1e-5
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_observed_nan_is_refused_with_count_and_place(bad):
    y = np.zeros(3, dtype=np.float32)
    y[[1, 2]] = bad
    with pytest.raises(ValueError, match=r"observed site 'y' must be finite, got 2 NaN or infinite of 3.*index \(1,\)"):
        build_target(KEY, scale_model, (y,))


def test_discrete_latent_is_refused():
    def model(y=None):
        count = numpyro.sample("count", dist.Poisson(3.0))
        numpyro.sample("y", dist.Normal(count, 1.0), obs=y)

    with pytest.raises(ValueError, match=r"latent site 'count' is discrete \(Poisson\)"):
        build_target(KEY, model, (jnp.array(1.0),))


def test_missing_observation_is_refused():
    with pytest.raises(ValueError, match=r"observed site missing.*latent sites: scale, low, y"):
        build_target(KEY, scale_model)


def test_no_finite_start_names_the_site():
    def model(y=None):
        mean = jnp.asarray(numpyro.sample("mean", dist.Normal(0.0, 1.0)))
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        numpyro.factor("impossible", jnp.log(-1.0 - mean**2))

    target = build_target(KEY, model, (jnp.array(1.0),))
    with pytest.raises(ValueError, match="site 'impossible' has log density nan"):
        find_start(KEY, target, 2)


def test_start_is_redrawn_until_finite():
    def model(y=None):
        mean = jnp.asarray(numpyro.sample("mean", dist.Normal(0.0, 1.0)))
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        numpyro.factor("half", jnp.where(mean > 0, 0.0, -jnp.inf))

    start, _ = find_start(KEY, build_target(KEY, model, (jnp.array(1.0),)), 16)
    assert (start.position["mean"] > 0).all()
    assert jnp.isfinite(start.log_density).all()


def test_dimension_names():
    def model(y=None):
        with numpyro.plate("patch", 2):
            numpyro.sample("field", dist.Normal(jnp.zeros((1, 4, 5)), 1.0).to_event(3))
        vector = jnp.asarray(numpyro.sample("vector", dist.Normal(jnp.zeros(3), 1.0).to_event(1)))
        numpyro.deterministic("square", jnp.outer(vector, vector))
        numpyro.sample("y", dist.Normal(vector[0], 1.0), obs=y)

    target = build_target(KEY, model, (jnp.array(1.0),))
    assert target.dims == {
        "field": ("patch", "channel", "height", "width"),
        "vector": ("vector_dim_0",),
        "y": (),
        "square": ("square_dim_0", "square_dim_1"),
    }


def test_new_data_reuse_the_functions():
    target = build_target(KEY, scale_model, (np.zeros(3, dtype=np.float32),))
    other = target.with_data(KEY, np.ones(3, dtype=np.float32))
    assert other.density == target.density
    position = {"scale": jnp.array(0.0), "low": jnp.array(0.0)}
    assert float(other.log_density(position)) != float(target.log_density(position))
    with pytest.raises(ValueError, match="build a new target"):
        target.with_data(KEY, np.ones(4, dtype=np.float32))
