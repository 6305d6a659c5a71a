"""The three terms of the bound, on a Gaussian field, whose bound is its density."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import kl_divergence

import bayesdiff as bd
from bayesdiff.diffusion.bound_terms import bound_slopes, bound_terms
from bayesdiff.diffusion.denoiser import ParametrisedDenoiser
from bayesdiff.diffusion.fourier import filter_field

SHAPE = (1, 16, 16)
SCHEDULE = bd.schedules.LearnedLinear(gamma_min=-13.3, gamma_max=13.3)


def power() -> jnp.ndarray:
    frequency = np.fft.fftfreq(16)
    return jnp.asarray(1.0 / (0.1 + (10.0 * np.hypot(frequency[:, None], frequency)) ** 2))


def field(denoiser: bd.GaussianDenoiser) -> jax.Array:
    return denoiser.mean + filter_field(jax.random.normal(jax.random.key(1), SHAPE), jnp.sqrt(denoiser.power))


@pytest.mark.parametrize("noise", ["white", "stationary"])
def test_terms_of_the_exact_denoiser_add_up_to_its_density(x64, noise):
    exact = bd.GaussianDenoiser(power(), 0.3)
    of = bd.WhiteNoise() if noise == "white" else bd.StationaryNoise(power() ** 0.5)
    model = bd.DiffusionModel(exact, SCHEDULE, of, SHAPE)
    x = field(exact)
    terms = bound_terms(jax.random.key(0), model, x, num_times=2000, num_noise=2)
    # The ends of the schedule and the strata, which are two thousand, cost hundredths of a nat.
    assert float(terms.log_density) == pytest.approx(float(bd.DiffusionPrior(model).log_prob(x)), abs=0.05)
    assert float(terms.prior) == pytest.approx(0.0, abs=0.01)


def test_the_prior_term_is_the_divergence_at_the_end_of_a_short_schedule(x64):
    exact = bd.GaussianDenoiser(power(), 0.3)
    model = bd.DiffusionModel(exact, bd.schedules.LearnedLinear(gamma_min=-13.3, gamma_max=1.0), bd.WhiteNoise(), SHAPE)
    x, s = field(exact), float(jnp.exp(0.5))
    expected = kl_divergence(dist.Normal(x, s), dist.Normal(0.0, jnp.sqrt(1.0 + s**2))).sum()
    terms = bound_terms(jax.random.key(0), model, x, num_times=8)
    assert float(expected) > 10.0
    assert float(terms.prior) == pytest.approx(float(expected), rel=1e-4)


def test_slopes_are_how_the_bound_changes_with_the_ends(x64):
    exact = bd.GaussianDenoiser(power(), 0.3)
    x = field(exact)

    def bound(gamma_min: float, gamma_max: float) -> float:
        ends = bd.schedules.LearnedLinear(gamma_min, gamma_max)
        model = bd.DiffusionModel(exact, ends, bd.WhiteNoise(), SHAPE)
        return -float(bound_terms(jax.random.key(0), model, x, num_times=3000, num_noise=2).log_density)

    model = bd.DiffusionModel(exact, SCHEDULE, bd.WhiteNoise(), SHAPE)
    slopes = bound_slopes(jax.random.key(1), model, x, jnp.asarray(-4.0), jnp.asarray(2.0))
    by_difference = [(bound(-3.9, 2.0) - bound(-4.1, 2.0)) / 0.2, (bound(-4.0, 2.1) - bound(-4.0, 1.9)) / 0.2]
    np.testing.assert_allclose(np.asarray(slopes), by_difference, rtol=0.02)
    assert slopes[0] > 0.0  # a wider range would be better
    assert slopes[1] < 0.0


def test_bound_of_a_wrong_denoiser_is_lower_and_within_its_error_without_a_twin(x64):
    exact = bd.GaussianDenoiser(power(), 0.3)
    x = field(exact)

    def denoiser_of(factor: float) -> ParametrisedDenoiser:
        def predict(z, log_snr, context):
            s = jnp.exp(-0.5 * log_snr)
            alpha = 1.0 / jnp.sqrt(1.0 + s**2)
            return (z - factor * alpha * exact(z / alpha, s, jnp.ones(SHAPE), context)) / (s * alpha)

        return ParametrisedDenoiser(predict)

    truth = float(bd.DiffusionPrior(bd.DiffusionModel(exact, SCHEDULE, bd.WhiteNoise(), SHAPE)).log_prob(x))
    right, wrong = (
        bound_terms(jax.random.key(0), bd.DiffusionModel(denoiser_of(f), SCHEDULE, bd.WhiteNoise(), SHAPE), x)
        for f in (1.0, 0.9)
    )
    assert abs(float(right.log_density) - truth) < 4.0 * float(right.error)
    assert float(wrong.log_density) < truth - 4.0 * float(wrong.error)


def test_refusals():
    model = bd.DiffusionModel(bd.GaussianDenoiser(power()), SCHEDULE, bd.WhiteNoise(), SHAPE)
    with pytest.raises(ValueError, match="at least two pairs of noise"):
        bound_terms(jax.random.key(0), model, jnp.zeros(SHAPE), num_noise=1)
    with pytest.raises(ValueError, match="x must"):
        bound_terms(jax.random.key(0), model, jnp.zeros((1, 8, 8)))
