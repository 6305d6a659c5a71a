"""Diffusion models as NumPyro distributions: shapes, transformations and values, on fields with closed forms."""
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro import handlers
from numpyro.distributions import Distribution, Uniform
from numpyro.infer import Predictive
from numpyro.infer.util import log_density

from bayesdiff.diffusion.densities import Elbo, ProbabilityFlow
from bayesdiff.diffusion.noise import gaussian_log_density
from bayesdiff.distributions import DiffusionPrior, NoisyDiffusion
from tests.diffusion_toys import CONTEXT_BOUNDS, TiltedPower, field_mixture, filtered, red_power, twin_model

SIZE = 8
EVENT = (1, SIZE, SIZE)
CONTEXT = (1.2, -1.0)
MODEL = twin_model(SIZE)
KEY = jax.random.key(0)


@jax.jit
def exact(y, s, context) -> jax.Array:
    """log N(y; 0.3, P + s^2 S)."""
    power = jnp.asarray(red_power(SIZE)) + s**2 * TiltedPower(SIZE)(jnp.stack([*context]))
    return gaussian_log_density(y - 0.3, power)


@pytest.mark.parametrize(
    ("noise_level", "context", "batch"),
    [
        (0.5, CONTEXT, ()),
        (np.array([[0.2], [0.5], [1.0]]), {"amplitude": np.array([0.6, 1.4]), "tilt": 0.0}, (3, 2)),
        (0.5, np.array([[[0.6, 0.0]], [[1.0, -0.5]]]), (2, 1)),
    ],
    ids=["scalar", "level and context", "array"],
)
def test_shapes_and_values_over_batches(noise_level, context, batch):
    noisy = NoisyDiffusion(MODEL, noise_level, context)
    assert (noisy.batch_shape, noisy.event_shape) == (batch, EVENT)
    assert jax.eval_shape(lambda key: noisy.sample(key, (2,)), KEY).shape == (2, *batch, *EVENT)
    y = jax.random.normal(KEY, (2, *batch, *EVENT))
    density = noisy.log_prob(y)
    assert density.shape == (2, *batch)
    assert noisy.log_prob(y[0, ..., :, :, :]).shape == batch
    levels, contexts = jnp.broadcast_to(noise_level, batch), jnp.broadcast_to(MODEL.context_array(context), (*batch, 2))
    truth = jnp.vectorize(exact, signature="(c,h,w),(),(p)->()")(y, levels, contexts)
    np.testing.assert_allclose(density, truth, atol=2e-3)
    assert jax.eval_shape(lambda key: noisy.sample_latent(key, y), KEY).shape == (2, *batch, *EVENT)
    prior = DiffusionPrior(MODEL, context)
    assert jax.eval_shape(lambda key: prior.sample(key, (2,)), KEY).shape == (2, *prior.batch_shape, *EVENT)
    assert prior.log_prob(y).shape == (2, *batch)


def test_empty_sample_shape_and_raw_keys():
    noisy = NoisyDiffusion(MODEL, 0.5, CONTEXT)
    raw = jax.random.PRNGKey(0)
    assert noisy.sample(KEY).shape == EVENT
    assert jax.eval_shape(lambda key: noisy.sample(key, (3,)), raw).shape == (3, *EVENT)
    assert jax.eval_shape(lambda key: noisy.sample_latent(key, jnp.zeros((3, *EVENT))), raw).shape == (3, *EVENT)


def test_samples_have_the_power_of_signal_and_noise():
    levels = np.array([0.3, 2.0])
    num = 1000
    y = np.asarray(
        jax.jit(lambda key: NoisyDiffusion(MODEL, levels, CONTEXT).sample(key, (num,)))(KEY), dtype=np.float64
    )
    x = np.asarray(jax.jit(lambda key: DiffusionPrior(MODEL, CONTEXT).sample(key, (num,)))(KEY), dtype=np.float64)
    noise = np.asarray(TiltedPower(SIZE)(jnp.array(CONTEXT)))
    for fields, power in [
        (x, red_power(SIZE)),
        *((y[:, i], red_power(SIZE) + s**2 * noise) for i, s in enumerate(levels)),
    ]:
        ratio = (np.abs(np.fft.fft2(fields - 0.3, norm="ortho")[:, 0]) ** 2).mean(axis=0) / power
        assert np.abs(ratio - 1.0).max() < 4.5 * np.sqrt(2.0 / num)
        assert ratio.mean() == pytest.approx(1.0, abs=4 * np.sqrt(2.0 / num) / SIZE)


