"""Log densities against closed forms: a Gaussian field in coloured noise, and two mixtures far from Gaussian."""

from __future__ import annotations

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

from bayesdiff.diffusion.denoiser import GaussianDenoiser
from bayesdiff.diffusion.densities import Elbo, Exact, ProbabilityFlow, Twin, best_log_density
from bayesdiff.diffusion.elbo import balanced_noise
from bayesdiff.diffusion.noise import gaussian_log_density
from bayesdiff.diffusion.samplers import reverse_sde
from bayesdiff.diffusion.schedules import Cosine
from tests.diffusion_toys import (
    NO_CONTEXT,
    Opaque,
    coloured,
    field_mixture,
    filtered,
    pixel_mixture,
    red_power,
    twin_model,
)

pytestmark = pytest.mark.usefixtures("x64")

CONTEXT, S = (1.2, -1.0), 0.6


def observation(model, seed: int = 0, s: float = S) -> jax.Array:
    """A draw of the twin's y at the standard parameters."""
    size = model.event_shape[-1]
    noise = np.asarray(model.noise_power(jnp.array(CONTEXT)))
    white = np.random.default_rng(seed).normal(size=(1, size, size))
    mean = 0.0 if model.twin is None else model.twin.mean
    return jnp.asarray(mean + filtered(white, np.sqrt(red_power(size) + s**2 * noise)))


def exact(model, y, s, context):
    """log N(y; mu, P + s^2 S), written out."""
    size = model.event_shape[-1]
    power = jnp.asarray(red_power(size)) + s**2 * model.noise_power(context)
    periodogram = jnp.abs(jnp.fft.fft2(y - 0.3, norm="ortho")) ** 2
    return -0.5 * jnp.sum(periodogram / power + jnp.log(2 * jnp.pi * power))


def unit_reference(size: int) -> GaussianDenoiser:
    return GaussianDenoiser(jnp.ones((size, size)))


def assert_unbiased(estimates, truth: float, largest_error: float) -> None:
    """Independent estimates average to the truth within 3 standard errors, small enough to mean something."""
    estimates = np.asarray(estimates, dtype=np.float64)
    error = estimates.std(ddof=1) / np.sqrt(len(estimates))
    assert error < largest_error
    assert abs(estimates.mean() - truth) < 3 * error + 1e-9


def test_closed_forms_of_the_twin_are_exact():
    model = twin_model(16)
    y, context = observation(model), jnp.array(CONTEXT)
    truth = float(exact(model, y, S, context))
    for estimator in (
        Exact(),
        ProbabilityFlow(divergence="exact", num_steps=2),
        Elbo(num_times=4, num_noise=2),
        best_log_density(model),
    ):
        value, error = estimator.estimate(model, y, jnp.asarray(S), context)
        assert float(value) == pytest.approx(truth, abs=1e-9)
        assert float(error) == pytest.approx(0.0, abs=1e-9)
    assert float(Twin(jnp.zeros(1))(model, y, S, context)) == pytest.approx(truth, abs=1e-9)


def test_flow_from_a_wrong_reference_finds_the_density():
    model = twin_model(16)
    flow = ProbabilityFlow("exact", num_steps=24, reference=unit_reference(16), solver=diffrax.Dopri5())
    density = jax.jit(lambda y, s, context: flow(model, y, s, context))
    rng = np.random.default_rng(1)
    for seed in range(4):
        context = jnp.array([rng.uniform(0.5, 2.0), rng.uniform(-2.0, 1.0)])
        s = rng.uniform(0.2, 1.5)
        y = observation(model, seed)
        assert float(density(y, s, context)) == pytest.approx(float(exact(model, y, s, context)), abs=0.05)


def test_hutchinson_is_unbiased_and_knows_its_error():
    model = twin_model(8)
    y, context = observation(model), jnp.array(CONTEXT)
    settings = {"num_steps": 16, "reference": unit_reference(8), "solver": diffrax.Dopri5()}
    estimate = jax.jit(
        jax.vmap(
            lambda key: ProbabilityFlow("hutchinson", num_probes=8, key=key, **settings).estimate(model, y, S, context)
        )
    )
    values, errors = estimate(jax.random.split(jax.random.key(0), 24))
    assert_unbiased(values, float(exact(model, y, S, context)), largest_error=0.5)
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(np.std(values, ddof=1), rel=0.5)


