"""Reverse sampling against the Wiener posterior, an exact non-Gaussian posterior, and the order of the solver."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest, norm

from bayesdiff.diffusion.denoiser import GaussianDenoiser
from bayesdiff.diffusion.flow import carry, push
from bayesdiff.diffusion.samplers import ancestral_draw, draw_prior, probability_flow, reverse_sde
from bayesdiff.distributions import NoisyDiffusion
from tests.diffusion_toys import (
    NO_CONTEXT,
    Opaque,
    TiltedPower,
    coloured,
    filtered,
    pixel_mixture,
    red_power,
    twin_model,
    wavenumber,
)

SIZE = 16
CONTEXT = (1.2, -1.0)


def noise_power(size: int = SIZE) -> np.ndarray:
    return np.asarray(TiltedPower(size)(jnp.array(CONTEXT)), dtype=np.float64)


def radial_bins(size: int = SIZE, width: float = 2.0) -> np.ndarray:
    return (wavenumber(size) / width).astype(int)


def assert_wiener_posterior(draws: np.ndarray, y: np.ndarray, s: float, mean: float) -> None:
    """Mean and variance of draws (N, 1, H, W) are the Wiener posterior's, in each radial bin, to 4 standard errors."""
    prior, noise = red_power(SIZE), s**2 * noise_power()
    expected = mean + filtered(y - mean, prior / (prior + noise))
    variance = prior * noise / (prior + noise)
    draws = np.asarray(draws, dtype=np.float64)
    num = len(draws)
    of_mean = np.abs(np.fft.fft2(draws.mean(axis=0) - expected, norm="ortho")[0]) ** 2 * num / variance
    of_draws = (np.abs(np.fft.fft2(draws - expected, norm="ortho")[:, 0]) ** 2).mean(axis=0) / variance
    for index in range(radial_bins().max() + 1):
        inside = radial_bins() == index
        # k and -k are the same mode: M modes hold M real degrees of freedom, each of relative variance 2.
        error = np.sqrt(2.0 / inside.sum())
        assert of_mean[inside].mean() == pytest.approx(1.0, abs=4 * error)
        assert of_draws[inside].mean() == pytest.approx(1.0, abs=4 * error / np.sqrt(num))


@cache
def posterior_sampler():
    """A jitted function (key, y, levels) -> 2,000 draws of x | y for every chain."""
    model = twin_model(SIZE)

    def draw(key, y, levels):
        observed = jnp.broadcast_to(y, (2000, *y.shape))
        return NoisyDiffusion(model, levels, CONTEXT).sample_latent(key, observed, num_steps=3)

    return jax.jit(draw)


def observations(levels: np.ndarray) -> np.ndarray:
    """One draw of y per noise level, in float32, shape (levels, 1, H, W)."""
    white = np.random.default_rng(0).normal(size=(len(levels), 1, SIZE, SIZE))
    power = red_power(SIZE) + levels[:, None, None, None] ** 2 * noise_power()
    return (0.3 + filtered(white, np.sqrt(power))).astype(np.float32)


LEVELS = np.array([0.1, 0.6, 3.0])


def test_sample_latent_draws_the_wiener_posterior_of_every_chain():
    y = observations(LEVELS)
    draws = posterior_sampler()(jax.random.key(1), y, LEVELS)
    assert draws.shape == (2000, 3, 1, SIZE, SIZE)
    for chain, s in enumerate(LEVELS):
        assert_wiener_posterior(draws[:, chain], y[chain], s, mean=0.3)


def test_posterior_check_notices_a_wrong_noise_level():
    y = observations(LEVELS)
    draws = posterior_sampler()(jax.random.key(1), y, 1.05 * LEVELS)
    for chain, s in enumerate(LEVELS):
        with pytest.raises(AssertionError):
            assert_wiener_posterior(draws[:, chain], y[chain], s, mean=0.3)


def test_vmapped_noise_levels_give_what_single_calls_give():
    model, levels = twin_model(8), jnp.array([0.05, 0.5, 5.0])
    y = jax.random.normal(jax.random.key(2), (3, 1, 8, 8))
    keys = jax.random.split(jax.random.key(3), 3)
    context = model.context_array(CONTEXT)
    together = jax.jit(jax.vmap(lambda k, y, s: reverse_sde(k, model, y, s, context)))(keys, y, levels)
    single = jax.jit(lambda k, y, s: reverse_sde(k, model, y, s, context))
    for index in range(3):
        np.testing.assert_allclose(together[index], single(keys[index], y[index], levels[index]), atol=2e-5)


def mixture_posterior_cdf(model, y: float, s: float):
    """CDF of x given y for one pixel of the mixture, from Bayes' theorem."""
    weights, means, variances = (
        np.asarray(a) for a in (model.denoiser.weights, model.denoiser.means, model.denoiser.variances)
    )
    evidence = weights * norm.pdf(y, means, np.sqrt(variances + s**2))
    posterior = 1.0 / (1.0 / variances + 1.0 / s**2)
    centres = posterior * (means / variances + y / s**2)
    return lambda x: np.sum(evidence / evidence.sum() * norm.cdf(x[:, None], centres, np.sqrt(posterior)), axis=1)