def test_same_key_same_draw():
    noisy = NoisyDiffusion(MODEL, np.array([0.5, 0.5]), CONTEXT)
    first, second = noisy.sample(KEY), noisy.sample(KEY)
    np.testing.assert_array_equal(first, second)
    assert np.abs(first[0] - first[1]).max() > 0.1


def test_diffusion_time_and_score():
    levels = np.array([0.2, 1.0])
    noisy = NoisyDiffusion(MODEL, levels, CONTEXT)
    t = noisy.diffusion_time
    np.testing.assert_allclose(MODEL.schedule.sigma(t) / MODEL.schedule.alpha(t), levels, rtol=1e-4)
    z = jax.random.normal(KEY, EVENT)
    alpha = MODEL.schedule.alpha(t[1])
    gradient = jax.grad(lambda z: exact(z / alpha, 1.0, CONTEXT))(z)
    np.testing.assert_allclose(DiffusionPrior(MODEL, CONTEXT).score(z, t[1]), gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "log_density", [None, Elbo(4, 1), ProbabilityFlow("hutchinson", 2, 1)], ids=["best", "elbo", "flow"]
)
def test_gradients_flow_under_jit_and_vmap(log_density):
    y = jax.random.normal(KEY, EVENT)

    def density(s, amplitude, tilt):
        return NoisyDiffusion(MODEL, s, (amplitude, tilt), log_density).log_prob(y)

    points = jnp.array([0.3, 0.5, 1.0]), jnp.array([0.8, 1.2, 1.4]), jnp.array([0.5, -1.0, 0.0])
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(density, argnums=(0, 1, 2))))(*points)
    expected = jax.vmap(jax.value_and_grad(lambda s, a, b: exact(y, s, (a, b)), argnums=(0, 1, 2)))(*points)
    np.testing.assert_allclose(values, expected[0], atol=1e-3)
    for found, truth in zip(gradients, expected[1], strict=True):
        np.testing.assert_allclose(found, truth, rtol=1e-3, atol=1e-2)


def test_new_values_do_not_recompile():
    traces = []

    @jax.jit
    def density(s, context, y):
        traces.append(1)
        return NoisyDiffusion(MODEL, s, context).log_prob(y)

    for seed in range(3):
        density(0.1 + 0.2 * seed, (1.0 + 0.1 * seed, -0.3), jnp.full(EVENT, float(seed)))
    assert len(traces) == 1


def numpyro_model(y=None):
    amplitude = numpyro.sample("amplitude", Uniform(0.5, 2.0))
    s = numpyro.sample("s", Uniform(0.1, 2.0))
    return numpyro.sample("y", NoisyDiffusion(MODEL, s, (amplitude, 0.0)), obs=y)


def test_handlers():
    y = jax.random.normal(KEY, EVENT)
    values = {"amplitude": jnp.asarray(1.1), "s": jnp.asarray(0.7)}
    conditioned = handlers.condition(numpyro_model, values)
    trace = handlers.trace(handlers.seed(conditioned, KEY)).get_trace(y)
    assert trace["y"]["is_observed"]
    site = trace["y"]["fn"].log_prob(trace["y"]["value"])
    assert float(site) == pytest.approx(float(exact(y, 0.7, (1.1, 0.0))), abs=1e-3)
    substituted = handlers.trace(handlers.seed(handlers.substitute(numpyro_model, values), KEY)).get_trace(y)
    np.testing.assert_allclose(substituted["s"]["value"], 0.7, rtol=1e-6)
    total, _ = log_density(numpyro_model, (y,), {}, values)
    assert float(total) == pytest.approx(float(site) - np.log(1.5) - np.log(1.9), abs=1e-3)