@pytest.fixture(scope="module")
def elbo_without_reference():
    """The published bound and its gradient on the twin at 16 x 16, as a function of the seed and the parameters."""
    with jax.enable_x64(True):
        model = twin_model(16)
        y = observation(model)

        def bound(key, s, context):
            return Elbo(key=key, reference=False)(model, y, s, context)

        return model, y, jax.jit(jax.vmap(bound, in_axes=(0, None, None)))


def test_bound_without_reference_is_unbiased(elbo_without_reference):
    model, y, bound = elbo_without_reference
    values = bound(jax.random.split(jax.random.key(0), 24), S, jnp.array(CONTEXT))
    assert_unbiased(values, float(exact(model, y, S, jnp.array(CONTEXT))), largest_error=3.0)


def test_differences_of_the_bound_are_precise(elbo_without_reference):
    model, y, bound = elbo_without_reference
    context = jnp.array(CONTEXT)
    curvature = -jax.grad(jax.grad(lambda s: exact(model, y, s, context)))(S)
    width = float(curvature**-0.5)
    keys = jax.random.split(jax.random.key(1), 24)
    differences = bound(keys, S + width, context) - bound(keys, S, context)
    assert np.std(differences, ddof=1) < 0.25
    truth = float(exact(model, y, S + width, context) - exact(model, y, S, context))
    assert abs(truth) > 0.1
    assert_unbiased(differences, truth, largest_error=0.06)


def test_bound_sees_a_denoiser_that_is_off_by_a_constant():
    """With D + c the integrand changes by |c / s'|^2 + 2 c . E[r] / s', an integral in closed form."""

    class Shifted(Opaque):
        def __call__(self, y, s, noise_power, context):
            return super().__call__(y, s, noise_power, context) + 0.2

    jax.tree_util.register_dataclass(Shifted, data_fields=["hidden"], meta_fields=[])
    mixture = pixel_mixture()
    gaussian = GaussianDenoiser(jnp.full((2, 2), 0.8))
    right, wrong = (
        type(mixture)(denoiser, mixture.schedule, mixture.noise, mixture.event_shape)
        for denoiser in (Opaque(gaussian), Shifted(gaussian))
    )
    y = jnp.array([0.4, -1.0, 0.2, 1.3]).reshape(1, 2, 2)
    keys = jax.random.split(jax.random.key(2), 64)
    values = [
        jax.vmap(lambda k, m=m: Elbo(64, 8, k, reference=False)(m, y, S, NO_CONTEXT))(keys) for m in (right, wrong)
    ]
    truth = float(gaussian_log_density(y, jnp.full((2, 2), 0.8 + S**2)))
    assert_unbiased(values[0], truth, largest_error=0.05)

    def integrand(tau):
        s = jnp.exp(tau)
        fraction = s**2 / (0.8 + s**2)
        bias = 0.2 / s
        mean_r = -fraction * y / s
        return jnp.sum(bias**2 + 2.0 * bias * mean_r)

    tau = np.linspace(np.log(S), np.log(float(mixture.noise_levels()[1])), 20001)
    cost = np.trapezoid(jax.vmap(integrand)(jnp.asarray(tau)), tau)
    assert_unbiased(values[1], truth - cost, largest_error=0.05)


@pytest.mark.parametrize("reference", [None, 8], ids=["twin", "unit power"])
def test_gradients_of_the_flow_are_those_of_the_closed_form(reference):
    # At t = 1 the flow takes the field to be the reference: with one of the wrong power, that needs a high noise level.
    model = twin_model(8, Cosine(log_snr_max=16.0))
    y = observation(model)
    flow = ProbabilityFlow(
        "exact",
        num_steps=40,
        reference=reference and unit_reference(reference),
        solver=diffrax.Dopri5() if reference else None,
    )
    gradient = jax.jit(jax.grad(lambda s, context: flow(model, y, s, context), argnums=(0, 1)))
    truth = jax.grad(lambda s, context: exact(model, y, s, context), argnums=(0, 1))
    for s, context in ((0.6, CONTEXT), (1.1, (0.8, 0.4))):
        found, expected = gradient(s, jnp.array(context)), truth(s, jnp.array(context))
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-3)
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-3, atol=1e-3)