def test_sample_latent_draws_a_bimodal_posterior():
    model, s, y = pixel_mixture(), 1.1, np.array([-1.5, -0.4, 0.1, 1.6])
    num = 4000

    def p_values(num_steps):
        draw = jax.jit(lambda key: NoisyDiffusion(model, s).sample_latent(key, observed, num_steps))
        observed = jnp.broadcast_to(y.reshape(1, 2, 2), (num, 1, 2, 2))
        draws = np.asarray(draw(jax.random.key(4))).reshape(num, 4)
        return [kstest(draws[:, i], mixture_posterior_cdf(model, y[i], s)).pvalue for i in range(4)]

    assert min(p_values(32)) > 1e-3  # where ancestral steps of first order give 4e-6
    assert max(p_values(4)) < 1e-6  # the check has the power to see a solver that is too coarse


@pytest.mark.parametrize("draw", [draw_prior, ancestral_draw])
def test_prior_draws_have_the_law_of_the_mixture(draw):
    model = pixel_mixture()
    keys = jax.random.split(jax.random.key(5), 1000)
    draws = np.asarray(jax.vmap(lambda key: draw(key, model, NO_CONTEXT, 100))(keys)).ravel()
    weights, means, variances = (
        np.asarray(a) for a in (model.denoiser.weights, model.denoiser.means, model.denoiser.variances)
    )
    assert (
        kstest(draws, lambda x: np.sum(weights * norm.cdf(x[:, None], means, np.sqrt(variances)), axis=1)).pvalue > 1e-3
    )


@pytest.mark.usefixtures("x64")
def test_probability_flow_converges_at_second_order():
    model = pixel_mixture()
    y = jnp.array([-1.7, -0.3, 0.2, 2.5]).reshape(1, 2, 2)
    run = jax.jit(lambda n: probability_flow(model, y, 2.0, NO_CONTEXT, n, end=0.05), static_argnums=0)
    exact = run(2048)
    errors = np.array([float(jnp.abs(run(n) - exact).max()) for n in (32, 64, 128)])
    assert 1e-6 < errors[-1] < 1e-2
    np.testing.assert_allclose(errors[:-1] / errors[1:], 4.0, rtol=0.2)


@pytest.mark.usefixtures("x64")
def test_draws_converge_at_third_order_to_the_flow():
    model, reference = pixel_mixture(), GaussianDenoiser(jnp.ones((2, 2)))
    u = jnp.array([-1.7, -0.3, 0.2, 2.5]).reshape(1, 2, 2)
    exact = push(model, u, NO_CONTEXT, 1024, reference)
    run = jax.jit(lambda n: carry(model, u, NO_CONTEXT, n, reference), static_argnums=0)
    errors = np.array([float(jnp.abs(run(n) - exact).max()) for n in (64, 128, 256)])
    assert 1e-8 < errors[-1] < 1e-3
    np.testing.assert_allclose(np.log2(errors[:-1] / errors[1:]), 3.0, atol=0.6)
    heun = float(jnp.abs(push(model, u, NO_CONTEXT, 64, reference) - exact).max())
    assert errors[1] < 0.3 * heun  # at as many evaluations


@pytest.mark.usefixtures("x64")
def test_probability_flow_of_the_twin_is_at_rest_in_whitened_coordinates():
    model = twin_model(8)
    context = model.context_array(CONTEXT)
    y = np.random.default_rng(6).normal(size=(1, 8, 8))
    start, end = 2.0, 0.1
    prior, noise = red_power(8), noise_power(8)
    expected = 0.3 + filtered(y - 0.3, np.sqrt((prior + end**2 * noise) / (prior + start**2 * noise)))
    flowed = probability_flow(model, jnp.asarray(y), start, context, num_steps=2, end=end)
    np.testing.assert_allclose(flowed, expected, atol=1e-12)
    # A model that does not know its twin has to integrate its way there.
    unaware = coloured(Opaque(GaussianDenoiser(jnp.asarray(prior), 0.3)), 8)
    flowed = probability_flow(unaware, jnp.asarray(y), start, context, num_steps=200, end=end)
    np.testing.assert_allclose(flowed, expected, atol=1e-4)


@pytest.mark.usefixtures("x64")
def test_mixed_precision_inputs_are_accepted():
    model = twin_model(8)
    context = model.context_array(CONTEXT)
    y = jnp.zeros((1, 8, 8), dtype=jnp.float32)
    assert np.isfinite(reverse_sde(jax.random.key(0), model, y, jnp.asarray(0.5), context, 3)).all()
    assert np.isfinite(probability_flow(model, y, jnp.asarray(0.5), context, 3)).all()


class Generating(Opaque):
    """A denoiser that names that of a field of another mean as its generator."""

    @property
    def generator(self) -> GaussianDenoiser:
        return GaussianDenoiser(jnp.asarray(red_power(SIZE)), 2.0)


def test_draws_of_prior_and_posterior_go_by_the_generator():
    own = GaussianDenoiser(jnp.asarray(red_power(SIZE)), 0.3)
    denoiser = Generating(own)
    y, s, context = jnp.ones((1, SIZE, SIZE)), jnp.asarray(0.7), jnp.array(CONTEXT)
    for draw in (
        lambda model: reverse_sde(jax.random.key(0), model, y, s, context, 4),
        lambda model: ancestral_draw(jax.random.key(1), model, context, 4),
    ):
        found, expected, other = (draw(coloured(of, SIZE)) for of in (denoiser, denoiser.generator, own))
        np.testing.assert_array_equal(found, expected)
        assert float(jnp.abs(found - other).max()) > 0.01
