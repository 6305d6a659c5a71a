"""Posterior predictive checks: silent where the model is right, loud where the observation has what it lacks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from scipy.stats import kstest

import bayesdiff as bd
from models.linear_gaussian import make_twin
from tests.diffusion_toys import coloured_noise, filtered, red_power, wavenumber

SIZE = 16
LEVEL = 0.6
CONTEXT = (0.4, 0.2)


@pytest.fixture(scope="module")
def twin():
    denoiser = bd.GaussianDenoiser(jnp.asarray(red_power(SIZE)))
    return bd.DiffusionModel(
        denoiser, bd.schedules.Cosine(), coloured_noise(SIZE), (1, SIZE, SIZE), ("tilt", "excess"), name="dust"
    )


@pytest.fixture(scope="module")
def model(twin):
    def model(y=None):
        sigma = numpyro.sample("sigma", dist.Uniform(0.2, 3.0))
        numpyro.sample("y", bd.NoisyDiffusion(twin, sigma, CONTEXT), obs=y)

    return model


def posterior(model, twin, y, fields=True) -> xr.DataTree:
    """Draws of sigma by its exact density on a grid, and fields."""
    grid = jnp.linspace(0.2, 3.0, 2000)
    density = np.asarray(jax.vmap(lambda s: bd.NoisyDiffusion(twin, s, CONTEXT).log_prob(y))(grid))
    weight = np.exp(density - density.max())
    draws = np.random.default_rng(0).choice(np.asarray(grid), (2, 100), p=weight / weight.sum())
    tree = xr.DataTree.from_dict({"posterior": xr.Dataset({"sigma": (("chain", "draw"), draws)})})
    return bd.draw_fields(jax.random.key(1), model, y, data=tree, num_draws=60, progress=False) if fields else tree


def check(model, twin, y, num_replicates=200, fields=True) -> tuple[xr.Dataset, list[str]]:
    data = posterior(model, twin, y, fields)
    data = bd.predictive_checks(jax.random.key(2), model, y, data, num_replicates=num_replicates, progress=False)
    found = bd.reporting.verdict(data, min_ess=50).findings
    return data["predictive_checks"].to_dataset(), [f.what for f in found if "'y'" in f.what]


@pytest.mark.slow
def test_a_right_model_is_not_reported(model, twin):
    y = bd.NoisyDiffusion(twin, LEVEL, CONTEXT).sample(jax.random.key(10))
    checks, found = check(model, twin, y)
    assert found == []
    assert 0.2 < checks["y_residual_p"].values.mean() < 0.8


def test_structure_that_the_prior_lacks_is_found_in_the_noise(model, twin):
    y = bd.NoisyDiffusion(twin, LEVEL, CONTEXT).sample(jax.random.key(10))
    # Neither the red field nor the nearly white noise, of any level, has a peak in its power.
    white, k = np.random.default_rng(4).normal(size=y.shape), wavenumber(SIZE)
    rough = np.asarray(y) + 1.2 * filtered(white, ((k > 5.0) & (k < 7.5)).astype(float))
    _, found = check(model, twin, rough.astype(np.float32), num_replicates=0)
    assert any("noise separated from 'y'" in what for what in found)


def test_an_observation_of_another_kind_is_unlike_its_replicates(model, twin):
    y = bd.NoisyDiffusion(twin, LEVEL, CONTEXT).sample(jax.random.key(10))
    peaked = y.at[0, 3, 3].add(25.0)
    checks, found = check(model, twin, peaked, fields=False)
    names = list(checks["y_statistic"].values)
    assert "kurtosis" in names
    assert any("unlike data replicated" in what and "kurtosis" in what for what in found)
    assert not any("border" in what for what in found)


def test_a_map_that_does_not_close_at_its_border_is_unlike_periodic_replicates(model, twin):
    y = bd.NoisyDiffusion(twin, LEVEL, CONTEXT).sample(jax.random.key(10))
    slope = jnp.linspace(-4.0, 4.0, SIZE)
    _, found = check(model, twin, y + slope, fields=False)
    assert any("roughness across the border" in what for what in found)


def test_replicates_of_a_model_without_fields():
    y = np.random.default_rng(0).normal(2.0, 1.0, 40)

    def line(y=None):
        mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
        with numpyro.plate("data", 40):
            numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    draws = np.random.default_rng(1).normal(y.mean(), 40**-0.5, (4, 100))
    tree = xr.DataTree.from_dict({"posterior": xr.Dataset({"mean": (("chain", "draw"), draws)})})
    checks = bd.predictive_checks(jax.random.key(0), line, y, tree, num_replicates=400, progress=False)
    group = checks["predictive_checks"].to_dataset()
    assert group["y_replicated"].shape == (400, len(group["y_statistic"]))
    means = group["y_replicated"].sel(y_statistic="mean").values
    assert kstest((means - y.mean()) / np.sqrt(2 / 40), "norm").pvalue > 1e-3


def test_nothing_to_check_is_refused(model, twin):
    y = bd.NoisyDiffusion(twin, LEVEL, CONTEXT).sample(jax.random.key(10))
    tree = xr.DataTree.from_dict({"posterior": xr.Dataset({"sigma": (("chain", "draw"), np.full((2, 5), LEVEL))})})
    with pytest.raises(ValueError, match="nothing to check"):
        bd.predictive_checks(jax.random.key(0), model, y, tree, num_replicates=0)
    with pytest.raises(ValueError, match="needs the result"):
        bd.predictive_checks(jax.random.key(0), model, y)


@pytest.mark.parametrize("shared", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_fields_of_a_plate_are_drawn_and_checked(shared):
    """Each with its own noise level, or all with one: NumPyro expands the distribution then."""

    twin, context = make_twin(16), (67.4, 0.0224)

    def plated(y=None):
        level = numpyro.sample("level", dist.Uniform(0.1, 1.2)) if shared else None
        with numpyro.plate("maps", 3):
            s = level if shared else numpyro.sample("s", dist.Uniform(0.1, 1.2))
            numpyro.sample("y", bd.NoisyDiffusion(twin, s, context), obs=y)

    y = bd.NoisyDiffusion(twin, 0.7, context).sample(jax.random.key(1), (3,))
    data = bd.sample(jax.random.key(2), plated, y, num_chains=2, num_samples=50, progress=False)
    data = bd.draw_fields(jax.random.key(3), plated, y, data, num_draws=20, progress=False)
    fields = data["fields"].to_dataset()
    shape = (2, 10, 3, *twin.event_shape)
    assert fields[twin.name].dims[2:] == (f"{twin.name}_dim_0", "channel", "height", "width")
    total = sum(fields[name].values for name in fields.data_vars)
    assert total.shape == shape
    np.testing.assert_allclose(total, np.broadcast_to(y, shape), atol=1e-4)
    checked = bd.predictive_checks(jax.random.key(4), plated, y, data, num_replicates=10, progress=False)
    ratio = checked["predictive_checks"]["y_residual_ratio"].values
    # The separated noise of three maps together has the power that their noise levels say.
    np.testing.assert_allclose(ratio, 1.0, atol=0.35)
