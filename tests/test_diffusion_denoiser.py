"""The Gaussian denoiser by dense linear algebra, scores by autodiff, parametrisations by their definitions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from bayesdiff.diffusion.denoiser import (
    Denoiser,
    GaussianDenoiser,
    ParametrisedDenoiser,
    denoised_from_epsilon,
    denoised_from_m,
    denoised_from_v,
    scaled_score,
    twin,
)
from bayesdiff.diffusion.model import DiffusionModel
from bayesdiff.diffusion.noise import StationaryNoise, WhiteNoise
from bayesdiff.diffusion.schedules import VPLinear, noise_level
from tests.diffusion_toys import NO_CONTEXT, Opaque, dense_covariance, even_power, filtered, pixel_mixture, twin_model

pytestmark = pytest.mark.usefixtures("x64")

PRIOR, NOISE = even_power(0, (4, 4)), even_power(1, (4, 4))
MEAN = np.random.default_rng(2).normal(size=(1, 4, 4))
Y = np.random.default_rng(3).normal(size=(1, 4, 4))
S = 0.7


def gaussian() -> GaussianDenoiser:
    return GaussianDenoiser(jnp.asarray(PRIOR), jnp.asarray(MEAN))


def test_gaussian_denoiser_is_the_wiener_filter():
    prior, noise = dense_covariance(PRIOR), dense_covariance(NOISE)
    expected = MEAN.ravel() + prior @ np.linalg.solve(prior + S**2 * noise, (Y - MEAN).ravel())
    denoised = gaussian()(jnp.asarray(Y), jnp.asarray(S), jnp.asarray(NOISE), NO_CONTEXT)
    np.testing.assert_allclose(denoised.ravel(), expected, atol=1e-12)
    density = gaussian().log_density(jnp.asarray(Y), jnp.asarray(S), jnp.asarray(NOISE))
    exact = multivariate_normal.logpdf(Y.ravel(), MEAN.ravel(), prior + S**2 * noise)
    assert float(density) == pytest.approx(exact, rel=1e-12)


def test_whitening_is_the_matrix_root_and_has_an_inverse():
    total = dense_covariance(PRIOR) + S**2 * dense_covariance(NOISE)
    values, vectors = np.linalg.eigh(total)
    expected = vectors @ np.diag(values**-0.5) @ vectors.T @ (Y - MEAN).ravel()
    u = gaussian().whiten(jnp.asarray(Y), jnp.asarray(S), jnp.asarray(NOISE))
    np.testing.assert_allclose(u.ravel(), expected, atol=1e-12)
    np.testing.assert_allclose(gaussian().unwhiten(u, jnp.asarray(S), jnp.asarray(NOISE)), Y, atol=1e-12)


def test_score_is_the_gradient_of_the_log_density():
    model = DiffusionModel(gaussian(), VPLinear(), StationaryNoise(NOISE), (1, 4, 4))
    t = 0.3
    alpha, s = model.schedule.alpha(t), noise_level(model.schedule, t)

    def log_density(z):  # log p_t(z) up to a constant
        return model.denoiser.log_density(z / alpha, s, jnp.asarray(NOISE))

    np.testing.assert_allclose(model.score(jnp.asarray(Y), t), jax.grad(log_density)(jnp.asarray(Y)), atol=1e-11)


def test_score_of_a_mixture_is_the_gradient_of_its_log_density():
    model = pixel_mixture()
    z, t = jnp.asarray(Y[:, :2, :2]), 0.2
    alpha, s = model.schedule.alpha(t), noise_level(model.schedule, t)
    gradient = jax.grad(lambda z: model.denoiser.log_density(z / alpha, s))(z)
    np.testing.assert_allclose(model.score(z, t), gradient, atol=1e-11)


def test_scaled_score_is_the_same_with_and_without_the_shortcut():
    denoiser, noise = gaussian(), jnp.asarray(NOISE)
    fast = scaled_score(denoiser, jnp.asarray(Y), jnp.asarray(S), noise, NO_CONTEXT)
    slow = scaled_score(Opaque(denoiser), jnp.asarray(Y), jnp.asarray(S), noise, NO_CONTEXT)
    gradient = jax.grad(lambda y: denoiser.log_density(y, S, noise))(jnp.asarray(Y))
    np.testing.assert_allclose(fast, S * filtered(gradient, np.sqrt(NOISE)), atol=1e-11)
    np.testing.assert_allclose(slow, fast, atol=1e-11)


@pytest.mark.parametrize("parametrisation", ["epsilon", "v", "m"])
def test_parametrisations_give_the_same_denoiser(parametrisation):
    exact, noise = gaussian(), jnp.asarray(NOISE)

    def network(z, log_snr, context):
        """A perfect prediction, by the definition of what is predicted."""
        s = jnp.exp(-0.5 * log_snr)
        alpha = jnp.sqrt(1.0 / (1.0 + s**2))
        sigma = jnp.sqrt(1.0 - alpha**2)
        x = exact(z / alpha, s, noise, context)
        epsilon = (z - alpha * x) / sigma
        score = jax.grad(lambda z: exact.log_density(z / alpha, s, noise))(z)
        return {"epsilon": epsilon, "v": alpha * epsilon - sigma * x, "m": sigma * filter_by(score, NOISE)}[
            parametrisation
        ]

    def filter_by(field, power):
        return jnp.fft.ifft2(jnp.fft.fft2(field) * power).real

    conversion = {"epsilon": denoised_from_epsilon, "v": denoised_from_v, "m": denoised_from_m}[parametrisation]
    denoiser = ParametrisedDenoiser(network, conversion, exact)
    for s in (0.05, 0.7, 20.0):
        expected = exact(jnp.asarray(Y), jnp.asarray(s), noise, NO_CONTEXT)
        np.testing.assert_allclose(denoiser(jnp.asarray(Y), jnp.asarray(s), noise, NO_CONTEXT), expected, atol=1e-9)


def test_denoisers_meet_the_contract_and_know_their_twin():
    exact = gaussian()
    assert isinstance(exact, Denoiser)
    assert twin(exact) is exact
    assert twin(Opaque(exact)) is None
    assert twin(ParametrisedDenoiser(lambda z, log_snr, context: z, reference=exact)) is exact
    copy = jax.tree.map(lambda leaf: leaf, ParametrisedDenoiser(lambda z, log_snr, context: z, reference=exact))
    np.testing.assert_array_equal(copy.reference.power, PRIOR)


def test_model_denoises_batches():
    model = twin_model(4)
    z, t, context = jnp.asarray(np.stack([Y, 2 * Y, -Y])), 0.4, (1.2, -0.5)
    alpha, s = model.schedule.alpha(t), noise_level(model.schedule, t)
    noise = model.noise_power(jnp.array(context))
    each = [model.denoiser(field / alpha, s, noise, jnp.array(context)) for field in z]
    np.testing.assert_allclose(model.denoise(z, t, context), each, atol=1e-12)


@pytest.mark.parametrize(
    "power", [np.zeros((4, 4)), np.full((4, 4), np.inf), 1.0, [1.0, 2.0]], ids=["zero", "inf", "0-d", "1-d"]
)
def test_bad_prior_power_is_refused(power):
    with pytest.raises(ValueError, match="power of a Gaussian field must be a finite, positive array"):
        GaussianDenoiser(power)


def test_prior_power_of_another_size_is_refused():
    with pytest.raises(
        ValueError, match=r"power of the denoiser is given on \(4, 4\) modes, but a field is \(1, 8, 8\)"
    ):
        DiffusionModel(gaussian(), VPLinear(), WhiteNoise(), (1, 8, 8))