def test_predictive_and_plate():
    drawn = Predictive(numpyro_model, posterior_samples={"amplitude": jnp.full(4, 1.0), "s": jnp.full(4, 0.5)})(KEY)
    assert drawn["y"].shape == (4, *EVENT)
    assert np.isfinite(drawn["y"]).all()

    def model():
        with numpyro.plate("maps", 3):
            s = numpyro.sample("s", Uniform(0.1, 1.0))
            return numpyro.sample("y", NoisyDiffusion(MODEL, s, CONTEXT))

    trace = handlers.trace(handlers.seed(model, KEY)).get_trace()
    assert trace["y"]["value"].shape == (3, *EVENT)
    assert np.abs(np.diff(trace["y"]["value"], axis=0)).max() > 0.1
    assert trace["y"]["fn"].log_prob(trace["y"]["value"]).shape == (3,)


@pytest.mark.parametrize("log_density", [None, Elbo(4, 2)], ids=["exact", "elbo"])
def test_pytree_round_trip(log_density):
    noisy = NoisyDiffusion(MODEL, np.array([0.3, 0.6]), CONTEXT, log_density)
    y = jax.random.normal(KEY, (2, *EVENT))
    leaves, structure = jax.tree.flatten(noisy)
    rebuilt = jax.tree.unflatten(structure, leaves)
    assert isinstance(rebuilt, NoisyDiffusion)
    assert (rebuilt.batch_shape, rebuilt.event_shape) == ((2,), EVENT)
    expected = noisy.log_prob(y)
    np.testing.assert_array_equal(rebuilt.log_prob(y), expected)
    through = jax.jit(lambda d: (d, d.log_prob(y)))(noisy)
    np.testing.assert_allclose(through[1], expected, rtol=1e-5)
    np.testing.assert_array_equal(through[0].noise_level, noisy.noise_level)
    prior = jax.tree.map(lambda leaf: leaf, DiffusionPrior(MODEL, CONTEXT))
    assert isinstance(prior, Distribution)
    assert np.isfinite(prior.log_prob(y)).all()


def test_prior_density_is_that_of_the_field():
    x = filtered(np.random.default_rng(0).normal(size=(3, *EVENT)), np.sqrt(red_power(SIZE))).astype(np.float32)
    np.testing.assert_allclose(
        DiffusionPrior(MODEL, CONTEXT).log_prob(x), gaussian_log_density(x - 0.3, red_power(SIZE)), rtol=1e-4
    )
    mixture = field_mixture(SIZE)
    found = DiffusionPrior(mixture, CONTEXT, ProbabilityFlow("hutchinson", 48, 32)).log_prob(x[0])
    twin = mixture.twin.log_density(x[0], 0.0, jnp.ones((SIZE, SIZE)))
    truth = mixture.denoiser.log_density(x[0], 0.0, jnp.ones((SIZE, SIZE)))
    assert abs(float(truth - twin)) > 1.0
    assert float(found) == pytest.approx(float(truth), abs=0.5)


OUTSIDE = [
    (0.5, (2.5, 0.0), r"amplitude must lie in \[0.5, 2\] \(the range the model was trained on\), got 2.5"),
    (0.5, {"amplitude": 1.0, "tilt": np.array([0.0, -2.1])}, r"tilt must lie in \[-2, 1\].* got -2.1"),
    (0.5, (np.nan, 0.0), "amplitude must lie in .* got nan"),
    (500.0, CONTEXT, r"noise_level must lie in \[0, 152\.\d+\] \(the range of VPLinear.* got 500"),
    (-0.1, CONTEXT, "noise_level must lie in .* got -0.1"),
]


@pytest.mark.parametrize(
    ("noise_level", "context", "message"), OUTSIDE, ids=["context", "dict", "nan", "level", "negative"]
)
def test_concrete_parameters_outside_are_refused_by_name(noise_level, context, message):
    with pytest.raises(ValueError, match=message):
        NoisyDiffusion(MODEL, noise_level, context)
    if "noise_level" not in message:
        with pytest.raises(ValueError, match=message):
            DiffusionPrior(MODEL, context)


def test_constants_are_refused_under_jit_too():
    with pytest.raises(ValueError, match="amplitude must lie in"):
        jax.jit(lambda y: NoisyDiffusion(MODEL, 0.5, (2.5, 0.0)).log_prob(y))(jnp.zeros(EVENT))


