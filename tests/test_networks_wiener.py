"""The Wiener-preconditioned denoiser: its Gaussian part is exact and its score agrees with its denoiser."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesdiff.diffusion.denoiser import Denoiser, GaussianDenoiser, scaled_score, twin
from bayesdiff.diffusion.densities import Elbo, best_log_density
from bayesdiff.diffusion.flow import push, spread
from bayesdiff.diffusion.samplers import ancestral_draw, reverse_sde
from bayesdiff.networks.band_table import BandTable, constant_table, radial_band
from bayesdiff.networks.unet import UNetConfig
from bayesdiff.networks.wiener import WienerDenoiser, initialise
from bayesdiff.recalibration import with_contrast, with_twin_at_large_scales
from tests.diffusion_toys import CONTEXT_BOUNDS, TiltedPower, coloured, dense_covariance, filtered, red_power

SIZE = 8
CONFIG = UNetConfig(3, 1, channels=(8, 8), blocks=(1, 1), embedding=8)
CONTEXT = np.array([1.2, -1.0])

apply = jax.jit(lambda denoiser, *arguments: denoiser(*arguments))
residual_of = jax.jit(lambda denoiser, *arguments: denoiser.correct(*arguments).residual)
score_of = jax.jit(lambda denoiser, *arguments: scaled_score(denoiser, *arguments))


def untrained() -> WienerDenoiser:
    low, high = zip(*CONTEXT_BOUNDS, strict=True)
    return initialise(0, GaussianDenoiser(red_power(SIZE), 0.3), CONFIG, low, high)


def perturbed() -> WienerDenoiser:
    leaves, structure = jax.tree.flatten(untrained().params)
    rng = np.random.default_rng(1)
    leaves = [leaf + jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype) for leaf in leaves]
    return untrained().with_params(jax.tree.unflatten(structure, leaves))


def inputs(s: float):
    y = jnp.asarray(np.random.default_rng(2).normal(size=(1, SIZE, SIZE)))
    return y, jnp.asarray(s), TiltedPower(SIZE)(jnp.asarray(CONTEXT)), jnp.asarray(CONTEXT)


@pytest.mark.parametrize("s", [0.05, 0.7, 30.0])
@pytest.mark.usefixtures("x64")
def test_untrained_is_the_wiener_filter(s):
    y, s, noise, context = inputs(s)
    prior, dense = dense_covariance(red_power(SIZE)), float(s) ** 2 * dense_covariance(np.asarray(noise))
    expected = 0.3 + prior @ np.linalg.solve(prior + dense, np.asarray(y).ravel() - 0.3)
    np.testing.assert_allclose(apply(untrained(), y, s, noise, context).ravel(), expected, atol=1e-9)


@pytest.mark.parametrize("s", [0.05, 0.7, 30.0])
@pytest.mark.usefixtures("x64")
def test_network_enters_through_the_posterior_deviation(s):
    """D = D_W + V^(1/2) N, V = P s^2 S / (P + s^2 S), and the score is that of D."""
    denoiser, (y, s, noise, context) = perturbed(), inputs(s)
    prior, level = red_power(SIZE), np.asarray(s**2 * noise)
    residual = np.asarray(residual_of(denoiser, y, s, noise, context))
    assert residual.std() > 0.05
    expected = (
        0.3 + filtered(y - 0.3, prior / (prior + level)) + filtered(residual, np.sqrt(prior * level / (prior + level)))
    )
    denoised = apply(denoiser, y, s, noise, context)
    np.testing.assert_allclose(denoised, expected, atol=1e-9)
    score = filtered(denoised - y, 1.0 / np.sqrt(level))
    np.testing.assert_allclose(score_of(denoiser, y, s, noise, context), score, rtol=1e-7, atol=1e-7)


def test_context_is_scaled_to_its_box():
    denoiser, (y, s, noise, context) = perturbed(), inputs(0.7)
    wider = replace(denoiser, context_low=denoiser.context_low - 1.0, context_high=denoiser.context_high + 1.0)
    change = residual_of(denoiser, y, s, noise, context) - residual_of(wider, y, s, noise, context)
    assert float(jnp.abs(change).max()) > 1e-4


def test_is_a_denoiser_with_a_twin_and_a_pytree():
    denoiser = perturbed()
    assert isinstance(denoiser, Denoiser)
    assert twin(denoiser) is denoiser.reference
    model = coloured(denoiser, SIZE)
    assert isinstance(best_log_density(model), Elbo)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, denoiser)
    np.testing.assert_allclose(doubled.reference.power, 2 * red_power(SIZE), rtol=1e-6)
    filtered_twice = apply(doubled, *inputs(0.7))
    assert float(jnp.abs(filtered_twice - apply(denoiser, *inputs(0.7))).max()) > 1e-3


@pytest.mark.usefixtures("x64")
def test_gain_and_feedback_enter_the_residual():
    denoiser, (y, s, noise, context) = perturbed(), inputs(0.7)
    shape, total = (SIZE, SIZE), red_power(SIZE) + 0.7**2 * np.asarray(noise)
    gain, feedback = (
        replace(table, values=table.values + jnp.linspace(0.0, 0.3, table.values.shape[1]))
        for table in (denoiser.gain, denoiser.feedback)
    )
    calibrated = replace(denoiser, gain=gain, feedback=feedback)
    expected = filtered(residual_of(denoiser, y, s, noise, context), gain(s, shape)) + filtered(
        (y - 0.3), feedback(s, shape) / np.sqrt(total)
    )
    np.testing.assert_allclose(residual_of(calibrated, y, s, noise, context), expected, atol=1e-6)


@pytest.mark.slow
def test_contrast_is_for_draws_alone():
    plain, (y, _, noise, context) = perturbed(), inputs(1.0)
    raised = with_contrast(plain, 1.2)
    for s, factor in ((0.2, 1.0), (0.3**0.5, 1.1), (30.0, 1.2)):
        residual = residual_of(plain, y, s, noise, context)
        np.testing.assert_array_equal(residual_of(raised, y, s, noise, context), residual)
        np.testing.assert_allclose(residual_of(raised.generator, y, s, noise, context), factor * residual, rtol=2e-2)
    everywhere = with_contrast(plain, 1.1, onset=None).generator
    for s in (0.02, 0.5, 30.0):
        residual = residual_of(plain, y, s, noise, context)
        np.testing.assert_allclose(residual_of(everywhere, y, s, noise, context), 1.1 * residual, rtol=1e-5)
    u, s, key = jax.random.normal(jax.random.key(0), y.shape), jnp.asarray(0.7), jax.random.key(1)
    models = [coloured(denoiser, SIZE) for denoiser in (plain, raised, raised.generator)]
    of_prior = (lambda model: push(model, u, context, 6), lambda model: ancestral_draw(key, model, context, 12))
    for draw in (*of_prior, lambda model: reverse_sde(key, model, y, s, context, 6)):
        draws = [draw(model) for model in models]
        assert float(jnp.abs(draws[1] - draws[0]).max()) > 1e-3
        np.testing.assert_array_equal(draws[1], draws[2])
    likelihoods = [Elbo(4, 1)(model, y.astype(jnp.float32), s, context) for model in models]
    assert likelihoods[1] == likelihoods[0]
    assert likelihoods[1] != likelihoods[2]
    with pytest.raises(ValueError, match="between 0.5 and 1.5, got 2"):
        with_contrast(plain, 2.0)
    with pytest.raises(ValueError, match="the lower first, got"):
        with_contrast(plain, 1.1, onset=(1.0, 0.3))


def test_table_is_read_by_band_and_level():
    table = BandTable(jnp.log(jnp.array([0.1, 1.0, 10.0])), jnp.array([[0.2, 0.4], [0.6, 0.8], [1.0, 1.0]]))
    bands = radial_band((SIZE, SIZE), 2)
    assert bands[0, 0] == 0
    assert bands[SIZE // 2, SIZE // 2] == 1
    np.testing.assert_allclose(table(jnp.asarray(1.0), (SIZE, SIZE)), np.array([0.6, 0.8])[bands], rtol=1e-6)
    half_way = table(jnp.sqrt(jnp.asarray(0.1)), (SIZE, SIZE))
    np.testing.assert_allclose(half_way, np.array([0.4, 0.6])[bands], rtol=1e-5)
    np.testing.assert_allclose(table(jnp.asarray(1e-4), (SIZE, SIZE)), np.array([0.2, 0.4])[bands], rtol=1e-6)


def test_untrained_prior_is_sampled_as_its_twin():
    """With residual variance one the reverse SDE of the Wiener filter is exact in two steps."""
    model = coloured(untrained(), SIZE)
    y, s, noise, context = inputs(0.7)
    y = y.astype(jnp.float32)
    keys = jax.random.split(jax.random.key(3), 1000)
    draws = jax.jit(jax.vmap(lambda key: reverse_sde(key, model, y, s, context, 2)))(keys)
    prior, level = red_power(SIZE), np.asarray(s**2 * noise)
    expected = 0.3 + filtered(y - 0.3, prior / (prior + level))
    ratio = (np.abs(np.fft.fft2(np.asarray(draws) - expected, norm="ortho")[:, 0]) ** 2).mean(axis=0) * (
        1 / prior + 1 / level
    )
    assert ratio.mean() == pytest.approx(1.0, abs=4 * np.sqrt(2.0 / 1000) / SIZE)
    assert np.abs(ratio - 1.0).max() < 4.5 * np.sqrt(2.0 / 1000)


@pytest.mark.usefixtures("x64")
def test_large_scales_can_be_left_to_the_twin():
    """Nothing is corrected at high noise and in the lowest bands, all that was where it is allowed, and no step of the
    flow lies where nothing is."""
    whole = replace(perturbed(), residual_variance=constant_table(0.6, 16))
    limited = with_twin_at_large_scales(whole, 0.3, (0.5, 2.0))
    band = radial_band((SIZE, SIZE), 16)
    corrected = band * np.hypot(0.5, 0.5) / 16 >= 0.3
    for s in (0.1, 3.0):
        y, s, noise, context = inputs(s)
        gaussian = apply(whole.reference, y, s, noise, context)
        ours, theirs = (jnp.fft.fft2(apply(d, y, s, noise, context) - gaussian) for d in (limited, whole))
        assert np.abs(np.asarray(theirs)).min() > 1e-6
        if s > 2.0:
            np.testing.assert_allclose(ours, 0.0, atol=1e-10)
        else:
            np.testing.assert_allclose(ours[0][corrected], theirs[0][corrected], atol=1e-10)
            np.testing.assert_allclose(ours[0][~corrected], 0.0, atol=1e-10)
    variance = limited.residual_variance.values
    assert (float(variance[0, -1]), float(variance[0, 0]), float(variance[-1, -1])) == pytest.approx((0.6, 1.0, 1.0))
    half = float(np.sqrt(0.5 * 2.0))
    np.testing.assert_allclose(
        limited.residual_variance(jnp.asarray(half), (SIZE, SIZE))[4, 4], 1.0 - 0.75 * 0.4, atol=0.02
    )
    span = jnp.linspace(jnp.log(50.0), jnp.log(0.01), 64)
    ends = spread(limited.reference, jnp.ones((SIZE, SIZE)), span, 5, limited.corrects(span))
    # The table is read between its levels, a factor of 1.5 apart.
    assert 2.0 < float(jnp.exp(ends[0])) < 3.2
    assert float(jnp.exp(ends[-1])) == pytest.approx(0.01)
    assert np.all(np.diff(ends) < 0)
    np.testing.assert_array_equal(
        spread(whole.reference, jnp.ones((SIZE, SIZE)), span, 5, whole.corrects(span)),
        spread(whole.reference, jnp.ones((SIZE, SIZE)), span, 5),
    )


@pytest.mark.parametrize(("wavenumber", "levels"), [(-0.1, (1.0, 3.0)), (0.1, (3.0, 1.0)), (0.1, (0.0, 1.0))])
def test_scales_that_make_no_sense_are_refused(wavenumber, levels):
    with pytest.raises(ValueError, match="wavenumber must not be negative and noise_levels positive and ascending"):
        with_twin_at_large_scales(untrained(), wavenumber, levels)


@pytest.mark.usefixtures("x64")
def test_fields_of_known_norm_have_estimates_of_known_norm():
    """Of standardised fields |D|^2 / d + the mean posterior variance is 1 where the noise is low; the score is D's."""
    free = replace(perturbed(), residual_variance=constant_table(0.6, 16))
    known = replace(free, standardised=True)
    assert jax.tree.structure(free) != jax.tree.structure(known)
    for s, held in ((0.05, True), (30.0, False)):
        y, s, noise, context = inputs(s)
        y = 1.3 * y
        left = jnp.mean(free.posterior_variance(y, s, noise, context))
        ours, theirs = (apply(d, y, s, noise, context) for d in (known, free))
        deviation = jnp.mean((ours - 0.3) ** 2) + left - 1.0
        if held:
            assert float(deviation) == pytest.approx(0.0, abs=1e-9)
            ratio = (ours - 0.3) / (theirs - 0.3)
            np.testing.assert_allclose(ratio, ratio[0, 0, 0], rtol=1e-8)
            assert abs(float(ratio[0, 0, 0]) - 1.0) > 0.01
        else:
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        expected = filtered(ours - y, 1.0 / np.sqrt(noise)) / s
        np.testing.assert_allclose(score_of(known, y, s, noise, context), expected, rtol=1e-6, atol=1e-8)
