"""The masked map: its closed form against the Wiener filter and SciPy, its sites, and what it refuses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers
from scipy.stats import multivariate_normal

import bayesdiff as bd
from models.masked_map.model import exact_posterior, make_model
from models.masked_map.observation import MaskedMap, observe, scan_noise, survey_mask
from tests.diffusion_toys import dense_covariance, red_power

SIZE = 8
MEAN = 0.3


@pytest.fixture
def prior(x64):
    return bd.DiffusionModel(
        bd.GaussianDenoiser(jnp.asarray(red_power(SIZE)), MEAN), bd.schedules.Cosine(), bd.WhiteNoise(), (1, SIZE, SIZE)
    )


def field(prior) -> np.ndarray:
    return np.asarray(bd.DiffusionPrior(prior).sample(jax.random.key(3)))


def test_closed_form_without_a_mask_is_the_wiener_filter(prior):
    everywhere, level = np.ones((SIZE, SIZE), bool), 0.4
    observation = observe(jax.random.key(0), field(prior), everywhere, np.ones((SIZE, SIZE)), level, 1.0)
    mean, covariance, _ = exact_posterior(observation, red_power(SIZE), MEAN, level, 1.0)
    wiener = prior.denoiser(jnp.asarray(observation.y, float), jnp.asarray(level), jnp.ones((SIZE, SIZE)), jnp.zeros(0))
    np.testing.assert_allclose(mean.reshape(wiener.shape), wiener, atol=1e-10)
    power = red_power(SIZE)
    np.testing.assert_allclose(covariance, dense_covariance(power * level**2 / (power + level**2)), atol=1e-10)


def test_closed_form_under_a_mask_is_that_of_the_joint_gaussian(prior):
    mask, noise = survey_mask(SIZE, seed=1), scan_noise(SIZE)
    assert 0.2 < mask.mean() < 0.95
    level, calibration = 0.3, 1.04
    observation = observe(jax.random.key(1), field(prior), mask, noise, level, calibration)
    assert np.all(observation.y[0][~mask] == 0.0)
    mean, covariance, log_density = exact_posterior(observation, red_power(SIZE), MEAN, level, calibration)
    seen = mask.ravel()
    signal = dense_covariance(red_power(SIZE))
    of_data = calibration**2 * signal[np.ix_(seen, seen)] + np.diag((level * noise.ravel()[seen]) ** 2)
    y = observation.y.ravel()[seen].astype(float)
    truth = multivariate_normal(np.full(seen.sum(), calibration * MEAN), of_data).logpdf(y)
    assert log_density == pytest.approx(truth, abs=1e-8)
    # Information form, which knows nothing of the gain.
    weight = np.where(seen, calibration / (level * noise.ravel()) ** 2, 0.0)
    precision = np.linalg.inv(signal) + np.diag(calibration * weight)
    np.testing.assert_allclose(covariance, np.linalg.inv(precision), atol=1e-8)
    rhs = np.linalg.solve(signal, np.full(SIZE**2, MEAN)) + weight * observation.y.ravel()
    np.testing.assert_allclose(mean, np.linalg.solve(precision, rhs), atol=1e-7)


def test_density_of_the_observation_counts_seen_pixels_only(prior):
    mask, noise = survey_mask(SIZE, seed=1), scan_noise(SIZE)
    observation = observe(jax.random.key(1), field(prior), mask, noise)
    model = make_model(prior, mask, noise)
    trace = handlers.trace(handlers.seed(model, jax.random.key(5))).get_trace(jnp.asarray(observation.y))
    assert {"level", "calibration", "x", "x_base", "y"} <= set(trace)
    assert trace["x"]["value"].shape == (1, SIZE, SIZE)
    log_prob = trace["y"]["fn"].log_prob(trace["y"]["value"])
    deviation = (observation.y - trace["calibration"]["value"] * trace["x"]["value"])[0]
    scale = trace["level"]["value"] * noise
    terms = -0.5 * (deviation / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)
    assert log_prob == pytest.approx(float(terms[mask].sum()), rel=1e-6)


def test_unfit_masks_are_refused(prior):
    good = np.ones((SIZE, SIZE))
    with pytest.raises(ValueError, match=r"mask must have the shape \(8, 8\)"):
        make_model(prior, np.ones((4, 4)), good)
    with pytest.raises(ValueError, match="0 everywhere"):
        make_model(prior, np.zeros((SIZE, SIZE)), good)
    with pytest.raises(ValueError, match="relative_noise must be positive"):
        make_model(prior, good, 0.0 * good)


def test_mask_leaves_a_map_that_can_be_used():
    mask = survey_mask(64)
    assert mask.dtype == bool
    assert 0.6 < mask.mean() < 0.95
    assert not mask[32, 32]
    assert isinstance(observe(jax.random.key(0), np.zeros((1, 64, 64)), mask, scan_noise(64)), MaskedMap)