def test_traced_parameters_outside_have_density_zero_and_finite_gradients():
    y = jnp.zeros(EVENT)

    def density(s, amplitude):
        return NoisyDiffusion(MODEL, s, (amplitude, 0.0)).log_prob(y)

    run = jax.jit(jax.vmap(jax.value_and_grad(density, argnums=(0, 1))))
    values, gradients = run(jnp.array([0.5, 0.5, 500.0, -0.1, jnp.nan, 0.5]), jnp.array([1.0, 2.5, 1.0, 1.0, 1.0, 0.5]))
    np.testing.assert_array_equal(np.isfinite(values), [True, False, False, False, False, True])
    assert (values[1:5] == -np.inf).all()
    assert np.isfinite(gradients).all()
    prior = jax.jit(lambda a: DiffusionPrior(MODEL, (a, 0.0)).log_prob(y))
    assert np.isfinite(prior(1.0))
    assert prior(2.5) == -np.inf


def test_traced_parameters_outside_draw_nan():
    y = jnp.zeros(EVENT)
    draw = jax.jit(lambda a, s: NoisyDiffusion(MODEL, s, (a, 0.0)).sample(KEY))
    latent = jax.jit(lambda a, s: NoisyDiffusion(MODEL, s, (a, 0.0)).sample_latent(KEY, y, 2))
    for function in (draw, latent):
        assert np.isfinite(function(1.0, 0.5)).all()
        assert np.isnan(function(2.5, 0.5)).all()
        assert np.isnan(function(1.0, 500.0)).all()


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ((1.0,), r"context must hold 2 values \('amplitude', 'tilt'\), got shape \(1,\)"),
        (None, "context must hold 2 values"),
        (1.0, r"context must hold 2 values .* got shape \(\)"),
        (
            {"amplitude": 1.0, "slope": 0.0},
            r"must have the names \('amplitude', 'tilt'\), got \('amplitude', 'slope'\)",
        ),
    ],
    ids=["number", "none", "scalar", "names"],
)
def test_contexts_that_do_not_fit_are_refused(context, message):
    with pytest.raises(ValueError, match=message):
        NoisyDiffusion(MODEL, 0.5, context)


def test_bad_observations_are_refused():
    noisy = NoisyDiffusion(MODEL, 0.5, CONTEXT)
    y = np.zeros((2, *EVENT), dtype=np.float32)
    y[1, 0, 2, 3] = np.nan
    y[1, 0, 5, 5] = np.inf
    with pytest.raises(
        ValueError, match=r"y must be finite, got 2 NaN or infinite values, the first at index \(1, 0, 2, 3\)"
    ):
        noisy.sample_latent(KEY, y)
    for shape in [(1, SIZE, SIZE + 1), (2, SIZE, SIZE), (SIZE, SIZE)]:
        with pytest.raises(ValueError, match=r"must have shape \(\.\.\., 1, 8, 8\), got"):
            noisy.sample_latent(KEY, np.zeros(shape))
        with pytest.raises(ValueError, match=r"must have shape \(\.\.\., 1, 8, 8\), got"):
            noisy.log_prob(np.zeros(shape))
        with pytest.raises(ValueError, match=r"must have shape \(\.\.\., 1, 8, 8\), got"):
            DiffusionPrior(MODEL, CONTEXT).log_prob(np.zeros(shape))


def test_integer_maps_are_fields():
    noisy = NoisyDiffusion(MODEL, 0.5, CONTEXT)
    y = np.arange(SIZE * SIZE).reshape(EVENT) % 3
    assert np.isfinite(noisy.sample_latent(KEY, y, 2)).all()
    assert float(noisy.log_prob(y)) == pytest.approx(float(exact(y.astype(np.float32), 0.5, CONTEXT)), abs=1e-3)


def test_learned_bounds_are_those_of_the_model():
    assert MODEL.context_bounds == CONTEXT_BOUNDS
    inside = MODEL.context_inside(jnp.array([[1.0, 0.0], [0.4, 0.0], [1.0, 1.1], [jnp.nan, 0.0]]))
    np.testing.assert_array_equal(inside, [True, False, False, False])


def test_latent_draws_are_a_split_of_the_observation():
    """As the noise level falls, x | y tends to y, with the error that the noise explains."""
    y = jax.random.normal(KEY, EVENT)
    x = NoisyDiffusion(MODEL, 0.01, CONTEXT).sample_latent(KEY, y, 4)
    whitened = filtered((y - x) / 0.01, TiltedPower(SIZE)(jnp.array(CONTEXT)) ** -0.5)
    assert whitened.std() == pytest.approx(1.0, abs=0.35)