def test_fishers_identity_on_posterior_draws():
    model = twin_model(8)
    y, s, context = observation(model, seed=3), jnp.asarray(0.9), jnp.array([1.0, -0.2])
    keys = jax.random.split(jax.random.key(4), 4000)
    draws = jax.jit(jax.vmap(lambda key: reverse_sde(key, model, y, s, context, num_steps=3)))(keys)

    def complete(x, parameters):
        return gaussian_log_density(y - x, parameters[0] ** 2 * model.noise_power(parameters[1:]))

    parameters = jnp.concatenate([s[None], context])
    gradients = np.asarray(jax.jit(jax.vmap(jax.grad(complete, argnums=1), in_axes=(0, None)))(draws, parameters))
    expected = np.asarray(jax.grad(lambda p: exact(model, y, p[0], p[1:]))(parameters))
    error = gradients.std(axis=0) / np.sqrt(len(gradients))
    assert (np.abs(expected) > 10 * error).all()
    assert (np.abs(gradients.mean(axis=0) - expected) < 4 * error).all()


# Beyond the Gaussian: a mixture per pixel, whose denoiser bends, and a mixture of two power spectra in coloured noise.

PIXELS = [np.array([-1.5, 0.0, 0.3, 2.0]), np.array([0.9, 0.9, -1.2, -0.2])]


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_flow_finds_the_density_of_a_pixel_mixture(divergence):
    model = pixel_mixture()
    # The Jacobian of independent pixels is diagonal, so that random signs give its trace without error.
    flow = ProbabilityFlow(divergence, num_steps=64, solver=diffrax.Dopri5())
    density = jax.jit(lambda y, s: flow(model, y, s, NO_CONTEXT))
    for s in (0.15, 0.6, 2.0):
        for pixels in PIXELS:
            y = jnp.asarray(pixels).reshape(1, 2, 2)
            assert float(density(y, s)) == pytest.approx(float(model.denoiser.log_density(y, s)), abs=2e-3)


@pytest.mark.parametrize("with_twin", [False, True], ids=["as published", "with the twin"])
def test_bound_of_an_exact_denoiser_is_the_density_of_a_pixel_mixture(with_twin):
    model = pixel_mixture(with_twin)
    bound = jax.jit(jax.vmap(lambda key, y, s: Elbo(64, 4, key)(model, y, s, NO_CONTEXT), in_axes=(0, None, None)))
    for s in (0.15, 0.6):
        for pixels in PIXELS:
            y = jnp.asarray(pixels).reshape(1, 2, 2)
            values = bound(jax.random.split(jax.random.key(5), 64), y, s)
            assert_unbiased(values, float(model.denoiser.log_density(y, s)), largest_error=0.05)


def test_mixtures_are_far_from_their_twins():
    model = pixel_mixture(with_twin=True)
    y = jnp.asarray(PIXELS[0]).reshape(1, 2, 2)
    assert abs(float(Twin(jnp.zeros(1))(model, y, 0.15, NO_CONTEXT) - model.denoiser.log_density(y, 0.15))) > 0.5


def mixture_observation(model) -> jax.Array:
    white = np.random.default_rng(7).normal(size=model.event_shape)
    noise = np.asarray(model.noise_power(jnp.array(CONTEXT)))
    return jnp.asarray(filtered(white, np.sqrt(0.7 * np.asarray(model.twin.power) + S**2 * noise)))


@pytest.mark.slow
def test_flow_finds_density_and_gradients_of_a_field_mixture():
    model = field_mixture(8)
    y = mixture_observation(model)
    flow = ProbabilityFlow("exact", num_steps=96)

    def truth(s, context):
        return model.denoiser.log_density(y, s, model.noise_power(context))

    value_and_gradient = jax.jit(jax.value_and_grad(lambda s, context: flow(model, y, s, context), argnums=(0, 1)))
    value, gradient = value_and_gradient(S, jnp.array(CONTEXT))
    expected = jax.grad(truth, argnums=(0, 1))(S, jnp.array(CONTEXT))
    assert float(value) == pytest.approx(float(truth(S, jnp.array(CONTEXT))), abs=5e-3)
    twin = Twin(jnp.zeros(1))(model, y, S, jnp.array(CONTEXT))
    assert abs(float(value - twin)) > 1.0
    np.testing.assert_allclose(gradient[0], expected[0], rtol=2e-3)
    np.testing.assert_allclose(gradient[1], expected[1], rtol=2e-3, atol=1e-2)


def test_bound_with_the_twin_finds_density_and_gradients_of_a_field_mixture():
    model = field_mixture(8)
    y = mixture_observation(model)

    def bound(key, s, context):
        return Elbo(64, 4, key)(model, y, s, context)

    def truth(s, context):
        return model.denoiser.log_density(y, s, model.noise_power(context))

    run = jax.jit(jax.vmap(jax.value_and_grad(bound, argnums=(1, 2)), in_axes=(0, None, None)))
    values, (of_level, of_context) = run(jax.random.split(jax.random.key(8), 24), S, jnp.array(CONTEXT))
    assert_unbiased(values, float(truth(S, jnp.array(CONTEXT))), largest_error=0.3)
    expected = jax.grad(truth, argnums=(0, 1))(S, jnp.array(CONTEXT))
    for estimates, gradient in zip((of_level, *of_context.T), (expected[0], *expected[1]), strict=True):
        assert_unbiased(estimates, float(gradient), largest_error=max(1.0, 0.1 * abs(float(gradient))))


def test_noise_of_the_bound_is_white_and_balanced():
    noise = np.asarray(jax.jit(lambda key: balanced_noise(key, 64, (1, 16, 16), jnp.float64))(jax.random.key(1)))
    flat = noise.reshape(64, 256)
    covariance = flat @ flat.T / 256
    assert (covariance - np.eye(64))[~np.eye(64, dtype=bool)].std() == pytest.approx(1 / 16, rel=0.1)
    assert np.abs(covariance - np.eye(64)).max() < 5 / 16
    modes = np.fft.fft2(noise, norm="ortho")
    coefficients = (modes.real - modes.imag).reshape(8, 8, 256)  # Hartley: as many real numbers as pixels
    assert kstest(coefficients.ravel(), "norm").pvalue > 1e-3
    # Sums of 8 squares would have variance 16; a Latin hypercube leaves little of it.
    assert (coefficients**2).sum(axis=1).var() < 5.0


def test_estimators_are_deterministic_and_survive_transformations():
    model = field_mixture(4)
    y, context = jnp.zeros((1, 4, 4)), jnp.array(CONTEXT)
    for make in (lambda key: Elbo(8, 2, key), lambda key: ProbabilityFlow("hutchinson", 4, 2, key)):
        evaluate = jax.jit(lambda estimator: estimator(model, y, S, context))
        first, second, other = (float(evaluate(make(key))) for key in (1, 1, 2))
        assert first == second
        assert first != other
        assert float(evaluate(jax.tree.map(lambda leaf: leaf, make(1)))) == first


@pytest.mark.parametrize("reference", [True, False])
def test_bound_is_finite_where_strata_touch_the_observation(reference):
    """Random offsets near zero must not divide zero by zero; float32 resolves s' - s worst."""
    with jax.enable_x64(False):
        model = field_mixture(4)
        y, context = jnp.ones((1, 4, 4)), jnp.array(CONTEXT)
        for s in (0.6, model.noise_levels()[1]):
            bound = jax.vmap(
                jax.value_and_grad(lambda k, s: Elbo(512, 1, k, reference)(model, y, s, context), argnums=1), (0, None)
            )
            value, gradient = jax.jit(bound)(jax.random.split(jax.random.key(0), 64), jnp.asarray(s))
            assert np.isfinite(value).all()
            assert np.isfinite(gradient).all()


def test_twin_with_free_amplitude_averages_densities():
    model = twin_model(8)
    y, context = observation(model), jnp.array(CONTEXT)
    noise = model.noise_power(context)
    amplitudes = jnp.array([-0.5, 0.0, 0.7])
    each = [GaussianDenoiser(jnp.exp(a) * red_power(8), 0.3).log_density(y, S, noise) for a in amplitudes]
    expected = np.log(np.mean(np.exp(np.array(each) - max(each)))) + max(each)
    assert float(Twin(amplitudes)(model, y, S, context)) == pytest.approx(float(expected), abs=1e-9)


def test_estimators_refuse_what_they_cannot_do():
    model = coloured(Opaque(unit_reference(4)), 4)
    y, context = jnp.zeros((1, 4, 4)), jnp.array(CONTEXT)
    with pytest.raises(ValueError, match="Exact needs a GaussianDenoiser, got Opaque"):
        Exact()(model, y, S, context)
    with pytest.raises(ValueError, match="no Gaussian twin"):
        Twin(jnp.zeros(1))(model, y, S, context)
    with pytest.raises(ValueError, match='"exact" or "hutchinson", got \'trace\''):
        ProbabilityFlow("trace")
    with pytest.raises(ValueError, match="must be positive, got 0 and 4"):
        Elbo(num_times=0)
